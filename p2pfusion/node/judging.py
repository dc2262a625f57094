"""Segments before the gate: small ones are judged at once, large ones beside the loop, all that wait in one go.

The way to another thread and back costs as much as the judgement of a quarter of a mebibyte; when segments come faster
than they are judged, those that wait share it. It decides nothing: `swarm.gate` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.seams import Compute
from p2pfusion.swarm.gate import judge_segment
from p2pfusion.swarm.haste import LARGE_BYTES
from p2pfusion.wire.messages import Contribution

Judgement = Callable[[], str | None]


class Judging:
    """One queue before the gate. It holds what was fetched and not judged yet, so what bounds fetching bounds it."""

    def __init__(self, compute: Compute, blueprint: Blueprint, group: asyncio.TaskGroup) -> None:
        self._compute = compute
        self._blueprint = blueprint
        self._group = group
        self._waiting: list[tuple[Judgement, asyncio.Future[str | None]]] = []
        self._is_busy = False

    async def reason(self, manifest: Contribution, index: int, data: memoryview) -> str | None:
        """Why these bytes are refused as that segment, or None. They must not change meanwhile."""
        judge = partial(judge_segment, manifest, index, data, self._blueprint)
        if data.nbytes <= LARGE_BYTES:
            return judge()
        judged: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((judge, judged))
        if not self._is_busy:
            self._is_busy = True
            self._group.create_task(self._work())
        return await judged

    async def _work(self) -> None:
        """Until nobody waits."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            reasons = await self._compute.run(partial(_all, [judge for judge, _ in batch]), lane="gate")
            for (_, judged), reason in zip(batch, reasons, strict=True):
                if not judged.done():  # else whoever waited was cut off
                    judged.set_result(reason)
        self._is_busy = False


def _all(judgements: Sequence[Judgement]) -> list[str | None]:
    return [judge() for judge in judgements]

"""Segments before the gate: small ones are judged at once, large ones beside the loop, all that wait in one go.

The way to another thread and back costs as much as the judgement of a quarter of a mebibyte; when segments come faster
than they are judged, those that wait share it. What a judgement costs follows from the elements a segment opens to, not
from its bytes alone: a few of them may stand for very many elements. It decides nothing: `swarm.gate` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.seams import Compute
from p2pfusion.swarm.gate import judge_segment
from p2pfusion.swarm.haste import LARGE_BYTES
from p2pfusion.wire.compression import elements_per_segment
from p2pfusion.wire.messages import Contribution

LOOP_ELEMENTS_MAX = 1 << 16
"""Elements judged on the loop at once, for one segment that was fetched or for all of one call: 2 ms at most."""

Judgement = Callable[[], str | None]


class Judging:
    """One queue before the gate. It holds what came and was not judged yet: whoever brings it bounds that."""

    def __init__(self, compute: Compute, blueprint: Blueprint, group: asyncio.TaskGroup) -> None:
        self._compute = compute
        self._blueprint = blueprint
        self._group = group
        self._waiting: list[tuple[Judgement, asyncio.Future[str | None]]] = []
        self._is_busy = False

    async def reason(self, manifest: Contribution, index: int, data: memoryview) -> str | None:
        """Why these bytes are refused as that segment, or None. They must not change meanwhile."""
        if data.nbytes <= LARGE_BYTES and elements_of(manifest, index, self._blueprint) <= LOOP_ELEMENTS_MAX:
            return judge_segment(manifest, index, data, self._blueprint)
        return await self.beside(manifest, index, data)

    async def beside(self, manifest: Contribution, index: int, data: memoryview) -> str | None:
        """The same, never on the loop."""
        judge = partial(judge_segment, manifest, index, data, self._blueprint)
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


def elements_of(manifest: Contribution, index: int, blueprint: Blueprint) -> int:
    """Elements that a segment of a manifest that passed the gate opens to; 0 for ids, and where there is none."""
    step = elements_per_segment(manifest.codec)
    return max(0, min(step, manifest.sub_model.size(blueprint) - index * step))


def _all(judgements: Sequence[Judgement]) -> list[str | None]:
    return [judge() for judge in judgements]

"""What a node offers an algorithm for one round (`algorithms.base.RoundContext`), and the watch it holds meanwhile.

It measures by the loop's time what computing took, so that `swarm.pace` learns how many steps this device has time for.
It knows no algorithm.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from p2pfusion.algorithms.base import Published, Vector
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import LocalError
from p2pfusion.node.authoring import Authoring, Base
from p2pfusion.node.state import State

T = TypeVar("T")


class Context:
    """One round's `RoundContext`; the round begins as it is made."""

    def __init__(self, state: State, authoring: Authoring, seat: Seat, should_stop: Callable[[], bool]) -> None:
        self._state = state
        self._authoring = authoring
        self._base = Base(0, b"")
        self._begin_s = state.now_s()
        self._computed_s = 0.0
        self._steps: int | None = None
        self.seat = seat
        self.should_stop = should_stop
        self.published: Published | None = None
        self.published_round: int | None = None

    @property
    def round(self) -> int:
        return self.seat.round

    @property
    def rng(self) -> random.Random:
        return self._state.doors.rng

    def steps(self, wanted: int) -> int:
        if wanted < 1:
            raise LocalError(f"a round of {wanted} steps: want at least one")
        if self._steps is None:
            self._steps = self._state.cadence.pace.steps(wanted)
        return min(self._steps, wanted)

    async def extract(self, sub_model: SubModel) -> Vector:
        values, self._base = await self._authoring.head(sub_model)
        return values

    async def newer(self, sub_model: SubModel) -> Vector | None:
        if self._state.ledger.floor <= self.round:
            return None
        values, _ = await self._authoring.head(sub_model)
        return values

    async def compute(self, work: Callable[[], T], cost_s: float) -> T:
        begin_s = self._state.now_s()
        try:
            return await self._state.doors.compute.run(work, cost_s=cost_s, lane="train")
        finally:
            self._computed_s += self._state.now_s() - begin_s

    async def contribute(
        self,
        sub_model: SubModel,
        delta: Vector,
        samples: int,
        loss: float,
        worth: float = 1.0,
        trained: SubModel | None = None,
    ) -> None:
        if self.published is not None:
            raise LocalError("a round contributes at most once")
        self.published = Published(trained or sub_model, loss, samples, self._steps or 0)
        if self.should_stop():
            return
        entry = await self._authoring.publish(sub_model, delta, samples, self._base, worth)
        self.published_round = entry.manifest.round if entry is not None else None
        if self._steps is not None:
            rest_s = self._state.now_s() - self._begin_s - self._computed_s
            self._state.cadence.pace.trained(self._steps, self._computed_s, rest_s)

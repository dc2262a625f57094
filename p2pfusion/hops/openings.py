"""The rounds that are open at a relay, one a shard: what owners' copies start from, and what they have learnt.

A round of a shard opens with its head's values and closes when every owner with a seat there has handed in, or is late:
who trains as long again as the first to hand in took is left behind, and what its copy learnt counts as it is. The mean
over owners goes to the shard's ledger. Sums run in the owners' order.

Owned by the loop thread. Knows no tensors' meaning, no network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from p2pfusion.core.submodel import Vector

LATE_SHARE = 1.0
"""How much longer than the first owner the others may take, as a share of what it took."""
LATE_MIN_S = 1.0
"""But at least so long: rounds can be shorter than a network's hiccup."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one round of a shard came to here: the mean change of the copies, their samples and number."""

    delta: Vector
    samples: int
    copies: int


@dataclass(frozen=True, slots=True)
class Start:
    """What a new copy starts from: the values of its shards, and which rounds of them it belongs to, by number."""

    values: Vector
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _HandedIn:
    delta: Vector
    samples: int


@dataclass(slots=True)
class _Opening:
    number: int
    values: Vector
    opened_s: float
    closed: asyncio.Future[Learnt | None]
    handed_in: dict[bytes, _HandedIn] = field(default_factory=dict)
    first_s: float | None = None
    """When the first owner handed in."""


class Openings:
    """By shard. `changed` is called whenever one opened or closed."""

    def __init__(self, expected: Callable[[int], list[bytes]], changed: Callable[[], None]) -> None:
        """`expected`: shard -> owners with a seat there."""
        self._expected = expected
        self._changed = changed
        self._open: dict[int, _Opening] = {}
        self._numbers = count(1)
        self.learnt: set[int] = set()
        """Shards of which something was handed in that is not contributed yet."""

    async def collect(self, shard: int, values: Vector) -> Learnt | None:
        """Open the shard's round with these values and wait for its end; None: nobody trained."""
        loop = asyncio.get_running_loop()
        opening = self._open[shard] = _Opening(next(self._numbers), values, loop.time(), loop.create_future())
        self._changed()
        self.close(shard)  # whoever it was opened for may have left meanwhile
        try:
            return await opening.closed
        finally:
            self._open.pop(shard, None)

    def is_open(self, shards: range, owner: bytes) -> bool:
        """Whether a copy of these shards may be made for this owner now."""
        return all(
            (one := self._open.get(shard)) is not None and not one.closed.done() and owner not in one.handed_in
            for shard in shards
        )

    def start(self, shards: range, owner: bytes) -> Start | None:
        """What a new copy of these shards starts from; None while one of them is not open for this owner."""
        if not self.is_open(shards, owner):
            return None
        found = [self._open[shard] for shard in shards]
        return Start(np.concatenate([one.values for one in found]), tuple(one.number for one in found))

    def hand_in(self, shard: int, number: int, owner: bytes, after: Vector, samples: int) -> None:
        """The owner's copy of that round is done, having seen so many samples; nothing where the round is over."""
        opening = self._open.get(shard)
        if opening is None or opening.closed.done() or opening.number != number:
            return
        now_s = asyncio.get_running_loop().time()
        opening.handed_in[owner] = _HandedIn(after - opening.values, samples)
        self.learnt.add(shard)
        opening.first_s = now_s if opening.first_s is None else opening.first_s
        self.close(shard)

    def close(self, shard: int) -> None:
        """Close the shard's round if nobody is expected any more."""
        opening = self._open.get(shard)
        if opening is None or opening.closed.done():
            return
        seated = self._expected(shard)
        if not seated or (opening.handed_in and all(owner in opening.handed_in for owner in seated)):
            opening.closed.set_result(_mean(opening.handed_in))
            self._changed()

    def wait_again(self, shards: range) -> None:
        """Somebody begins these shards' rounds once more: who is late is reckoned from now."""
        for shard in shards:
            if (opening := self._open.get(shard)) is not None and opening.first_s is not None:
                opening.first_s = asyncio.get_running_loop().time()

    def late(self, now_s: float) -> list[tuple[int, bytes]]:
        """Shards with owners that have let the others wait too long."""
        return [
            (shard, owner)
            for shard, one in sorted(self._open.items())
            if one.first_s is not None and now_s >= _due_s(one)
            for owner in self._expected(shard)
            if owner not in one.handed_in
        ]


def _due_s(opening: _Opening) -> float:
    assert opening.first_s is not None
    return opening.first_s + max(LATE_MIN_S, LATE_SHARE * (opening.first_s - opening.opened_s))


def _mean(handed_in: dict[bytes, _HandedIn]) -> Learnt | None:
    """The mean over owners who trained, summed in their order; None without any."""
    trained = [one for _, one in sorted(handed_in.items()) if one.samples]
    if not trained:
        return None
    total = trained[0].delta.copy()
    for one in trained[1:]:
        total += one.delta
    return Learnt(total / np.float32(len(trained)), sum(one.samples for one in trained), len(trained))

"""Rounds of shards at a relay: what copies start from, when a round closes, and what the mean is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from p2pfusion.hops.openings import LATE_MIN_S, LATE_SHARE, Learnt, Openings
from p2pfusion.sim.loop import run
from tests.hops.made import settle
from tests.node.parts import until

A, B, C = b"a", b"b", b"c"
ZERO = np.zeros(3, np.float32)


def ones(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


class Room:
    """Openings whose seats a test moves."""

    def __init__(self, *owners: bytes) -> None:
        self.owners, self.changes = list(owners), 0
        self.openings = Openings(lambda shard: sorted(self.owners), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def open(self, shard: int = 1, values: np.ndarray = ZERO) -> asyncio.Task[Learnt | None]:
        return asyncio.get_running_loop().create_task(self.openings.collect(shard, values))


def looked_at(main: Callable[[], Awaitable[None]]) -> None:
    run(main, until_s=1000.0)  # type: ignore[arg-type]


def test_a_round_closes_when_all_have_handed_in_with_the_mean_of_those_who_trained() -> None:
    async def main() -> None:
        room = Room(A, B, C)
        closed = room.open(1, ones(1.0))
        await settle()
        start = room.openings.start(range(1, 2), A)
        assert start is not None
        assert (start.values == 1.0).all()
        room.openings.hand_in(1, start.numbers[0], A, ones(2.0), 8)
        room.openings.hand_in(1, start.numbers[0], B, ones(1.0), 0)  # it did not train
        await settle()
        assert not closed.done()
        room.openings.hand_in(1, start.numbers[0], C, ones(5.0), 4)
        learnt = await closed
        assert learnt is not None
        assert (learnt.samples, learnt.copies) == (12, 2)
        assert (learnt.delta == 2.5).all()

    looked_at(main)


def test_a_round_is_opened_to_nobody_twice() -> None:
    async def main() -> None:
        room = Room(A, B)
        task = room.open()
        await settle()
        start = room.openings.start(range(1, 2), A)
        assert start is not None
        room.openings.hand_in(1, start.numbers[0], A, ones(1.0), 1)
        assert room.openings.start(range(1, 2), A) is None
        assert room.openings.start(range(1, 2), B) is not None
        task.cancel()

    looked_at(main)


def test_a_stage_starts_when_all_its_shards_are_open_with_their_values_in_a_row() -> None:
    async def main() -> None:
        room = Room(A)
        tasks = [room.open(2, ones(2.0))]
        await settle()
        assert room.openings.start(range(1, 3), A) is None
        tasks.append(room.open(1, ones(1.0)))
        await settle()
        start = room.openings.start(range(1, 3), A)
        assert start is not None
        assert start.values.tolist() == [1.0] * 3 + [2.0] * 3
        assert room.changes == 2
        for task in tasks:
            task.cancel()

    looked_at(main)


def test_what_belongs_to_another_round_counts_nowhere() -> None:
    async def main() -> None:
        room = Room(A, B)
        first = room.open()
        await settle()
        old = room.openings.start(range(1, 2), A)
        assert old is not None
        room.openings.hand_in(1, old.numbers[0], B, ones(1.0), 1)
        room.owners.remove(A)
        room.openings.close(1)
        assert await first is not None
        room.owners.append(A)
        second = room.open()
        await settle()
        room.openings.hand_in(1, old.numbers[0], A, ones(9.0), 1)
        room.openings.hand_in(7, old.numbers[0], A, ones(9.0), 1)
        fresh = room.openings.start(range(1, 2), A)
        assert fresh is not None
        for owner in (A, B):
            room.openings.hand_in(1, fresh.numbers[0], owner, ones(2.0), 1)
        learnt = await second
        assert learnt is not None
        assert (learnt.delta == 2.0).all()

    looked_at(main)


def test_a_round_without_anybody_ends_with_nothing_also_if_they_left_before_it_opened() -> None:
    async def main() -> None:
        room = Room(A)
        task = room.open()
        await settle()
        room.owners.clear()
        room.openings.close(1)
        assert await task is None
        assert await room.open() is None

    looked_at(main)


def test_what_was_handed_in_counts_when_its_owner_has_left() -> None:
    async def main() -> None:
        room = Room(A, B)
        task = room.open()
        await settle()
        start = room.openings.start(range(1, 2), A)
        assert start is not None
        room.openings.hand_in(1, start.numbers[0], A, ones(1.0), 3)
        room.owners.clear()
        room.openings.close(1)
        learnt = await task
        assert learnt is not None
        assert learnt.copies == 1

    looked_at(main)


def test_others_are_late_after_as_long_again_as_the_first_took_but_at_least_a_moment() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for took_s, given_s in ((10.0, LATE_SHARE * 10.0), (0.01, LATE_MIN_S)):
            room, opened_s = Room(A, B, C), loop.time()
            task = room.open()
            await until(opened_s + took_s)
            assert room.openings.late(loop.time() + 1e6) == []  # nobody has handed in: nobody is late
            start = room.openings.start(range(1, 2), A)
            assert start is not None
            room.openings.hand_in(1, start.numbers[0], B, ones(1.0), 1)
            due_s = loop.time() + given_s
            assert room.openings.late(due_s - 0.001) == []
            assert room.openings.late(due_s + 0.001) == [(1, A), (1, C)]
            task.cancel()

    looked_at(main)


def test_the_mean_does_not_depend_on_who_was_first() -> None:
    async def main() -> None:
        found = []
        values = {A: ones(1e8), B: ones(1.0), C: ones(-1e8)}
        for order in ((A, B, C), (C, A, B), (B, C, A)):
            room = Room(A, B, C)
            task = room.open()
            await settle()
            start = room.openings.start(range(1, 2), A)
            assert start is not None
            for owner in order:
                room.openings.hand_in(1, start.numbers[0], owner, values[owner], 1)
            learnt = await task
            assert learnt is not None
            found.append(learnt.delta.tobytes())
        assert len(set(found)) == 1

    looked_at(main)

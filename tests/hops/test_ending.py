"""Whether a run is over: all holders of a shard say the same, and nobody has anything to add."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pfusion.hops.ending import is_settled, shards_of
from p2pfusion.wire.hops import HeldShard, Offer
from tests.hops.made import held, hop, offer


def at(shard: int, tip_round: int, *, is_settled: bool = True) -> HeldShard:
    return replace(held(shard), tip_round=tip_round, chain=bytes([tip_round] * 32), is_settled=is_settled)


def test_of_each_shard_the_newest_that_anybody_tells_counts() -> None:
    found = shards_of([offer(1, held=(at(1, 3), at(2, 5))), offer(2, held=(at(1, 4),))], (at(0, 2), at(2, 4)))
    assert {shard: one.tip_round for shard, one in found.items()} == {0: 2, 1: 4, 2: 5}


def left(number: int, *shards: HeldShard) -> Offer:
    return offer(number, is_leaving=True, held=shards)


def here(number: int, *shards: HeldShard) -> Offer:
    return offer(number, held=shards)


@pytest.mark.parametrize(
    ("others", "settled"),
    [
        ([here(1, at(1, 3))], True),
        ([here(1)], False),  # nobody holds shard 1
        ([here(1, at(1, 3, is_settled=False))], False),
        ([here(1, at(1, 4)), here(2, at(1, 3, is_settled=False))], False),  # it may change the newer one
        ([here(1, at(1, 4)), here(2, at(1, 3))], False),  # somebody has not heard yet
        ([here(1, at(1, 3)), here(2, at(0, 3, is_settled=False))], False),  # another owner still trains
        ([here(1, at(1, 3)), offer(2, is_owner=True, held=(at(0, 3),), chain=(hop(1, 1, 1),))], True),  # it measures
        ([left(1, at(1, 3))], True),  # its last word is all there is of the shard
        ([left(1, at(1, 3, is_settled=False))], True),  # and nothing will come of it any more
        ([here(1, at(1, 3)), left(2, at(1, 2, is_settled=False))], True),
        ([here(1, at(1, 3)), left(2, at(1, 4))], False),  # who is here has not heard yet
    ],
)
def test_a_run_has_settled_when_all_holders_of_a_shard_say_the_same_and_wait_for_nothing(
    others: list[Offer], settled: bool
) -> None:
    assert is_settled(others, (at(0, 3),), 2) is settled

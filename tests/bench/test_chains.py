"""The bench of chains: what the planner chooses for its typed-in devices, which docs/mp_sl.md shows."""

from __future__ import annotations

from bench.chains.run import offers
from bench.chains.simulated import toy_split
from p2pfusion.hops.lanes import deal, round_of


def test_three_equal_relays_go_beside_each_other_though_two_lanes_of_them_would_not_pay() -> None:
    split, owners = toy_split(), [bytes([100 + number]) * 16 for number in range(3)]
    relays = offers(split, 3)
    one, two, three = (round_of(split, deal(split, relays, owners, count), relays) for count in (1, 2, 3))
    assert three < 0.75 * one
    assert two > 0.9 * one
    assert len(deal(split, relays, owners)) == 3

"""Nodes with different rates: each learns the others' from what they contribute, and gaps follow from both."""

from __future__ import annotations

import asyncio

import pytest

from p2pfusion.algorithms.base import RoundContext, RoundReport
from p2pfusion.core.blueprint import units_kept
from p2pfusion.core.coverage import Coverage, Covered
from p2pfusion.core.schemes import Seat, cosine, gap
from p2pfusion.sim.light import LightLearner
from p2pfusion.sim.loop import run
from p2pfusion.swarm.view import Change
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, copied, ones, parts
from tests.node.test_node import Lan, life, on_lan, reports
from tests.node.test_rounds import rounds
from tests.swarm.made import peer, report, seal

RATES = {1: 0.75, 2: 0.25}


class Watched(LightLearner):
    """Notes every seat it is given."""

    def __init__(self, index: int) -> None:
        super().__init__(index, blueprint=BLUEPRINT)
        self.seats: list[Seat] = []

    async def round(self, ctx: RoundContext) -> None:
        self.seats.append(ctx.seat)
        await super().round(ctx)


def test_two_nodes_of_different_rates_get_gaps_from_both() -> None:
    async def main(lan: Lan) -> None:
        learners = {index: Watched(index) for index in RATES}
        nodes = {
            index: lan.node(index, learners[index], rate=rate, until_rounds=6, min_peers=2)
            for index, rate in RATES.items()
        }
        told = dict(zip(RATES, await asyncio.gather(*(life(node) for node in nodes.values())), strict=True))
        by_rank = tuple(RATES[index] for index in sorted(RATES, key=lambda index: nodes[index].state.me))
        for index, learner in learners.items():
            known = [seat for seat in learner.seats if seat.peers == 2][1:]  # in the first, mine may stand for both
            assert len(known) >= 4
            for seat in known:
                lengths = [[units_kept(rate, axis.units) for rate in seat.rates] for axis in BLUEPRINT.axes]
                assert lengths == [[units_kept(rate, axis.units) for rate in by_rank] for axis in BLUEPRINT.axes]
            check_gaps(known, reports(told[index]), by_rank)

    on_lan(main)


def check_gaps(seats: list[Seat], told: list[RoundReport], rates: tuple[float, ...]) -> None:
    """Every window begins where the rates of both put it."""
    by_round = {one.round: one.sub_model for one in told}
    for seat in seats:
        for axis in BLUEPRINT.axes:
            lengths = [units_kept(rate, axis.units) for rate in rates]
            offset = gap(*lengths, cosine()(seat.round)) if seat.rank else 0
            window = {(seat.round + offset + place) % axis.units for place in range(lengths[seat.rank])}
            assert set(by_round[seat.round].indices(BLUEPRINT, axis.name).tolist()) == window


def test_coverage_grows_while_a_round_covers_its_slice_only() -> None:
    async def main(lan: Lan) -> None:
        told = reports(await life(lan.node(1, until_rounds=8, rate=0.25)))
        covered = [one.covered for one in told]
        assert covered[0] == told[0].coverage == pytest.approx(told[0].share)
        assert covered == sorted(covered)
        assert covered[-1] > 2 * told[-1].coverage
        meter = Coverage(BLUEPRINT)
        for one in told:
            meter.add(one.sub_model)
            assert Covered(scalars=one.covered, units=one.covered_units, pairs=one.covered_pairs) == meter.covered
        assert told[-1].covered_pairs < told[-1].covered < told[-1].covered_units

    on_lan(main)


def test_a_contribution_shows_its_authors_rate_until_it_is_dead() -> None:
    async def main() -> None:
        one, other = parts(), parts(index=2)
        one.state.tell(one.state.membership.observe(report(2, role="trains"), 0.0) or [])
        for sub_model, shown in ((SLICES[1], 0.5), (WHOLE, 1.0)):
            entry = await other.publish(ones(sub_model), sub_model)
            assert entry is not None
            one.state.completed(copied(entry, one))
            assert rounds(one)[0]._seat(one.state.membership.view(0.0)).rates == (0.5, shown)
            seal(other.state.ledger)
        one.state.tell([Change(peer(2), "two", "suspect", "alive")])
        assert len(one.state.rates) == 1
        one.state.tell([Change(peer(2), "two", "dead", "suspect")])
        assert len(one.state.rates) == 0

    run(main)

"""The numbers a run says of itself: each against runs whose outcome is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from p2pfusion.algorithms.base import Traffic
from p2pfusion.sim.faults import Crash, Partition
from p2pfusion.sim.statistics import Statistics
from p2pfusion.sim.tally import _percentile
from p2pfusion.sim.walls import Walls
from p2pfusion.sim.world import LinkModel, Scenario, simulate
from tests.sim.learners import light_learner

CALM = Scenario(nodes=4, rounds=20, link=LinkModel(latency_s=0.005, jitter_s=0.005), until_s=300.0)


def test_a_calm_run_counts_everything_and_nothing_else():
    result = simulate(CALM, light_learner(cost_s=1.0), 1)
    stats = result.stats
    assert stats.published == stats.in_chain == stats.durable == stats.durable_in_chain == 80
    assert stats.durable_share == 1.0
    nothing = ("too_late", "orphans", "lost", "forks", "switches", "grafts", "deaths", "crashes", "restarts")
    assert [getattr(stats, name) for name in nothing] == [0] * len(nothing)
    lags = sorted(report.round - report.tip_round for outcome in result.outcomes for report in outcome.reports)
    assert stats.tip_lag_median == median(lags)
    assert stats.tip_lag_p90 == lags[71]
    gaps_s = [after - before for outcome in result.outcomes for before, after in pairwise(outcome.reported_s)]
    assert stats.round_median_s == median(gaps_s)
    assert stats.agreed_s is not None
    assert stats.agreed_s < 5.0
    assert 0 < stats.messages < result.packets
    assert stats.sent_bytes >= sum(outcome.done.bytes_sent for outcome in result.survivors())
    kinds = (stats.payload_bytes, stats.header_bytes, stats.gossip_bytes)
    assert 0 < sum(kinds) <= stats.sent_bytes
    done = sum((outcome.done.traffic for outcome in result.survivors()), Traffic())
    assert all(
        all_ >= told for all_, told in zip(kinds, (done.payload_sent, done.header_sent, done.gossip_sent), strict=True)
    )
    assert stats.payload_bytes > 0 < stats.gossip_bytes


def test_work_that_dies_with_its_author_is_an_orphan_or_lost():
    """Cut off from all others, then crashed without a disk: nobody has what it published meanwhile."""
    alone = Partition(from_s=5.0, to_s=300.0, sides=((0,), (1, 2, 3)))
    scenario = replace(CALM, rounds=40, partitions=(alone,), crashes=(Crash(node=0, at_s=9.0),))
    stats = simulate(scenario, light_learner(cost_s=1.0), 1).stats
    gone = stats.orphans + stats.lost
    assert gone > 0
    assert stats.published == stats.in_chain + gone + stats.too_late
    assert stats.durable == stats.durable_in_chain + stats.lost + stats.too_late
    assert (stats.crashes, stats.restarts) == (1, 0)
    assert stats.deaths >= 3


def test_a_fork_is_counted_once_however_many_follow_it():
    scenario = replace(CALM, rounds=60, partitions=(Partition(from_s=5.0, to_s=16.0, parts=2),))
    stats = simulate(scenario, light_learner(cost_s=1.0), 1).stats
    assert (stats.forks, stats.grafts) == (1, 1)
    assert stats.switches >= 2
    assert stats.deaths == 8


@pytest.mark.parametrize(
    ("values", "percent", "expected"), [([1], 90, 1), ([1, 2], 50, 1), (list(range(1, 11)), 90, 9), ([5, 1], 100, 5)]
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert _percentile(values, percent) == expected


def test_without_anything_durable_there_is_no_share():
    assert Statistics().durable_share is None
    assert Statistics(durable=4, durable_in_chain=3).durable_share == 0.75


def test_walls_stop_what_crosses_them_and_nobody_is_on_no_side():
    partitions = (
        Partition(from_s=1.0, to_s=9.0, sides=((0, 1), (2,))),
        Partition(from_s=1.0, to_s=9.0, sides=((0,), (3,)), one_way=True, hold=True),
    )
    walls = Walls(replace(CALM, partitions=partitions))
    assert not walls.is_blocking(1, 3)
    walls.rise(0)
    assert walls.is_blocking(1, 3)
    assert walls.is_blocking(3, 1)
    assert not walls.is_blocking(1, 2)
    assert not walls.is_blocking(4, 3)
    assert not walls.is_blocking(0, 3)
    assert not walls.is_holding(1, 3)
    walls.rise(1)
    assert walls.is_holding(1, 4)
    assert not walls.is_holding(4, 1)
    assert not walls.is_blocking(1, 4)
    walls.fall(0)
    assert not walls.is_blocking(1, 3)
    assert walls.nodes_of(0) == [0, 1, 2]

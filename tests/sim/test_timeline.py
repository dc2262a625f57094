"""The timeline of a run: a pure function of scenario and seed, in the order of time, within its limits."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest

from p2pfusion.errors import ConfigError
from p2pfusion.sim import timeline as module
from p2pfusion.sim.faults import Arrival, Churn, Clog, Crash, Fault, Lag, Partition, Sleep, SpeedChange
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.timeline import timeline

CHURN = Churn(from_s=10.0, to_s=410.0, period_s=4.0, share=0.3, away_s=4.0, disk_share=0.5)


def test_what_a_scenario_names_comes_in_the_order_of_time():
    scenario = Scenario(
        nodes=4,
        crashes=(Crash(node=1, at_s=5.0, back_s=9.0, disk=False), Crash(node=2, at_s=6.0)),
        partitions=(Partition(from_s=1.0, to_s=2.0, parts=2),),
        clogs=(Clog(node=0, from_s=3.0, to_s=4.0, bytes_max=7),),
        sleeps=(Sleep(node=3, from_s=3.0, to_s=8.0),),
        lags=(Lag(node=0, from_s=10.0, to_s=14.0, stall_s=1.0, every_s=3.0),),
        speed_changes=(SpeedChange(node=1, at_s=0.5, speed=0.1),),
    )
    assert timeline(scenario, 1) == timeline(scenario, 2)
    assert timeline(scenario, 1) == (
        Fault(0.5, "speed", 1, 0.1),
        Fault(1.0, "cut", 0),
        Fault(2.0, "heal", 0),
        Fault(3.0, "clog", 0, 7),
        Fault(3.0, "sleep", 3),
        Fault(4.0, "unclog", 0),
        Fault(5.0, "crash", 1),
        Fault(6.0, "crash", 2),
        Fault(8.0, "wake", 3),
        Fault(9.0, "restart", 1, 0.0),
        Fault(10.0, "stall", 0),
        Fault(11.0, "resume", 0),
        Fault(13.0, "stall", 0),
        Fault(14.0, "resume", 0),
    )


def test_churn_is_the_seeds_and_nobody_crashes_while_away():
    scenario = Scenario(nodes=16, churn=CHURN)
    faults = timeline(scenario, 3)
    assert faults == timeline(scenario, 3) != timeline(scenario, 4)
    for node in range(16):
        kinds = [fault.kind for fault in faults if fault.index == node]
        assert kinds == ["crash", "restart"] * (len(kinds) // 2)
    assert all(10.0 <= fault.at_s <= 410.0 for fault in faults)


def test_churn_takes_the_shares_it_is_asked_for():
    faults = [fault for seed in range(20) for fault in timeline(Scenario(nodes=16, churn=CHURN), seed)]
    counts = Counter(fault.kind for fault in faults)
    assert 0.22 < counts["crash"] / (20 * 16 * 100) < 0.3  # of all nodes and periods; who is away cannot crash
    with_disk = sum(fault.value for fault in faults if fault.kind == "restart")
    assert with_disk / counts["restart"] == pytest.approx(0.5, rel=0.05)


def test_one_node_more_changes_nobody_elses_churn():
    few = timeline(Scenario(nodes=4, churn=CHURN), 1)
    more = timeline(Scenario(nodes=5, churn=CHURN), 1)
    assert few == tuple(fault for fault in more if fault.index < 4)


def test_a_late_node_does_not_crash_before_it_came():
    scenario = Scenario(nodes=2, churn=CHURN, arrivals=(Arrival(node=1, at_s=200.0),))
    assert min(fault.at_s for fault in timeline(scenario, 1) if fault.index == 1) > 200.0


def test_half_of_all_live_their_half_life():
    churn = Churn(from_s=0.0, to_s=50_000.0, away_s=1e-6, half_life_s=10.0)
    crashes = [fault.at_s for fault in timeline(Scenario(nodes=1, churn=churn), 1) if fault.kind == "crash"]
    lives = [after - before for before, after in pairwise(crashes)]
    assert sum(life_s > 10.0 for life_s in lives) / len(lives) == pytest.approx(0.5, abs=0.03)


def test_with_an_infinite_half_life_nobody_crashes():
    churn = Churn(from_s=0.0, to_s=1000.0, away_s=1.0, half_life_s=math.inf)
    assert timeline(Scenario(churn=churn), 1) == ()


@pytest.mark.parametrize(
    "scenario",
    [Scenario(nodes=2, churn=CHURN), Scenario(nodes=2, lags=(Lag(node=0, from_s=0.0, to_s=1e9),))],
)
def test_a_timeline_beyond_its_limit_is_refused(monkeypatch, scenario):
    monkeypatch.setattr(module, "TIMELINE_MAX", 10)
    with pytest.raises(ConfigError, match="more than 10 faults"):
        timeline(scenario, 1)


def test_a_timeline_may_be_as_long_as_its_limit(monkeypatch):
    scenario = Scenario(nodes=2, churn=CHURN)
    monkeypatch.setattr(module, "TIMELINE_MAX", len(timeline(scenario, 1)))
    assert len(timeline(scenario, 1)) == module.TIMELINE_MAX


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Arrival(node=0, at_s=-1.0), "Arrival.at_s"),
        (lambda: Crash(node=0, at_s=2.0, back_s=2.0), "Crash.back_s"),
        (lambda: Partition(from_s=2.0, to_s=2.0, parts=2), "Partition.to_s"),
        (lambda: Partition(from_s=1.0, to_s=2.0), "Partition.parts"),
        (lambda: Partition(from_s=1.0, to_s=2.0, parts=2, sides=((0,), (1,))), "Partition.parts"),
        (lambda: Partition(from_s=1.0, to_s=2.0, sides=((0, 1), (1,))), "Partition.sides"),
        (lambda: Partition(from_s=1.0, to_s=2.0, sides=((0,), ())), "Partition.sides"),
        (lambda: Partition(from_s=1.0, to_s=2.0, parts=3, one_way=True), "Partition.one_way"),
        (lambda: Clog(node=0, from_s=1.0, to_s=2.0, bytes_max=-1), "Clog.bytes_max"),
        (lambda: Sleep(node=0, from_s=-1.0, to_s=2.0), "Sleep.from_s"),
        (lambda: Lag(node=0, from_s=1.0, to_s=2.0, stall_s=5.0, every_s=5.0), "Lag.every_s"),
        (lambda: SpeedChange(node=0, at_s=1.0, speed=0.0), "SpeedChange.speed"),
        (lambda: Churn(from_s=1.0, to_s=2.0, away_s=0.0, period_s=1.0), "Churn.away_s"),
        (lambda: Churn(from_s=1.0, to_s=2.0, away_s=1.0), "Churn.period_s"),
        (lambda: Churn(from_s=1.0, to_s=2.0, away_s=1.0, period_s=1.0, half_life_s=1.0), "Churn.period_s"),
        (lambda: Churn(from_s=1.0, to_s=math.inf, away_s=1.0, period_s=1.0), "Churn.to_s"),
        (lambda: Churn(from_s=1.0, to_s=2.0, away_s=1.0, period_s=1.0, share=1.1), "Churn.share"),
        (lambda: Churn(from_s=1.0, to_s=2.0, away_s=1.0, period_s=1.0, disk_share=-0.1), "Churn.disk_share"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused_and_the_field_is_named(make, field):
    with pytest.raises(ConfigError, match=field):
        make()


@pytest.mark.parametrize(
    ("partition", "sides"),
    [
        (Partition(from_s=0.0, to_s=1.0, parts=2), [0, 0, 0, 1, 1]),
        (Partition(from_s=0.0, to_s=1.0, parts=3), [0, 0, 1, 1, 2]),
        (Partition(from_s=0.0, to_s=1.0, sides=((4, 0), (2,))), [0, None, 1, None, 0]),
    ],
)
def test_who_is_on_which_side(partition, sides):
    assert [partition.side_of(node, 5) for node in range(5)] == sides

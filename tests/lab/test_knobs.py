"""Every option reaches the scenario through its knob, and a knob's text is what the command line parses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.presets import SEMI_ASYNCHRONOUS
from p2pfusion.app import values
from p2pfusion.config import CadenceConfig
from p2pfusion.errors import ConfigError, UsageError
from p2pfusion.lab.knobs import KNOBS, Order, order_of
from p2pfusion.sim.faults import Churn, Partition
from p2pfusion.sim.loading import named, names
from p2pfusion.sim.scenario import Scenario


def turned(order: Order, **chosen: float | str) -> Order:
    for name, value in chosen.items():
        order = KNOBS[name].turn(order, value)
    return order


@pytest.mark.parametrize("name", names())
def test_a_scenario_is_an_order_as_it_stands(name: str) -> None:
    scenario = named(name)
    order = order_of(scenario)
    assert order.scenario == scenario
    assert order.task == ("light" if name == "scale" else "digits")


def test_plain_values_reach_their_fields() -> None:
    order = order_of(Scenario())
    order = turned(order, nodes=5, rounds=7, rate=0.25, algorithm="full", common=0.5, momentum=0.6, seed=9)
    order = turned(order, loss=0.1, latency=0.3, bandwidth=1e6)
    made = order.scenario
    assert (made.nodes, made.rounds, made.rate) == (5, 7, 0.25)
    assert (made.link.loss, made.link.latency_s, made.link.bandwidth_bytes_per_s) == (0.1, 0.3, 1e6)
    assert (order.algorithm, order.seed, made.run.seed) == ("full", 9, 9)
    assert (order.common, order.momentum) == (0.5, 0.6)


def test_the_light_task_is_the_scenarios_synthetic_learner() -> None:
    order = turned(order_of(Scenario()), task="light")
    assert (order.task, order.scenario.learns) == ("light", "light")
    again = turned(order, task="my_task.py")
    assert (again.task, again.scenario.learns) == ("my_task.py", "task")


def test_a_half_life_replaces_the_periods_and_infinity_the_churn() -> None:
    base = order_of(replace(Scenario(), churn=Churn(from_s=1, to_s=50, away_s=4, period_s=4.0)))
    churn = turned(base, half_life=30.0).scenario.churn
    assert churn is not None
    assert (churn.period_s, churn.half_life_s, churn.away_s) == (None, 30.0, 4)
    assert turned(base, half_life=math.inf).scenario.churn is None
    with pytest.raises(UsageError, match="--half-life needs a scenario with churn"):
        turned(order_of(Scenario()), half_life=30.0)


def test_the_end_of_a_churn_keeps_its_place_in_the_run() -> None:
    base = order_of(replace(Scenario(), rounds=100, churn=Churn(from_s=10, to_s=80, away_s=4, period_s=4.0)))
    churn = turned(base, rounds=50).scenario.churn
    assert churn is not None
    assert churn.to_s == 40
    shortest = turned(base, rounds=1).scenario.churn
    assert shortest is not None
    assert shortest.from_s < shortest.to_s < 11


def test_a_partition_keeps_its_place_in_the_run() -> None:
    base = order_of(replace(Scenario(), rounds=100, partitions=(Partition(from_s=20, to_s=80, parts=2),)))
    (half,) = turned(base, rounds=50).scenario.partitions
    assert (half.from_s, half.to_s) == (10, 40)
    (as_told,) = turned(base, rounds=50, apart=60.0).scenario.partitions
    assert (as_told.from_s, as_told.to_s) == (10, 70)


def test_an_algorithm_is_one_there_is_and_trains() -> None:
    with pytest.raises(UsageError, match="unknown algorithm 'magic': choose one of auto, nested, "):
        turned(order_of(Scenario()), algorithm="magic")
    with pytest.raises(UsageError, match=r"'ring' keeps a model on every node.*p2pfusion\.lab\.rounds"):
        turned(order_of(Scenario()), algorithm="ring")
    for knob, value in (("common", 0.5), ("momentum", 0.5)):
        with pytest.raises(UsageError, match="goes with real training only"):
            turned(order_of(Scenario()), task="light", **{knob: value})
    with pytest.raises(UsageError, match="--algorithm goes with real training only"):
        turned(order_of(Scenario()), task="light", algorithm="full")


def test_an_algorithm_brings_its_cadence_unless_the_scenario_has_one() -> None:
    assert turned(order_of(Scenario()), algorithm="full").scenario == Scenario()
    found = turned(order_of(Scenario()), algorithm="co_s2p").scenario.cadence
    assert found == replace(SEMI_ASYNCHRONOUS, round_min_s=0.0)
    own = replace(Scenario(), cadence=CadenceConfig(quorum=0.9))
    assert turned(order_of(own), algorithm="co_s2p").scenario == own


def test_one_slice_for_all_replaces_the_rates_of_each() -> None:
    base = order_of(replace(Scenario(), nodes=4, rates=(1.0, 0.25)))
    assert turned(base, nodes=1).scenario.rates == (1.0,)
    assert (turned(base, rate=0.5).scenario.rates, turned(base, rate=0.5).scenario.rate) == ((), 0.5)


def test_the_first_node_is_the_slow_one_and_fewer_nodes_have_fewer_speeds() -> None:
    base = order_of(replace(Scenario(), nodes=4, speeds=(0.05, 2.0, 1.0)))
    assert turned(base, slow=4.0).scenario.speeds == (0.25, 2.0, 1.0)
    assert turned(base, nodes=2).scenario.speeds == (0.05, 2.0)


def test_partitions_last_as_long_as_they_are_told() -> None:
    base = order_of(replace(Scenario(), partitions=(Partition(from_s=20, to_s=80, parts=2),)))
    assert turned(base, apart=5.0).scenario.partitions[0].to_s == 25
    assert turned(base, apart=0.0).scenario.partitions == ()
    with pytest.raises(UsageError, match="--apart needs a scenario with partitions"):
        turned(order_of(Scenario()), apart=5.0)


def test_what_cannot_be_is_refused_by_the_scenario() -> None:
    with pytest.raises(ConfigError, match="nodes"):
        turned(order_of(Scenario()), nodes=0)
    with pytest.raises(ConfigError, match="rounds"):
        turned(order_of(named("churn")), rounds=0)


@given(st.floats(min_value=1e-3, max_value=1e6).map(lambda value: float(f"{value:.6g}")))
def test_a_value_parses_back_from_its_text(value: float) -> None:
    assert values.parse_half_life(KNOBS["half_life"].text(value)) == pytest.approx(value, rel=1e-9)
    assert values.parse_latency(KNOBS["latency"].text(value)) == pytest.approx(value, rel=1e-9)
    assert values.parse_bandwidth(KNOBS["bandwidth"].text(value * 1e6)) == pytest.approx(value * 1e6, rel=1e-9)
    share = value / 1e6
    assert values.parse_share(KNOBS["loss"].text(float(f"{share:.4f}"))) == pytest.approx(float(f"{share:.4f}"))


def test_special_values_parse_back_too() -> None:
    assert values.parse_half_life(KNOBS["half_life"].text(math.inf)) == math.inf
    assert values.parse_latency(KNOBS["latency"].text(0.0)) == 0.0
    assert values.parse_factor(KNOBS["slow"].text(20.0)) == 20.0

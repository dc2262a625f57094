"""Lists of values become every combination under every seed; rows become points with their spread."""

from __future__ import annotations

import math

import pytest

from p2pfusion.errors import ConfigError, UsageError
from p2pfusion.lab import sweeps
from p2pfusion.lab.knobs import order_of
from p2pfusion.lab.sweeps import Spread, expand, points, setting_texts, swept
from p2pfusion.sim.loading import named
from tests.lab.made import broken, row

BASE = order_of(named("churn"))


def test_every_combination_under_every_seed() -> None:
    orders = expand(BASE, {"nodes": (4, 8), "half_life": (10.0, math.inf), "rate": (0.25,), "seed": (5,)}, 2)
    assert [(o.settings["nodes"], o.settings["half_life"], o.seed) for o in orders] == [
        (4, 10.0, 5), (4, 10.0, 6), (4, math.inf, 5), (4, math.inf, 6),
        (8, 10.0, 5), (8, 10.0, 6), (8, math.inf, 5), (8, math.inf, 6),
    ]  # fmt: skip
    assert {order.scenario.rate for order in orders} == {0.25}
    assert {order.scenario.run.seed for order in orders} == {5}
    assert [order.scenario.nodes for order in orders] == [4] * 4 + [8] * 4
    assert swept({"half_life": (1.0, 2.0), "nodes": (4, 8), "rate": (0.25,)}) == ("nodes", "half_life")


def test_one_value_is_no_axis() -> None:
    (order,) = expand(BASE, {"nodes": (4,), "half_life": (30.0,)}, 1)
    assert (order.settings, order.scenario.nodes, order.seed) == ({}, 4, 0)


def test_the_rounds_move_the_churn_before_the_half_life_shapes_it() -> None:
    (order,) = expand(BASE, {"half_life": (30.0,), "rounds": (11,)}, 1)
    churn, whole = order.scenario.churn, BASE.scenario.churn
    assert churn is not None
    assert whole is not None
    assert churn.half_life_s == 30.0
    assert churn.to_s == pytest.approx(whole.to_s * 11 / BASE.scenario.rounds)


def test_as_many_runs_as_may_be_and_one_more() -> None:
    assert len(expand(BASE, {"loss": (0.0, 0.1)}, sweeps.RUNS_MAX // 2)) == sweeps.RUNS_MAX
    with pytest.raises(UsageError, match=r"2 nodes x 5001 seeds = 10002 runs: 10000 at most"):
        expand(BASE, {"nodes": (4, 8)}, sweeps.RUNS_MAX // 2 + 1)
    with pytest.raises(UsageError, match=r"^10001 seeds = 10001 runs"):
        expand(BASE, {}, sweeps.RUNS_MAX + 1)


def test_what_cannot_be_run_is_told_before_anything_is() -> None:
    with pytest.raises(UsageError, match="half-life: a value is given twice in 10s, 10s"):
        expand(BASE, {"half_life": (10.0, 10.0)}, 1)
    with pytest.raises(ConfigError, match="nodes"):
        expand(BASE, {"nodes": (4, 1000)}, 1)


def test_points_gather_the_seeds() -> None:
    short, calm = {"half_life": 10.0}, {"half_life": math.inf}
    rows = [row(short, accuracy=0.9), row(calm), row(short, seed=1, accuracy=0.94), broken(calm, seed=1)]
    first, second = points(rows)
    assert (first.settings, len(first.runs), first.is_good) == (short, 2, True)
    spread = first.spread("accuracy")
    assert spread is not None
    assert (spread.mean, spread.least, spread.greatest) == (pytest.approx(0.92), 0.9, 0.94)
    assert not second.is_good
    assert second.spread("accuracy") == Spread(0.95, 0.95, 0.95)
    assert second.spread("slow_round_median_s") is None


def test_settings_are_written_as_people_write_them() -> None:
    assert setting_texts({"half_life": math.inf, "loss": 0.05, "latency": 0.02}) == {
        "half_life": "inf",
        "loss": "5%",
        "latency": "20ms",
    }

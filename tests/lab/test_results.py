"""A row says of a run what its result says, and survives as JSON and CSV."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.core.submodel import SubModel
from p2pfusion.lab.knobs import Order, order_of
from p2pfusion.lab.results import COLUMNS, Simulated, failed, flat, row_from_json, row_json, row_of
from p2pfusion.node import Done
from p2pfusion.sim.faults import Partition
from p2pfusion.sim.scenario import Outcome, Result, Scenario
from p2pfusion.sim.statistics import Statistics
from tests.lab.made import row

SUB_MODEL = SubModel(blocks=("body",), kept=())


def report(round_index: int, loss: float, **more: float) -> RoundReport:
    return RoundReport(
        round=round_index, sub_model=SUB_MODEL, share=0.5, loss=loss, heard=2, missing=0, late=0, coverage=1.0,
        patience_s=1.0, bytes_sent=1, bytes_received=1, head="ab", tip_round=round_index, model_hash="cd", peers=2,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def outcome(index: int, gap_s: float, loss: float = 0.5, model: str = "11", ended: bool = True) -> Outcome:
    done = Done(
        status="ok", name=f"node-{index}", round=4, accuracy=0.9123456789, model_sha256=model * 32, chain="22" * 32,
        bytes_sent=1, bytes_received=1, seconds=9.0,
    )  # fmt: skip
    return Outcome(
        name=f"node-{index}",
        done=done if ended else None,
        reports=tuple(report(number, loss) for number in (1, 2, 3)),
        reported_s=(1.0, 1.0 + gap_s, 1.0 + 2 * gap_s),
        warnings=(),
        model=np.zeros(1, np.float32),
    )


def result(*outcomes: Outcome, speeds: tuple[float, ...] = (), **counts: float) -> Result:
    scenario = Scenario(nodes=len(outcomes), rounds=4, speeds=speeds)
    stats = Statistics(**counts)  # type: ignore[arg-type]
    return Result(scenario=scenario, seed=3, outcomes=outcomes, trace_hash="33" * 32, packets=9, virtual_s=12.34567,
                  stats=stats)  # fmt: skip


def made(run: Result) -> Simulated:
    return row_of(replace(order_of(run.scenario), seed=3, settings={"loss": 0.05}), run)


def test_a_row_says_what_the_result_says() -> None:
    run = result(
        outcome(0, 2.0, 0.25), outcome(1, 2.0, 0.75),
        published=10, in_chain=9, durable=8, durable_in_chain=8, forks=1, grafts=2, sent_bytes=8000, tip_lag_median=1.5,
    )  # fmt: skip
    found = made(run)
    assert (found.name, found.seed, found.nodes, found.settings) == ("latency", 3, 2, {"loss": 0.05})
    assert (found.rounds, found.ended, found.virtual_s, found.accuracy) == (4, 2, 12.346, 0.912346)
    assert (found.training_loss, found.round_median_s, found.slow_round_median_s) == (0.5, 2.0, None)
    assert (found.kept_share, found.durable_share, found.tip_lag_median) == (0.9, 1.0, 1.5)
    assert (found.published, found.forks, found.grafts) == (10, 1, 2)
    assert found.bytes_per_node_round == 1000
    assert (found.model_sha256, found.trace_hash) == ("11" * 32, "33" * 32)
    assert found.is_good


def test_the_slow_are_told_from_the_others() -> None:
    found = made(result(outcome(0, 20.0), outcome(1, 2.0), outcome(2, 3.0), speeds=(0.05,)))
    assert (found.slow_round_median_s, found.round_median_s) == (20.0, 2.5)


def test_disagreement_is_not_good_and_has_no_accuracy() -> None:
    found = made(result(outcome(0, 2.0, model="11"), outcome(1, 2.0, model="44")))
    assert (found.agreed, found.is_good, found.accuracy, found.model_sha256) == (False, False, None, None)
    nobody = made(result(outcome(0, 2.0, ended=False), outcome(1, 2.0, ended=False)))
    assert (nobody.agreed, nobody.ended, nobody.rounds) == (False, 0, 0)


def test_what_was_trained_is_the_most_that_anybody_saw() -> None:
    saw = (report(3, 0.5, covered=0.25, covered_units=0.75, covered_pairs=0.125),)
    again = (*saw, report(4, 0.5, covered=0.125, covered_units=1.0, covered_pairs=0.0))  # began anew: its shares too
    found = made(result(replace(outcome(0, 2.0), reports=again), outcome(1, 2.0)))
    assert (found.covered, found.covered_units, found.covered_pairs) == (0.25, 1.0, 0.125)
    nobody = made(result(replace(outcome(0, 2.0), reports=(), reported_s=())))
    assert (nobody.covered, nobody.covered_units, nobody.covered_pairs) == (None, None, None)


def test_who_crashed_for_good_is_not_asked() -> None:
    found = made(result(outcome(0, 2.0), outcome(1, 2.0, ended=False)))
    assert (found.is_good, found.ended, found.nodes) == (True, 1, 2)


def test_what_is_no_number_is_nothing() -> None:
    found = made(result(outcome(0, 2.0, loss=math.nan)))
    assert found.training_loss is None
    assert made(result(replace(outcome(0, 2.0), reports=(), reported_s=()))).round_median_s is None


def test_a_failed_run_says_why() -> None:
    found = failed(Order(scenario=Scenario(), seed=7), "the floor fell")
    assert (found.seed, found.failure, found.is_good) == (7, "the floor fell", False)


@pytest.mark.parametrize("settings", [{}, {"half_life": math.inf, "nodes": 4}, {"algorithm": "full"}])
def test_a_row_survives_as_strict_json(settings: dict[str, float | str]) -> None:
    before = row(settings)  # type: ignore[arg-type]
    text = json.dumps(row_json(before), allow_nan=False)
    assert row_from_json(json.loads(text)) == before
    assert row_from_json({**json.loads(text), "later": 1}) == before


def test_every_field_has_a_column_with_a_meaning() -> None:
    names = {item.name for item in fields(Simulated)}
    assert set(COLUMNS) == names - {"settings"}
    table = flat(row({"half_life": 30.0, "nodes": 4}), ["nodes", "half_life"])
    assert list(table) == ["half_life", *COLUMNS]
    assert table["half_life"] == 30.0


def test_a_run_that_ended_within_a_partition_says_so() -> None:
    run = result(outcome(0, 2.0, model="11"), outcome(1, 2.0, model="22"))
    assert not made(run).agreed
    assert not made(run).ended_apart
    for from_s, to_s, ended_apart in ((4.0, 9.0, True), (1.0, 5.0, False), (6.0, 9.0, False)):
        partitions = (Partition(from_s=from_s, to_s=to_s, parts=2),)
        assert made(replace(run, scenario=replace(run.scenario, partitions=partitions))).ended_apart == ended_apart

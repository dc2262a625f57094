"""A run is text: order in, trace out; done again it is the same, and what is no trace is refused in one line."""

from __future__ import annotations

import json
import math

import pytest

from p2pfusion.errors import ConfigError, InvariantViolation, TaskError, TrainingError, UsageError
from p2pfusion.lab import traces
from p2pfusion.lab.knobs import Order, order_of
from p2pfusion.lab.sweeps import expand
from p2pfusion.lab.traces import NoTrace, changed_since, differences, order_from, order_text, perform, result_of
from p2pfusion.lab.writing import TRACE_HEAD
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.loading import named, names
from p2pfusion.sim.world import Learner


def light(order: Order) -> Learner:
    return light_learner()


def small(name: str = "latency", **chosen: float) -> Order:
    """Three nodes, three rounds."""
    return expand(order_of(named(name)), {"nodes": (3,), "rounds": (3,), **{k: (v,) for k, v in chosen.items()}}, 1)[0]


@pytest.mark.parametrize("name", names())
def test_an_order_survives_as_text(name: str) -> None:
    order = order_of(named(name))
    assert order_from(order_text(order)) == order


def test_an_infinite_setting_survives_as_text() -> None:
    order = expand(order_of(named("churn")), {"half_life": (10.0, math.inf)}, 1)[1]
    text = order_text(order)
    assert "Infinity" not in text
    assert order_from(text) == order
    assert order_from(text).settings == {"half_life": math.inf}


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no json", '{"v":1,"event":"round"}', '{"v":1,"event":"run"}'])
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(NoTrace, match="not the trace of a run"):
        order_from(text)


def test_a_trace_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="v = 99: must be 1"):
        order_from('{"v":99,"event":"run"}')


def test_an_order_begins_as_traces_are_known_by() -> None:
    assert order_text(small()).encode().startswith(TRACE_HEAD)


def test_a_scenario_of_another_version_is_refused_by_the_name_of_the_field() -> None:
    value = json.loads(order_text(small()))
    value["scenario"]["gravity"] = 9.81
    with pytest.raises(ConfigError, match="gravity"):
        order_from(json.dumps(value))


def test_a_trace_is_order_events_and_result() -> None:
    said: list[int] = []
    trace = perform(small(), light, said.append)
    lines = [json.loads(line) for line in trace.splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("run", "result")
    assert {"p2pfusion", "code", "numpy", "torch", "python", "machine"} == lines[0]["versions"].keys()
    assert order_from(trace.partition("\n")[0]) == small()
    rounds = [line for line in lines if line["event"] == "round"]
    assert {line["name"] for line in rounds} == {"node-0", "node-1", "node-2"}
    assert {line["round"] for line in rounds} == {1, 2, 3}
    moments = [line["at_s"] for line in lines[1:-1]]
    assert moments == sorted(moments)
    assert said == sorted(said)
    assert said[-1] == 3
    row = result_of(trace)
    assert (row.name, row.nodes, row.rounds, row.ended, row.is_good) == ("latency", 3, 3, 3, True)
    assert row.published == len(rounds)
    assert row.round_median_s is not None
    assert row.bytes_per_node_round


def test_done_again_it_is_the_same_text() -> None:
    first, again = perform(small(), light), perform(order_from(order_text(small())), light)
    assert first == again
    assert differences(result_of(first), result_of(again)) == []
    assert changed_since(first) == []
    other = perform(small(seed=1), light)
    assert differences(result_of(first), result_of(other))[0].startswith("trace_hash was ")


def test_the_faults_of_a_seed_stand_in_the_trace() -> None:
    trace = perform(small("partition", apart=1.0), light)
    assert [entry[1] for entry in json.loads(trace.partition("\n")[0])["timeline"]] == ["cut", "heal"]


def test_what_has_changed_since_is_named() -> None:
    trace = perform(small("churn", half_life=30.0), light)
    head, rest = trace.split("\n", 1)
    value = json.loads(head)
    value["versions"]["numpy"] = "1.0"
    del value["versions"]["torch"]
    value["timeline"].append([1.0, "crash", 0, 0.0])
    changes = changed_since(json.dumps(value) + "\n" + rest)
    assert changes[0].startswith("numpy was 1.0, is ")
    assert changes[1].startswith("torch was None, is ")
    assert changes[2] == "the seed gives another timeline of faults"


def test_a_violation_is_a_trace_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def violated(*arguments: object, **more: object) -> None:
        raise InvariantViolation("node 1, round 2: " + "x" * 1000 + "\nand more")

    monkeypatch.setattr(traces, "simulate", violated)
    row = result_of(perform(small(), light))
    assert not row.is_good
    assert row.failure is not None
    assert row.failure.startswith("node 1, round 2: xxx")
    assert len(row.failure) == traces.FAILURE_CHARS_MAX


def test_a_bug_costs_its_own_run_and_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(traces, "simulate", broken)
    trace = perform(small(), light)
    assert result_of(trace).failure == "IndexError: list index out of range (a bug: the trace has more)"
    assert "in broken" in json.loads(trace.splitlines()[-2])["traceback"]


@pytest.mark.parametrize("error", [TaskError, UsageError, TrainingError])
def test_what_the_task_is_to_blame_for_ends_everything(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **more: object) -> None:
        raise error("of the task")

    monkeypatch.setattr(traces, "simulate", refused)
    with pytest.raises(error, match="of the task"):
        perform(small(), light)


def test_a_trace_that_was_cut_off_is_refused() -> None:
    trace = perform(small(), light)
    for text in (trace[: len(trace) // 2], trace[:-40], "", "{}"):
        with pytest.raises(ConfigError, match="cut off"):
            result_of(text)

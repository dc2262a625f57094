"""The contract with scripts: field names and order are spelled out here, because changing them breaks somebody."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.app.output import (
    DemoDoneLine,
    DoneLine,
    PeerLine,
    RoundLine,
    SliceAxis,
    WarningLine,
    from_json,
    line_of,
    object_text,
    to_dict,
    to_json,
)
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.ensemble import ensemble
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import WireError
from p2pfusion.node.events import Done, PeerEvent, WarningEvent

ROUND_FIELDS = ["round", "loss", "share", "heard", "missing", "patience_s", "bytes_sent", "bytes_received", "head"]
DONE_FIELDS = [
    "status", "name", "round", "accuracy", "model_sha256", "chain", "bytes_sent", "bytes_received", "seconds",
]  # fmt: skip
DONE_MORE = ["traffic", "widths", "served"]
TRAFFIC_FIELDS = [
    "payload_sent", "header_sent", "gossip_sent", "payload_received", "header_received", "gossip_received",
    "calls_sent", "calls_received",
]  # fmt: skip


def test_a_peer_event_is_one_object(blueprint: Blueprint) -> None:
    line = line_of(PeerEvent("otter", "ab12", "alive"), blueprint)
    assert to_json(line) == '{"v":1,"event":"peer","name":"otter","id":"ab12","state":"alive"}'


def test_a_warning_is_one_object(blueprint: Blueprint) -> None:
    line = line_of(WarningEvent("too_late", "say\nit"), blueprint)
    assert to_json(line) == '{"v":1,"event":"warning","code":"too_late","text":"say\\nit"}'


def test_a_round_has_the_fields_of_the_protocol_and_then_ours(
    blueprint: Blueprint, report: Callable[..., RoundReport]
) -> None:
    value = to_dict(line_of(report(), blueprint))
    further = ["accuracy", "covered", "slice", "seconds", "traffic", "widths", "utilisation"]
    further += ["covered_units", "covered_pairs"]
    assert list(value) == ["v", "event", *ROUND_FIELDS, *further]
    assert value["event"] == "round"
    assert value["loss"] == 0.75
    assert value["slice"] == {"in": {"size": 8, "kept": ((2, 6),)}}
    assert list(value["traffic"]) == TRAFFIC_FIELDS
    assert sum(value["traffic"][name] for name in TRAFFIC_FIELDS[:3]) == value["bytes_sent"]
    assert sum(value["traffic"][name] for name in TRAFFIC_FIELDS[3:6]) == value["bytes_received"]


def test_all_shares_that_were_trained_are_told(blueprint: Blueprint, report: Callable[..., RoundReport]) -> None:
    value = to_dict(line_of(report(covered=0.5, covered_units=0.75, covered_pairs=0.25), blueprint))
    assert (value["covered"], value["covered_units"], value["covered_pairs"]) == (0.5, 0.75, 0.25)


def test_the_whole_model_is_no_slice(blueprint: Blueprint, report: Callable[..., RoundReport]) -> None:
    assert to_dict(line_of(report(sub_model=blueprint.whole()), blueprint))["slice"] == {}


def test_missing_blocks_are_told_and_no_others(blueprint: Blueprint, report: Callable[..., RoundReport]) -> None:
    model = ensemble(blueprint, 3)
    outer = SubModel(tuple(block for member in (0, 2) for block in model.members[member]))
    count = len(blueprint.blocks)
    line = line_of(report(sub_model=outer), model)
    value = to_dict(line)
    assert value["slice"] == {}
    assert value["blocks"] == {"size": 3 * count, "kept": ((0, count), (2 * count, 3 * count))}
    assert from_json(to_json(line)) == line
    assert "blocks" not in to_dict(line_of(report(sub_model=model.whole()), model))


def test_done_has_the_fields_of_the_protocol(blueprint: Blueprint, done: Callable[..., Done]) -> None:
    value = to_dict(line_of(done(), blueprint))
    assert list(value) == ["v", "event", *DONE_FIELDS, *DONE_MORE]
    assert value["event"] == "done"


def test_the_demo_adds_nodes_and_comparisons(done_line: Callable[..., DoneLine]) -> None:
    common = {name: getattr(done_line(), name) for name in [*DONE_FIELDS, *DONE_MORE]}
    line = DemoDoneLine(**common, nodes=(done_line(),), alone_accuracy=0.8, small_accuracy=None, full_accuracy=0.9)
    value = json.loads(to_json(line))
    ours = [*DONE_MORE, "nodes", "alone_accuracy", "small_accuracy", "full_accuracy"]
    assert list(value) == ["v", "event", *DONE_FIELDS, *ours]
    assert list(value["nodes"][0]) == [*DONE_FIELDS, *DONE_MORE]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_null(
    number: float, blueprint: Blueprint, report: Callable[..., RoundReport], done: Callable[..., Done]
) -> None:
    value = json.loads(to_json(line_of(report(loss=number, accuracy=number), blueprint)))
    assert (value["loss"], value["accuracy"]) == (None, None)
    assert json.loads(to_json(line_of(done(accuracy=number), blueprint)))["accuracy"] is None


def test_the_widths_of_a_model_are_told(
    blueprint: Blueprint, report: Callable[..., RoundReport], done: Callable[..., Done]
) -> None:
    widths = {"25%": 0.8, "100%": 0.9}
    assert to_dict(line_of(report(widths=widths), blueprint))["widths"] == widths
    line = line_of(done(widths=widths, served="100%"), blueprint)
    assert isinstance(line, DoneLine)
    assert (line.widths, line.served) == (widths, "100%")


def test_more_fields_come_last() -> None:
    assert to_json(PeerLine(name="a", id="b", state="left"), node="fox").endswith('"state":"left","node":"fox"}')


finite = st.none() | st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**53)
ranges = st.lists(st.tuples(count, count), max_size=4).map(tuple)
TRAFFIC = st.builds(Traffic, **dict.fromkeys(TRAFFIC_FIELDS, count))
WIDTHS = st.dictionaries(st.text(), st.floats(0, 1), max_size=3)
LINES = st.one_of(
    st.builds(PeerLine, name=st.text(), id=st.text(), state=st.text()),
    st.builds(WarningLine, code=st.text(), text=st.text()),
    st.builds(
        RoundLine,
        round=count, loss=finite, share=st.floats(0, 1), heard=count, missing=count, patience_s=st.floats(0, 60),
        bytes_sent=count, bytes_received=count, head=st.text(), accuracy=finite,
        slice=st.dictionaries(st.text(), st.builds(SliceAxis, count, ranges), max_size=3),
        seconds=st.dictionaries(st.text(), st.floats(0, 1e9), max_size=2), traffic=TRAFFIC, widths=WIDTHS,
        blocks=st.none() | st.builds(SliceAxis, count, ranges), covered=st.floats(0, 1),
        covered_units=st.floats(0, 1), covered_pairs=st.floats(0, 1),
    ),
    st.builds(
        DoneLine,
        status=st.sampled_from(["ok", "interrupted", "timeout", "failed"]), name=st.text(), round=count,
        accuracy=finite, model_sha256=st.none() | st.text(), chain=st.none() | st.text(), bytes_sent=count,
        bytes_received=count, seconds=st.floats(0, 1e9), traffic=TRAFFIC, widths=WIDTHS,
        served=st.none() | st.text(),
    ),
)  # fmt: skip


@given(LINES)
def test_from_json_is_the_inverse_of_to_json(line: RoundLine) -> None:
    text = to_json(line)
    assert "\n" not in text
    assert text.isascii()
    assert from_json(text) == line
    assert from_json(text.encode() + b"\n") == line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "null",
        "{}",
        "not json",
        b"\xff",
        '{"v":2,"event":"warning","code":"a","text":"b"}',
        '{"v":1,"event":"unheard","code":"a"}',
        '{"v":1,"event":["round"]}',
        '{"v":1,"event":"peer","name":"a"}',
        '{"v":1,"event":"round","slice":3}',
        '{"v":1,"event":"round","blocks":3}',
        '{"v":1,"event":"round","slice":{"a":{"size":1,"kept":[[1]]}}}',
    ],
)
def test_anything_else_is_a_wire_error(text: str | bytes) -> None:
    with pytest.raises(WireError):
        from_json(text)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    with pytest.raises(WireError):
        from_json(text)


def test_fields_of_later_versions_are_left_out() -> None:
    text = '{"v":1,"event":"peer","name":"a","id":"b","state":"c","later":1}'
    assert from_json(text) == PeerLine(name="a", id="b", state="c")


def test_other_commands_print_objects_of_the_same_form() -> None:
    assert object_text("check", SliceAxis(4, ((0, 2),))) == '{"v":1,"event":"check","size":4,"kept":[[0,2]]}'


def test_kept_ranges_are_taken_from_the_sub_model(blueprint: Blueprint, report: Callable[..., RoundReport]) -> None:
    sub_model = SubModel.of(blueprint, {"in": [0, 1, 6, 7], "out": [3]})
    line = line_of(report(sub_model=sub_model), blueprint)
    assert isinstance(line, RoundLine)
    assert line.slice == {"in": SliceAxis(8, ((0, 2), (6, 8))), "out": SliceAxis(4, ((3, 4),))}


DONE: dict[str, Any] = {
    "status": "ok", "name": "fox", "round": 3, "accuracy": None, "model_sha256": None, "chain": None,
    "bytes_sent": 7, "bytes_received": 0, "seconds": 1.0,
}  # fmt: skip


def test_a_line_from_before_there_was_a_split_is_still_a_line() -> None:
    value = json.loads(to_json(DoneLine(**DONE)))
    del value["traffic"], value["widths"], value["served"]
    assert from_json(json.dumps(value)) == DoneLine(**DONE)
    value["traffic"] = {"payload_sent": 7, "unheard": 1}
    line = from_json(json.dumps(value))
    assert isinstance(line, DoneLine)
    assert line.traffic == Traffic(payload_sent=7)


@pytest.mark.parametrize(
    ("seconds", "expected"), [({"train": 3.0, "wait": 1.0}, 0.75), ({"wait": 2.0}, 0.0), ({}, 0.0)]
)
def test_utilisation_is_the_share_of_the_time_that_was_trained(
    blueprint: Blueprint, report: Callable[..., RoundReport], seconds: dict[str, float], expected: float
) -> None:
    """PAPERS.md 2.6, of one node; the mean over nodes is the run's."""
    assert line_of(report(seconds=seconds), blueprint).utilisation == expected  # type: ignore[union-attr]

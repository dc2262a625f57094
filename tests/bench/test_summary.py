"""Statistics and tables of the benches: small, pure, and wrong figures would go unnoticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.summary import grouped, ratio, spread
from bench.tables import Goal, columns, flat, is_table, number, pick, scrubbed, short_by, table

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(VALUES)
def test_a_spread_lies_within_its_values_and_in_order(values: list[float]) -> None:
    found = spread(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.count == len(values)


def test_a_spread_by_hand() -> None:
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.low, found.median, found.high, found.iqr) == (2.0, 3.0, 4.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_pairs_what_was_measured_in_the_same_turn() -> None:
    """The machine was ten times slower in turn 1: two medians of all would say so, the pairs do not."""
    ours = [{"repeat": 0, "s": 1.0}, {"repeat": 1, "s": 10.0}, {"repeat": 2, "s": 1.0}]
    theirs = [{"repeat": 2, "s": 2.0}, {"repeat": 1, "s": 20.0}, {"repeat": 7, "s": 99.0}]
    assert ratio(ours, theirs, "s") == 0.5
    assert ratio(ours, [], "s") is None


def test_groups_keep_the_order_in_which_they_appeared() -> None:
    rows = [{"a": 2}, {"a": 1}, {"a": 2}]
    assert list(grouped(rows, lambda row: row["a"])) == [2, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.2345, "1.23"),
        (0.0012345, "0.00123"),
        (123.45, "123"),
        (12345.6, "12,300"),
        (3e-8, "3.0e-08"),
        (True, "yes"),
        (None, "-"),
        (float("nan"), "-"),
        (1234567, "1,234,567"),
        ("a", "a"),
    ],
)
def test_numbers_have_three_digits(value: object, text: str) -> None:
    assert number(value) == text


def test_a_table_keeps_its_columns_whatever_is_in_a_cell() -> None:
    text = table(("a", "b"), [("x|y", 1), ("two\nlines", None)])
    assert text.splitlines() == ["| a | b |", "|---|---|", "| x\\|y | 1 |", "| two lines | - |"]
    with pytest.raises(ValueError, match="1 cells under 2"):
        table(("a", "b"), [("x",)])


def test_nested_figures_become_one_level() -> None:
    found = flat({"a": {"b": 1, "c": [1.0, 2.0]}, "d": [[1]], "e": []})
    assert found == {"a.b": 1, "a.c": "1.00, 2.00", "d": "1 values", "e": "-"}
    assert pick({"a": {"b": 1}}, "a.b") == 1.0
    assert pick({"a": {"b": True}}, "a.b") is None
    assert pick({}, "a.b") is None


def test_rows_are_found_by_their_first_column() -> None:
    line = {"rows": [{"codec": "int8", "speed": 2.0}, {"codec": "int4", "bytes": 1}]}
    assert pick(line, "rows.int8.speed") == 2.0
    assert is_table(line["rows"])
    assert not is_table([])
    assert columns(line["rows"]).splitlines()[2:] == ["| int8 | 2.00 | - |", "| int4 | - | 1 |"]


def test_no_path_of_this_machine_is_kept() -> None:
    line = {"trees": {"/home/me/tree": {"x": 1}}, "at": ["/home/me/tree/bench"]}
    assert "/home" not in json.dumps(scrubbed(line, "/home/me/tree"))


def test_what_is_short_of_a_goal() -> None:
    goal = Goal("speed", "a", "at least", 0.8)
    assert goal.short_by(0.8) == "reached"
    assert goal.short_by(0.6) == "short by 25.0 %"
    assert goal.short_by(None) == "not measured"
    assert short_by(3.3, "at most", 3.0) == "short by 10.0 %"
    assert short_by(2.9, "at most", 3.0) == "reached"
    assert short_by(float("nan"), "at most", 3.0) == "not measured"

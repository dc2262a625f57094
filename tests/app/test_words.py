"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Traffic
from p2pfusion.app import words
from p2pfusion.app.words import ASCII, UNICODE


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (873, "873 B"), (1000, "1.0 kB"), (12_400, "12.4 kB"), (999_600, "1.0 MB"), (123_456_789, "123 MB"),
     (1_900_000, "1.9 MB"), (5 * 10**15, "5000 TB")],
)  # fmt: skip
def test_data_sizes(size_bytes: int, text: str) -> None:
    assert words.data_size(size_bytes) == text


def test_what_moved_is_told_by_kind() -> None:
    traffic = Traffic(payload_sent=2_800_000, header_sent=98_000, gossip_sent=200_000, gossip_received=512)
    assert words.split(traffic, "sent") == "3.1 MB (weights 2.8 MB, lists 98.0 kB, talk 200 kB)"
    assert words.split(traffic, "received") == "512 B (talk 512 B)"
    assert words.split(Traffic(), "sent") == "0 B"


@pytest.mark.parametrize(("elapsed_s", "text"), [(0, "0:00"), (9.9, "0:09"), (750, "12:30"), (3723, "1:02:03")])
def test_clock(elapsed_s: float, text: str) -> None:
    assert words.clock(elapsed_s) == text


def test_percent_count_and_enumeration() -> None:
    assert words.percent(0.914) == "91.4 %"
    assert words.percent(None) == "-"
    assert words.count(85002) == "85 002"
    assert words.enumeration([]) == ""
    assert words.enumeration(["fox"]) == "fox"
    assert words.enumeration(["fox", "otter", "wren"]) == "fox, otter and wren"


def test_a_long_list_is_as_many_of_its_first_as_fit() -> None:
    names = ["fox", "otter", "wren", "heron"]
    assert words.beginning(names, 4, 40) == "fox, otter, wren and heron"
    assert words.beginning(names, 3, 40) == "fox, otter, wren and 1 more"
    assert words.beginning(names, 4, 25) == "fox, otter and 2 more"
    assert words.beginning(names, 4, 21) == "fox, otter and 2 more"
    assert words.beginning(names, 4, 20) == "fox and 3 more"
    assert words.beginning(names, 4, 1) == "fox and 3 more", "one at least"
    assert words.beginning(["fox"], 4, 1) == "fox"
    assert words.beginning([], 4, 40) == ""


def test_sparkline_spans_from_the_lowest_to_the_highest() -> None:
    assert words.sparkline([], UNICODE) == ""
    assert words.sparkline([3.0, 3.0], UNICODE) == "▁▁"
    assert words.sparkline([0.0, 0.5, 1.0], UNICODE) == "▁▅█"


@given(st.lists(st.floats(-1e6, 1e6), max_size=40))
def test_sparkline_draws_one_known_character_per_value(values: list[float]) -> None:
    for glyphs in (UNICODE, ASCII):
        line = words.sparkline(values, glyphs)
        assert len(line) == len(values)
        assert frozenset(line) <= frozenset(glyphs.spark)


def test_bars_and_alphabets() -> None:
    assert words.bar([True, True, False, False], UNICODE) == "██▒▒"
    assert words.glyphs_for("utf-8") is words.glyphs_for("UTF8") is UNICODE
    for encoding in (None, "ascii", "latin-1", "cp437"):
        assert words.glyphs_for(encoding) is ASCII
    assert "".join((ASCII.kept, ASCII.left_out, ASCII.spark, ASCII.dot, ASCII.ellipsis)).isascii()

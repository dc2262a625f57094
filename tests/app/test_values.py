"""Every way to write a value, and every way to get it wrong: one line that says what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.app import values
from p2pfusion.app.values import Part, Until
from p2pfusion.app.words import data_rate
from p2pfusion.config import LIMIT_BYTES_PER_S_MIN


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("500ms", 0.5), ("30s", 30.0), ("2m", 120.0), ("1h", 3600.0), ("120", 120.0), ("1.5 s", 1.5), (" .5s ", 0.5)],
)
def test_durations(text: str, duration_s: float) -> None:
    assert values.parse_duration(text) == pytest.approx(duration_s)


@pytest.mark.parametrize(("text", "latency_s"), [("0", 0.0), ("0ms", 0.0), ("20ms", 0.02)])
def test_a_latency_may_be_zero(text: str, latency_s: float) -> None:
    assert values.parse_latency(text) == pytest.approx(latency_s)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50%", 0.5), ("0.5", 0.5), ("100%", 1.0), ("1", 1.0), ("12.5 %", 0.125), ("1/4", 0.25), (" 3/3", 1.0)],
)
def test_rates(text: str, rate: float) -> None:
    assert values.parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("rounds=50", Until(rounds=50)),
        ("accuracy=0.95", Until(accuracy=0.95)),
        ("accuracy=95%", Until(accuracy=0.95)),
    ],
)
def test_goals(text: str, until: Until) -> None:
    assert values.parse_until(text) == until


@pytest.mark.parametrize(
    ("text", "bytes_per_s"), [("10MB/s", 1e7), ("100Mbit/s", 1.25e7), ("500kB/s", 5e5), ("9B/s", 9.0)]
)
def test_bandwidths(text: str, bytes_per_s: float) -> None:
    assert values.parse_bandwidth(text) == bytes_per_s


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("2MB/s", 2e6), ("500 kB/s", 5e5), ("1MiB/s", 2**20), ("2KiB/s", 2048.0), ("30MB/min", 5e5), ("1.8MB/h", 500.0),
     ("1B/s", 1.0), (" 1GB/s ", 1e9), ("1GiB/s", 2**30), ("6KB/m", 100.0)],
)  # fmt: skip
def test_data_per_time(text: str, bytes_per_s: float) -> None:
    assert values.parse_budget(text) == pytest.approx(3600 * bytes_per_s)
    if bytes_per_s >= LIMIT_BYTES_PER_S_MIN:
        assert values.parse_limit_rate(text) == pytest.approx(bytes_per_s)


def test_a_limit_has_a_least_rate() -> None:
    assert values.parse_limit_rate("64KiB/s") == LIMIT_BYTES_PER_S_MIN == values.parse_limit_rate(" 65.536 kB/s")
    with pytest.raises(ValueError, match="at least 66kB/s"):
        values.parse_limit_rate("65kB/s")


@given(st.integers(1000, 9999), st.sampled_from(["kB", "MB"]))
def test_what_is_printed_can_be_read_again(tenths: int, unit: str) -> None:
    rate = values.parse_limit_rate(f"{tenths / 10}{unit}/s")
    assert values.parse_limit_rate(data_rate(rate)) == pytest.approx(rate, rel=0.06)


@pytest.mark.parametrize("text", ["192.168.1.40:7790", "127.0.0.1:0", "[::1]:80", "otter.local:7790", "[fe80::1]:1"])
def test_addresses(text: str) -> None:
    assert values.parse_address(text) == text


def test_parts_and_names() -> None:
    assert values.parse_part("0/3") == Part(0, 3)
    assert values.parse_name("amber heron") == "amber heron"
    assert len(values.parse_swarm("x" * 64)) == 64


def test_values_print_as_they_are_written() -> None:
    assert str(Part(2, 3)) == "2/3"
    assert str(Until(rounds=5)) == "rounds=5"
    assert str(Until(accuracy=0.95)) == "accuracy=0.95"


WRONG: list[tuple[Callable[[str], Any], str, str]] = [
    (values.parse_duration, "", "30s"),
    (values.parse_duration, "0s", "30s"),
    (values.parse_duration, "-3s", "30s"),
    (values.parse_duration, "3 weeks", "30s"),
    (values.parse_duration, "400000h", "30s"),
    (values.parse_duration, "1e3s", "30s"),
    (values.parse_share, "50", "50%"),
    (values.parse_share, "101%", "50%"),
    (values.parse_share, "nan", "50%"),
    (values.parse_share, "half", "50%"),
    (values.parse_rate, "0%", "50%"),
    (values.parse_rate, "0/4", "1/2"),
    (values.parse_rate, "5/4", "1/2"),
    (values.parse_rate, "0/0", "1/2"),
    (values.parse_rate, "1 of 2", "50%"),
    (values.parse_until, "50", "rounds=50"),
    (values.parse_until, "rounds=0", "rounds=50"),
    (values.parse_until, "rounds=1.5", "rounds=50"),
    (values.parse_until, "accuracy=0", "rounds=50"),
    (values.parse_until, "loss=0.1", "rounds=50"),
    (values.parse_part, "3/3", "I/N"),
    (values.parse_part, "1", "I/N"),
    (values.parse_part, "-1/3", "I/N"),
    (values.parse_address, "7790", "HOST:PORT"),
    (values.parse_address, "host:", "HOST:PORT"),
    (values.parse_address, "host:65536", "HOST:PORT"),
    (values.parse_address, "http://host:1", "HOST:PORT"),
    (values.parse_address, "::1:80", "HOST:PORT"),
    (values.parse_bandwidth, "10MB", "10MB/s"),
    (values.parse_bandwidth, "0MB/s", "10MB/s"),
    (values.parse_limit_rate, "2MB", "2MB/s"),
    (values.parse_limit_rate, "0MB/s", "2MB/s"),
    (values.parse_limit_rate, "0.9B/s", "2MB/s"),
    (values.parse_limit_rate, "1001GB/s", "2MB/s"),
    (values.parse_limit_rate, "2mb/s", "2MB/s"),
    (values.parse_limit_rate, "10Mbit/s", "2MB/s"),
    (values.parse_budget, "50MB", "50MB/h"),
    (values.parse_budget, "-1MB/h", "50MB/h"),
    (values.parse_budget, "3599B/h", "50MB/h"),
    (values.parse_name, "", "32"),
    (values.parse_name, " fox", "32"),
    (values.parse_name, "fox\n", "32"),
    (values.parse_name, "x" * 33, "32"),
    (values.parse_name, "é" * 17, "32"),
    (values.parse_swarm, "x" * 65, "64"),
]


@pytest.mark.parametrize(("parse", "text", "hint"), WRONG)
def test_what_is_wrong_is_said_in_one_line_with_the_fix(parse: Callable[[str], Any], text: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=20))
def test_no_text_makes_a_parser_raise_anything_else(text: str) -> None:
    for parse in {parse: None for parse, _, _ in WRONG}:
        with suppress(ValueError):
            parse(text)


# -- sweeps -----------------------------------------------------------------------------------------------------------


def test_lists_are_values_between_commas() -> None:
    assert values.parse_list("10s,30s,inf", values.parse_half_life) == (10.0, 30.0, math.inf)
    assert values.parse_list("0%, 5%", values.parse_share) == (0.0, 0.05)
    assert values.parse_list("4", values.parse_count(1, 8)) == (4,)
    assert values.parse_list(" msfusion,full", values.parse_word) == ("msfusion", "full")


def test_a_list_as_long_as_may_be_and_one_longer() -> None:
    text = ",".join(["1"] * values.LIST_MAX)
    assert len(values.parse_list(text, values.parse_count(1, 8))) == values.LIST_MAX
    with pytest.raises(ValueError, match="101 values: 100 at most"):
        values.parse_list(text + ",1", values.parse_count(1, 8))


@pytest.mark.parametrize("text", ["0", "0.99", "10001", "-2", "x", "", "nan", "inf"])
def test_factors_begin_at_one_and_end(text: str) -> None:
    assert values.parse_factor("1") == 1.0
    assert values.parse_factor("10000") == values.FACTOR_MAX
    with pytest.raises(ValueError, match="is not a factor"):
        values.parse_factor(text)


@pytest.mark.parametrize("text", ["0", "9", "-1", "1.5", "", "x", "99999999999"])
def test_counts_are_whole_and_within_their_range(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number from 1 to 8"):
        values.parse_count(1, 8)(text)


@pytest.mark.parametrize("text", ["0", "0s", "-inf", "forever", ""])
def test_a_half_life_is_a_duration_or_infinite(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        values.parse_half_life(text)

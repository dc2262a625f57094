"""The rule for slices and places, on any numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.footprint import Load
from p2pfusion.net.choosing import (
    AUTOCAST_GAIN,
    MEMORY_SHARE,
    RATES,
    ROUND_WANTED_S,
    Option,
    Step,
    Wanted,
    best,
    choose_rate,
    predicted,
)


def load(parameters: float) -> Load:
    return Load(round(parameters), round(parameters))


LOADS = st.integers(1, 10**9).map(load)
COSTS = st.builds(
    Step,
    seconds=st.floats(1e-6, 100),
    load=LOADS,
    batch_bytes=st.integers(0, 10**10),
)
TABLES = st.dictionaries(st.sampled_from(RATES), COSTS, min_size=1)
WANTED = st.builds(
    Wanted, steps=st.integers(1, 1000), free_bytes=st.none() | st.integers(0, 10**11), round_s=st.floats(0.01, 60)
)


@given(TABLES, WANTED)
def test_the_largest_that_fits_or_the_smallest(costs: dict[float, Step], wanted: Wanted) -> None:
    choice = choose_rate(costs, wanted)
    assert choice.step is costs[choice.rate]
    larger = [rate for rate in costs if rate > choice.rate]
    if choice.fits:
        assert wanted.steps * choice.step.seconds <= wanted.round_s
        assert wanted.free_bytes is None or choice.step.needed_bytes <= MEMORY_SHARE * wanted.free_bytes
        assert all(wanted.limit(costs[rate]) for rate in larger)
        assert (choice.limit is None) == (not larger)
    else:
        assert choice.rate == min(costs)
        assert all(wanted.limit(cost) for cost in costs.values())
        assert choice.limit


@given(TABLES, WANTED, st.floats(1, 100))
def test_a_slower_device_or_less_memory_never_gives_more(
    costs: dict[float, Step], wanted: Wanted, factor: float
) -> None:
    rate = choose_rate(costs, wanted).rate
    slower = {key: replace(step, seconds=factor * step.seconds) for key, step in costs.items()}
    assert choose_rate(slower, wanted).rate <= rate
    if wanted.free_bytes is not None:
        assert choose_rate(costs, replace(wanted, free_bytes=int(wanted.free_bytes / factor))).rate <= rate
        assert choose_rate(costs, replace(wanted, free_bytes=None)).rate >= rate


def test_by_hand() -> None:
    costs = {rate: Step(rate**2, load(1e6 * rate**2), round(1e8 * rate)) for rate in RATES}
    assert choose_rate(costs, Wanted(steps=1, free_bytes=None)).rate == 1
    timed = choose_rate(costs, Wanted(steps=50, free_bytes=None))
    assert (timed.rate, timed.limit, timed.larger) == (0.25, "time", (0.5, costs[0.5]))
    assert 50 * 0.25**2 < ROUND_WANTED_S < 50 * 0.5**2
    tight = choose_rate(costs, Wanted(steps=1, free_bytes=60_000_000))
    assert (tight.rate, tight.limit, tight.fits) == (0.25, "memory", True)
    assert not choose_rate(costs, Wanted(steps=1, free_bytes=0)).fits
    with pytest.raises(ValueError, match="no rate"):
        choose_rate({}, Wanted(steps=1, free_bytes=None))


@given(COSTS, st.floats(1, 8), LOADS)
def test_a_prediction_is_an_upper_limit_and_says_so(step: Step, factor: float, larger_load: Load) -> None:
    larger = predicted(step, factor, larger_load)
    assert larger.seconds >= step.seconds
    assert larger.batch_bytes >= step.batch_bytes
    assert larger.load == larger_load
    assert not larger.is_measured


def option(rate: float, seconds: float, *, fits: bool = True, lower: bool = False) -> Option:
    free = None if fits else 0
    return Option(choose_rate({rate: Step(seconds, load(1), 1)}, Wanted(steps=1, free_bytes=free, round_s=1e9)), lower)


def test_the_larger_slice_comes_first_then_the_faster_place() -> None:
    assert best([option(0.25, 0.1), option(0.5, 0.3), option(0.5, 0.2)]) == 2
    assert best([option(1, 0.1, fits=False), option(0.125, 9.0)]) == 1
    assert best([option(0.5, 0.1), option(0.5, 0.1)]) == 0
    with pytest.raises(ValueError, match="no place"):
        best([])


def test_a_lower_precision_must_be_worth_it() -> None:
    usual = option(1, 0.1)
    assert best([usual, option(1, 0.1 / AUTOCAST_GAIN * 1.01, lower=True)]) == 0
    assert best([usual, option(1, 0.1 / AUTOCAST_GAIN * 0.99, lower=True)]) == 1

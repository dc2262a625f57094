"""Split schemes: what every one of them promises."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import RANGES_PER_AXIS_MAX
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter, units_kept
from p2pfusion.core.schemes import (
    LEVELS,
    Schedule,
    Scheme,
    Seat,
    constant,
    cosine,
    double_shift,
    dynamic,
    full,
    phase_numbers,
    random_dropout,
    rate_of,
    rolling,
    sigmoid,
    static,
)
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from tests.core.strategies import blueprints, no_module

SCHEMES = {
    "static": static(),
    "rolling": rolling(),
    "random": random_dropout(),
    "double shift": double_shift(),
    "slip": double_shift(phase="slip"),
    "equidistant": double_shift(gaps="equidistant", phase="slip"),
}


@st.composite
def seats(draw: st.DrawFn) -> Seat:
    rates = tuple(draw(st.lists(st.floats(0.01, 1), min_size=1, max_size=6)))
    rank = draw(st.integers(0, len(rates) - 1))
    return Seat(rank=rank, peers=len(rates), round=draw(st.integers(0, 500)), rates=rates)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@given(data=st.data())
def test_every_scheme_keeps_exactly_its_rate_of_every_axis(scheme: Scheme, data: st.DataObject) -> None:
    blueprint, seat = data.draw(blueprints()), data.draw(seats())
    sub_model = scheme(blueprint, seat, random.Random(seat.round))
    sub_model.validate(blueprint)
    assert sub_model.blocks == blueprint.blocks
    for axis in blueprint.axes:
        assert sub_model.width(blueprint, axis.name) == units_kept(seat.rates[seat.rank], axis.units) * axis.unit


@given(data=st.data(), scheme=st.sampled_from((static(), rolling())))
def test_a_drawn_rate_is_one_of_the_levels_up_to_its_own_and_a_probes_its_own(
    data: st.DataObject, scheme: Scheme
) -> None:
    blueprint, seat = data.draw(blueprints()), data.draw(seats())
    own = seat.rates[seat.rank]
    rates = {own, *(level for level in LEVELS if level < own)} if seat.round else {own}
    found = dynamic(scheme)(blueprint, seat, random.Random(data.draw(st.integers(0, 100))))
    wanted = [replace(seat, rates=tuple(rate for _ in seat.rates)) for rate in rates]
    assert found in [scheme(blueprint, other, random.Random(0)) for other in wanted]


def test_all_levels_are_drawn() -> None:
    seat, rng = Seat(rank=0, peers=1, round=1, rates=(0.5,)), random.Random(0)
    blueprint = mlp(4, (32,), 2)
    widths = [dynamic(static())(blueprint, seat, rng).width(blueprint, "hidden1") for _ in range(400)]
    assert {width: 80 <= widths.count(width) <= 120 for width in widths} == {16: True, 8: True, 4: True, 2: True}


@given(st.data())
def test_full_is_the_whole_model(data: st.DataObject) -> None:
    blueprint, seat = data.draw(blueprints()), data.draw(seats())
    assert full()(blueprint, seat, random.Random(0)) == blueprint.whole()


@given(st.data())
def test_a_scheme_depends_on_the_generator_it_is_given(data: st.DataObject) -> None:
    blueprint, seat = data.draw(blueprints()), data.draw(seats())
    first = random_dropout()(blueprint, seat, random.Random("same"))
    assert first == random_dropout()(blueprint, seat, random.Random("same"))


@pytest.mark.parametrize("units", [2 * RANGES_PER_AXIS_MAX, 2 * RANGES_PER_AXIS_MAX + 1, 9 * RANGES_PER_AXIS_MAX + 7])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_random_dropout_of_wide_axes_stays_within_the_wires_ranges(units: int, rate: float) -> None:
    parameter = Parameter("w", "a", (Dim("h"),), Init(None))
    blueprint = Blueprint(("a",), (Axis("h", units),), (parameter,), no_module)
    seat = Seat(rank=0, peers=1, round=0, rates=(rate,))
    sub_model = random_dropout()(blueprint, seat, random.Random(4))
    assert len(sub_model.ranges(blueprint, "h")) <= RANGES_PER_AXIS_MAX
    assert sub_model.width(blueprint, "h") == units_kept(rate, units)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 2},
        {"rank": -1},
        {"round": -1},
        {"rates": (0.5,)},
        {"rates": (0.5, 0.0)},
        {"rates": (0.5, 1.1)},
    ],
)
def test_seats_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs|rate"):
        Seat(**{"rank": 0, "peers": 2, "round": 0, "rates": (0.5, 0.5), **wrong})


@pytest.mark.parametrize("c", [-0.1, 1.0])
def test_overlaps_are_checked(c: float) -> None:
    for make in (constant, cosine, sigmoid, lambda wrong: cosine(0.5, wrong), lambda wrong: sigmoid(0.5, wrong)):
        with pytest.raises(ValueError, match="overlap"):
            make(c)


@pytest.mark.parametrize("wrong", [{"gaps": "wide"}, {"phase": "slipping"}])
def test_unknown_words_are_refused_with_the_known_ones(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"equidistant.*aligned"):
        double_shift(**wrong)


@pytest.mark.parametrize("make", [cosine, sigmoid])
@given(start=st.floats(0, 0.99), end=st.floats(0, 0.99), rounds=st.integers(1, 300), at=st.integers(0, 400))
def test_schedules_go_from_start_to_end_and_stay(
    make: Callable[[float, float, int], Schedule], start: float, end: float, rounds: int, at: int
) -> None:
    schedule = make(start, end, rounds)
    assert schedule(0) == pytest.approx(start)
    assert schedule(max(1, rounds - 1)) == schedule(rounds + 50) == pytest.approx(end)
    assert np.sign(schedule(at) - schedule(at + 1)) in (0, np.sign(start - end))
    assert min(start, end) - 1e-12 <= schedule(at) <= max(start, end) + 1e-12


@given(st.data())
def test_axes_that_meet_have_different_phases(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    numbers = phase_numbers(blueprint)
    assert list(blueprint.axes) == [axis for axis in blueprint.axes if axis.name in numbers]
    for parameter in blueprint.parameters:
        met = {dim.axis for dim in parameter.dims if dim.axis is not None}
        assert len({numbers[name] for name in met}) == len(met)


def test_streams_keep_phase_nothing_and_layers_without_a_stream_alternate() -> None:
    cnn = phase_numbers(residual_cnn(3, (16,), 10, blocks_per_stage=3, groups=8))
    assert cnn == {"stage0": 0, "stage0_0.inner": 1, "stage0_1.inner": 1, "stage0_2.inner": 1}
    assert phase_numbers(mlp(4, (8, 8, 8), 3)) == {"hidden2": 0, "hidden1": 1, "hidden3": 1}


@given(st.data())
def test_a_slices_rate_gives_the_same_windows_as_the_rate_it_was_cut_with(data: st.DataObject) -> None:
    blueprint, seat = data.draw(blueprints()), data.draw(seats())
    rate = seat.rates[seat.rank]
    shown = rate_of(blueprint, random_dropout()(blueprint, seat, random.Random(0)))
    for axis in blueprint.axes:
        assert units_kept(shown, axis.units) == units_kept(rate, axis.units)
    assert rate_of(blueprint, blueprint.whole()) == 1.0

"""MSfusion's double shift, claim by claim (PAPERS.md 1.2, 1.3 and 1.10: worked tables, closed forms, pair coverage).

The gap formula and the overlap schedule are our choice, because the paper's own were not available to us.
"""

from __future__ import annotations

import itertools
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter, units_kept
from p2pfusion.core.coverage import coverage_by_round, everybody
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.schemes import GapPolicy, Phase, Schedule, Seat, constant, cosine, double_shift, gap, sigmoid
from p2pfusion.core.submodel import SubModel
from tests.core.strategies import no_module


def axis_of(units: int, unit: int = 1) -> Blueprint:
    parameter = Parameter("w", "a", (Dim("h"),), Init(None))
    return Blueprint(("a",), (Axis("h", units * unit, unit),), (parameter,), no_module)


def windows(
    units: int, rates: tuple[float, ...], overlap: Schedule, round_index: int, gaps: GapPolicy = "overlap"
) -> list[list[int]]:
    """Every rank's channels in a round, ascending."""
    blueprint, scheme = axis_of(units), double_shift(overlap, gaps=gaps)
    seats = [Seat(rank=rank, peers=len(rates), round=round_index, rates=rates) for rank in range(len(rates))]
    chosen = [scheme(blueprint, seat, random.Random(0)) for seat in seats]
    return [sub_model.indices(blueprint, "h").tolist() for sub_model in chosen]


def parsed(row: str) -> list[list[int]]:
    """`0123|5670|1234` as in the tables, ascending."""
    return [sorted(int(digit) for digit in window) for window in row.split("|")]


TABLES = [
    ((0.25,) * 3, constant(0.0), ["01|23|45", "12|34|56", "23|45|67", "34|56|70", "45|67|01"]),
    ((0.25,) * 3, constant(0.5), ["01|12|23", "12|23|34", "23|34|45", "34|45|56"]),
    ((0.5,) * 3, constant(0.0), ["0123|4567|0123", "1234|5670|1234", "2345|6701|2345"]),
    ((0.5,) * 3, constant(0.5), ["0123|2345|4567", "1234|3456|5670", "2345|4567|6701", "3456|5670|7012"]),
    ((0.5,) * 3, constant(0.25), ["0123|3456|6701", "1234|4567|7012"]),
    ((0.25, 0.5, 0.25), constant(0.5), ["01|1234|23", "12|2345|34"]),
    (
        (0.5,) * 3,
        cosine(0.5, 0.0, rounds=5),
        ["0123|2345|4567", "1234|3456|5670", "2345|5670|0123", "3456|7012|3456", "4567|0123|4567"],
    ),
]


@pytest.mark.parametrize(("rates", "overlap", "rows"), TABLES)
def test_the_worked_tables_for_eight_channels(rates: tuple[float, ...], overlap: Schedule, rows: list[str]) -> None:
    for round_index, row in enumerate(rows):
        assert windows(8, rates, overlap, round_index) == parsed(row)


@pytest.mark.parametrize(
    ("rates", "rows"),
    [
        ((0.25,) * 3, ["01|23|56", "12|34|67", "23|45|70"]),
        ((0.5,) * 3, ["0123|2345|5670", "1234|3456|6701"]),
        ((0.125, 0.5), ["0|4567", "1|5670"]),
    ],
)
def test_equidistant_starts_are_floor_of_rank_over_peers_times_k(rates: tuple[float, ...], rows: list[str]) -> None:
    """PAPERS.md 1.2: RAM-Fed; the overlap wanted does not matter to it."""
    for overlap in (constant(0.0), constant(0.9)):
        for round_index, row in enumerate(rows):
            assert windows(8, rates, overlap, round_index, "equidistant") == parsed(row)


def test_a_gap_follows_from_the_rates_of_both_neighbours() -> None:
    rates = (0.25, 0.5, 0.5, 0.125)
    assert windows(8, rates, constant(0.0), 0) == parsed("01|2345|6701|7")


@pytest.mark.parametrize(
    ("rate", "c", "copies"),
    [(0.25, 0.0, "11111100"), (0.25, 0.5, "12210000"), (0.5, 0.5, "11222211"), (0.5, 0.25, "22121121")],
)
def test_copies_per_channel_in_the_first_round(rate: float, c: float, copies: str) -> None:
    held = [channel for window in windows(8, (rate,) * 3, constant(c), 0) for channel in window]
    assert "".join(str(held.count(channel)) for channel in range(8)) == copies


def test_the_cosine_schedule_over_five_rounds() -> None:
    schedule = cosine(0.5, 0.0, rounds=5)
    assert [round(schedule(r), 3) for r in range(5)] == [0.5, 0.427, 0.25, 0.073, 0.0]
    assert [gap(4, 4, schedule(r)) for r in range(5)] == [2, 2, 3, 4, 4]


def test_the_sigmoid_schedule_over_five_rounds() -> None:
    schedule = sigmoid(0.5, 0.0, rounds=5)
    assert [round(schedule(r), 3) for r in range(5)] == [0.5, 0.477, 0.25, 0.023, 0.0]
    assert [gap(4, 4, schedule(r)) for r in range(5)] == [2, 2, 3, 4, 4]


def test_the_gap_rounds_halves_up_and_is_never_nothing() -> None:
    assert [gap(n, n, 0.5) for n in range(1, 8)] == [1, 1, 2, 2, 3, 3, 4]
    assert gap(4, 4, 0.99) == 1
    assert gap(2, 6, 0.0) == gap(6, 2, 0.0) == 2


sizes = st.tuples(st.integers(1, 40), st.integers(1, 6), st.floats(0.02, 1), st.floats(0, 0.99))


@given(sizes, st.integers(0, 100))
def test_neighbours_share_n_minus_g_channels_unless_they_wrap_onto_each_other(
    size: tuple[int, int, float, float], round_index: int
) -> None:
    units, peers, rate, c = size
    n = units_kept(rate, units)
    g = gap(n, n, c)
    found = windows(units, (rate,) * peers, constant(c), round_index)
    for left, right in pairwise(found):
        if g + n <= units:
            assert len(set(left) & set(right)) == max(0, n - g)


@given(sizes, st.integers(0, 100))
def test_one_round_covers_min_k_of_peers_minus_one_gaps_and_a_window(
    size: tuple[int, int, float, float], round_index: int
) -> None:
    units, peers, rate, c = size
    n = units_kept(rate, units)
    covered = {channel for window in windows(units, (rate,) * peers, constant(c), round_index) for channel in window}
    assert len(covered) == min(units, (peers - 1) * gap(n, n, c) + n)


@given(sizes)
def test_over_k_rounds_every_channel_is_trained_n_times_by_each_peer(size: tuple[int, int, float, float]) -> None:
    units, peers, rate, c = size
    seen = np.zeros((peers, units), int)
    for round_index in range(units):
        for rank, window in enumerate(windows(units, (rate,) * peers, constant(c), round_index)):
            seen[rank, window] += 1
    assert (seen == units_kept(rate, units)).all()


@given(sizes)
def test_a_peer_has_visited_every_channel_after_k_minus_n_plus_one_rounds(size: tuple[int, int, float, float]) -> None:
    units, _, rate, c = size
    needed = units - units_kept(rate, units) + 1
    visited = [set(windows(units, (rate,), constant(c), round_index)[0]) for round_index in range(needed)]
    assert len(set().union(*visited)) == units
    assert needed == 1 or len(set().union(*visited[:-1])) < units


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 30), st.floats(0.05, 1))
def test_windows_move_in_whole_units(units: int, unit: int, round_index: int, rate: float) -> None:
    blueprint, single = axis_of(units, unit), axis_of(units)
    seat = Seat(rank=1, peers=3, round=round_index, rates=(rate,) * 3)
    coarse = double_shift()(blueprint, seat, random.Random(0)).indices(blueprint, "h")
    fine = double_shift()(single, seat, random.Random(0)).indices(single, "h")
    assert coarse.tolist() == [index * unit + place for index in fine.tolist() for place in range(unit)]


def test_overlap_averaging_is_the_mean_of_all_copies_not_the_formula_as_printed() -> None:
    """PAPERS.md 1.5: Eq. 5 as printed weighs 2|S|/(|S|+1); the mean reading is the only average."""
    blueprint = axis_of(8)
    base = np.full(8, 10, np.float32)
    copies = {0: 12.0, 1: 18.0, 2: 0.0}
    items = []
    for rank, window in enumerate(windows(8, (0.5,) * 3, constant(0.5), 0)):
        sub_model = SubModel.of(blueprint, {"h": window})
        items.append(Weighted(bytes([rank]) * 16, 65536, sub_model, np.full(4, copies[rank] - 10, np.float32)))
    after = fold(blueprint, blueprint.whole(), base, items)
    assert after.tolist() == [12, 12, 15, 15, 9, 9, 0, 0]


# -- pairs: PAPERS.md 1.10 --------------------------------------------------------------------------------------------


def stream_and_inner(units: int) -> Blueprint:
    """A residual stream, and one block that reads it and adds to it: its weights are all pairs of the two axes."""
    stream, inner = Dim("stream"), Dim("inner")
    parameters = (
        Parameter("stem.weight", "stem", (stream, Dim(None, 3)), Init(None)),
        Parameter("block.into", "block", (inner, stream), Init(None)),
        Parameter("block.out", "block", (stream, inner), Init(None)),
    )
    axes = (Axis("stream", units), Axis("inner", units))
    return Blueprint(("stem", "block"), axes, parameters, no_module)


def pairs(units: int, rate: float, peers: int, phase: Phase, rounds: int) -> list[float]:
    """Share of pairs trained after each round, at c = 0.25."""
    scheme = double_shift(constant(0.25), phase=phase)
    seats = everybody((rate,) * peers, rounds)
    return [covered.pairs for covered in coverage_by_round(scheme, stream_and_inner(units), seats)]


@pytest.mark.parametrize(
    ("units", "rate", "peers", "percent"),
    [(8, 0.25, 3, 37.5), (8, 0.5, 3, 87.5), (64, 0.25, 4, 48.4), (64, 0.25, 3, 48.4), (64, 0.125, 8, 23.4),
     (64, 0.5, 3, 98.4)],
)  # fmt: skip
def test_aligned_windows_never_train_most_pairs(units: int, rate: float, peers: int, percent: float) -> None:
    found = pairs(units, rate, peers, "aligned", 400)
    assert round(100 * found[-1], 1) == percent
    assert found[-1] == min(1, (2 * units_kept(rate, units) - 1) / units) == found[units - 1]


@pytest.mark.parametrize(
    ("rate", "peers", "percents", "full_at"),
    [
        (0.25, 4, (82.4, 99.9, 100), 85),
        (0.25, 3, (69.6, 98.3, 100), 85),
        (0.125, 8, (61.3, 95.3, 100), 91),
        (0.5, 3, (100, 100, 100), 25),
    ],
)
def test_slipping_windows_train_all_pairs(rate: float, peers: int, percents: tuple[float, ...], full_at: int) -> None:
    found = pairs(64, rate, peers, "slip", 100)
    assert [round(100 * found[rounds - 1], 1) for rounds in (25, 50, 100)] == list(percents)
    assert found.index(1.0) + 1 == full_at


def test_slipping_through_512_channels_takes_some_400_rounds() -> None:
    found = pairs(512, 0.25, 4, "slip", 400)
    percents = [100 * found[rounds - 1] for rounds in (25, 50, 100, 200, 400)]
    assert percents == pytest.approx([30.7, 36.6, 59.1, 84.7, 100], abs=0.06)


def test_three_axes_that_all_meet_slip_against_each_other() -> None:
    """A stage's first block: the stream before, the stream after, the layer between."""
    axes = [Dim(name) for name in ("before", "after", "inner")]
    parameters = tuple(
        Parameter(f"{a.axis}.{b.axis}", "block", (a, b), Init(None)) for a, b in itertools.combinations(axes, 2)
    )
    blueprint = Blueprint(("block",), tuple(Axis(str(dim.axis), 64) for dim in axes), parameters, no_module)
    found = coverage_by_round(double_shift(constant(0.25), phase="slip"), blueprint, everybody((0.25,) * 4, 200))
    assert found[-1].pairs == 1.0


@given(sizes, st.integers(0, 300))
def test_slipping_leaves_gaps_and_overlaps_alone(size: tuple[int, int, float, float], round_index: int) -> None:
    units, peers, rate, c = size
    blueprint = stream_and_inner(units)
    seats = [Seat(rank=rank, peers=peers, round=round_index, rates=(rate,) * peers) for rank in range(peers)]
    aligned, slipped = (
        [double_shift(constant(c), phase=phase)(blueprint, seat, random.Random(0)) for seat in seats]
        for phase in ("aligned", "slip")
    )
    for before, after in zip(aligned, slipped, strict=True):
        assert before.indices(blueprint, "stream").tolist() == after.indices(blueprint, "stream").tolist()
    for left, right in pairwise(range(peers)):
        shared = [
            len(np.intersect1d(found[left].indices(blueprint, "inner"), found[right].indices(blueprint, "inner")))
            for found in (aligned, slipped)
        ]
        assert shared[0] == shared[1]

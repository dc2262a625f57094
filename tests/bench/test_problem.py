"""The averaging problem: everybody gets the same vectors, and an answer that moved nothing is seen."""

import random

import numpy as np
import pytest

from bench.exchange import folded, moved, square_layers
from bench.peers import problem
from p2pfusion.core.schemes import Seat, constant, double_shift

ELEMENTS = 40_000


def test_vectors_are_seeded_and_differ_between_peers() -> None:
    first, again = problem.start(1000, 3, 1), problem.start(1000, 3, 1)
    assert problem.checksum(first) == problem.checksum(again)
    assert problem.checksum(first) != problem.checksum(problem.start(1000, 3, 2))
    assert first.dtype == np.float32
    assert first.std() == pytest.approx(np.hypot(problem.BASE_STD, problem.OFFSET_STD), rel=0.1)


def test_the_exact_mean_has_no_error_and_a_start_has_a_large_one() -> None:
    expected = problem.exact_mean(5000, 0, 4)
    assert problem.error(expected.astype(np.float32), expected) < 1e-7
    assert problem.error(problem.start(5000, 0, 0), expected) > 0.2
    assert problem.error(problem.start(4000, 0, 0), expected) == float("inf")


def test_a_sample_sees_what_the_whole_sees() -> None:
    size = problem.PERIOD + 1000
    mean = problem.exact_mean(size, 0, 2).astype(np.float32)
    assert problem.sample_error(mean, 0, 2) < 1e-7
    assert problem.sample_error(problem.start(size, 0, 1), 0, 2) > 0.2


def test_layers_make_up_the_size_or_refuse_it() -> None:
    assert square_layers(50_000_000).size == 50_000_000
    assert square_layers(10_000_000).size == 10_000_000
    with pytest.raises(ValueError, match="are not"):
        square_layers(10_000_001)


def test_the_formula_for_slices_is_the_mean_over_who_covers_an_element() -> None:
    blueprint = square_layers(ELEMENTS)
    before = problem.base(ELEMENTS, 0)
    parts = []
    for rank in range(3):
        seat = Seat(rank=rank, peers=3, round=1, rates=(0.5,) * 3)
        parts.append((rank, double_shift(constant(0.5))(blueprint, seat, random.Random(0))))
    found = folded(blueprint, before, parts, 1, 0)
    total, count = np.zeros(ELEMENTS), np.zeros(ELEMENTS)
    for rank, sub_model in parts:
        held = moved(before, problem.offset(ELEMENTS, 0, rank), 1)
        for place in sub_model.positions(blueprint).tolist():
            total[place] += float(held[place]) - float(before[place])
            count[place] += 1
    expected = before + np.divide(total, count, out=np.zeros(ELEMENTS), where=count > 0)
    np.testing.assert_array_equal(found, expected)
    assert (count == 0).any()
    assert (count == 2).any()

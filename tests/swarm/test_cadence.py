"""Patience by hand, the table of readiness, and what a contribution weighs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import WEIGHT_MAX, CadenceConfig
from p2pfusion.swarm.cadence import ROUNDS_WATCHED_MAX, WAITS_KEPT_MAX, Cadence, weight_of
from tests.swarm.made import peer

A, B, C, D = (peer(number) for number in (1, 2, 3, 4))


def waited(*waits_s: float, config: CadenceConfig | None = None) -> Cadence:
    """One round for each wait, with one other peer."""
    cadence = Cadence(config or CadenceConfig())
    for round_, wait_s in enumerate(waits_s, 1):
        cadence.published(round_, [A], [], 100.0 * round_)
        cadence.arrived(round_, A, 100.0 * round_ + wait_s)
    return cadence


# -- patience ---------------------------------------------------------------------------------------------------------


def test_patience_before_the_first_wait():
    assert waited().patience_s == 10.0
    assert waited(config=CadenceConfig(patience_first_s=3.0)).patience_s == 3.0


@pytest.mark.parametrize(
    ("waits_s", "expected_s"),
    [
        ((1.0,), 1.0),
        ((1.0, 2.0, 3.0), 2.0 + 4 * 1.0),
        ((1.0, 2.0, 3.0, 10.0), 2.5 + 4 * 1.0),
        ((5.0, 5.0, 5.0, 50.0), 5.0),
        ((0.01,), 0.2),
        ((0.0, 0.0, 0.0), 0.2),
        ((100.0,), 60.0),
        ((1.0, 30.0), 60.0),
    ],
)
def test_patience_is_the_median_and_four_deviations_within_its_limits(waits_s, expected_s):
    assert waited(*waits_s).patience_s == pytest.approx(expected_s)


def test_patience_may_be_given():
    assert waited(50.0, 50.0, config=CadenceConfig(patience_s=0.0)).patience_s == 0.0
    assert waited(config=CadenceConfig(patience_s=7.5)).patience_s == 7.5


def test_only_the_last_waits_count():
    assert waited(*[50.0] * 100, *[1.0] * WAITS_KEPT_MAX).patience_s == pytest.approx(1.0)
    almost = waited(*[50.0] * 100, *[1.0] * (WAITS_KEPT_MAX // 2))
    assert almost.patience_s == 60.0, "half of the old ones are still remembered"


def test_who_was_there_before_me_did_not_keep_me_waiting():
    cadence = Cadence(CadenceConfig())
    cadence.published(1, [A, B, C], [A, B, D], 5.0)
    cadence.arrived(1, C, 13.0)
    assert cadence.patience_s == pytest.approx(0.2), "the median of 0, 0 and 8, no deviation"


@pytest.mark.parametrize(("round_", "who"), [(1, D), (2, A), (0, A)])
def test_the_unexpected_teach_nothing(round_, who):
    cadence = Cadence(CadenceConfig())
    cadence.published(1, [A, B, C], [], 5.0)
    cadence.arrived(round_, who, 6.0)
    assert cadence.patience_s == 10.0


def test_late_arrivals_teach_for_some_rounds():
    cadence = Cadence(CadenceConfig())
    for round_ in range(1, ROUNDS_WATCHED_MAX + 2):
        cadence.published(round_, [A], [], float(round_))
    cadence.arrived(1, A, 30.0)
    assert cadence.patience_s == 10.0, "one round too old"
    cadence.arrived(2, A, 30.0)
    assert cadence.patience_s == pytest.approx(28.0)


def test_many_rounds_leave_nothing_behind():
    cadence = waited(*[1.0] * 1000)
    assert len(cadence._published_s) == len(cadence._expected) == ROUNDS_WATCHED_MAX
    assert len(cadence._waits_s) == WAITS_KEPT_MAX


# -- ready ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quorum", "expected", "arrived", "ready"),
    [
        (0.0, 4, 0, True),
        (0.75, 0, 0, True),
        (0.75, 1, 0, False),
        (0.75, 1, 1, True),
        (0.75, 2, 1, False),
        (0.75, 3, 2, False),
        (0.75, 4, 2, False),
        (0.75, 4, 3, True),
        (0.75, 5, 3, False),
        (0.75, 5, 4, True),
        (0.75, 8, 6, True),
        (1.0, 4, 3, False),
        (1.0, 4, 4, True),
    ],
)
def test_the_quorum_of_those_expected(quorum, expected, arrived, ready):
    cadence = Cadence(CadenceConfig(quorum=quorum))
    everybody = [peer(number) for number in range(expected)]
    cadence.published(1, everybody[1:], [], 0.0)
    assert cadence.is_ready(1, everybody[:arrived], everybody, 0.1) is ready


def test_strangers_do_not_make_a_quorum():
    cadence = Cadence(CadenceConfig(quorum=0.75))
    cadence.published(1, [A], [], 0.0)
    assert not cadence.is_ready(1, [B, C, D], [A, B, C, peer(5)], 0.1)


def test_the_end_of_patience_makes_ready():
    cadence = Cadence(CadenceConfig(quorum=1.0, patience_s=2.0))
    cadence.published(1, [A, B], [], 10.0)
    assert cadence.ready_at_s(1) == 12.0
    assert not cadence.is_ready(1, [], [A, B], 11.9)
    assert cadence.is_ready(1, [], [A, B], 12.0)


def test_a_round_i_did_not_publish_to_holds_nobody():
    cadence = Cadence(CadenceConfig(quorum=1.0, patience_s=2.0))
    assert cadence.is_ready(3, [], [A], 0.0)
    assert cadence.ready_at_s(3) == 2.0


# -- weight -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "staleness", "power", "decay", "expected"),
    [
        (1, 1, 0.0, 1.0, 65536),
        (5000, 64, 0.0, 1.0, 65536),
        (3, 1, 1.0, 1.0, 3 * 65536),
        (9, 1, 0.5, 1.0, 3 * 65536),
        (10, 1, 2.0, 1.0, 100 * 65536),
        (1, 0, 0.0, 0.5, 65536),
        (1, -3, 0.0, 0.5, 65536),
        (1, 1, 0.0, 0.5, 65536),
        (1, 2, 0.0, 0.5, 32768),
        (1, 4, 0.0, 0.5, 8192),
        (1, 17, 0.0, 0.5, 1),
        (1, 64, 0.0, 0.5, 1),
        (0, 1, 1.0, 1.0, 1),
        (65536, 1, 1.0, 1.0, WEIGHT_MAX),
        (65537, 1, 1.0, 1.0, WEIGHT_MAX),
        (10**9, 1, 2.0, 1.0, WEIGHT_MAX),
    ],
)
def test_weight(samples, staleness, power, decay, expected):
    assert weight_of(samples, staleness, CadenceConfig(weight_power=power, decay=decay)) == expected


@given(st.integers(0, 10**12), st.integers(-5, 5000), st.floats(0, 2), st.floats(0.001, 1))
def test_a_weight_always_passes_the_gate(samples, staleness, power, decay):
    weight = weight_of(samples, staleness, CadenceConfig(weight_power=power, decay=decay))
    assert isinstance(weight, int)
    assert 1 <= weight <= WEIGHT_MAX

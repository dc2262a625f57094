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


# -- the semi-asynchronous round (PAPERS.md 2.6) ----------------------------------------------------------------------

SEMI = CadenceConfig(quorum=0.5, grace_s=1.0, grace_share=0.25, deadline_share=3.0)


def semi(round_s: float) -> Cadence:
    """After one round that began at 0 and had its quorum, A of A and B, after `round_s`."""
    cadence = Cadence(SEMI)
    cadence.published(1, [A, B], [], round_s / 2, began_s=0.0)
    cadence.arrived(1, A, round_s)
    assert not cadence.is_ready(1, [A], [A, B], round_s)
    assert cadence.round_s == round_s
    return cadence


@pytest.mark.parametrize(("round_s", "grace_s"), [(2.0, 1.0), (4.0, 1.0), (8.0, 2.0)])
def test_grace_is_a_quarter_of_a_round_and_at_least_a_second(round_s, grace_s):
    cadence = semi(round_s)
    assert cadence.ready_at_s(1, [A], [A, B]) == round_s + grace_s
    assert not cadence.is_ready(1, [A], [A, B], round_s + grace_s - 0.01)
    assert cadence.is_ready(1, [A, B], [A, B], round_s + 0.01), "all are there"
    assert cadence.is_ready(1, [A], [A, B], round_s + grace_s)


def test_the_deadline_is_three_rounds_from_the_beginning():
    cadence = semi(8.0)
    cadence.published(2, [A, B], [], 108.0, began_s=100.0)
    assert not cadence.is_ready(2, [], [A, B], 123.9)
    assert cadence.ready_at_s(2, [], [A, B]) == 124.0
    assert cadence.is_ready(2, [], [A, B], 124.0)
    assert cadence.round_s == 8.0, "a round whose quorum never came teaches nothing"
    cadence.published(3, [A, B], [], 230.0, began_s=200.0)
    assert cadence.is_ready(3, [], [A, B], 230.0), "I am the slow one: nobody waits longer"


def test_what_a_round_takes_is_a_running_mean():
    cadence = semi(8.0)
    cadence.published(2, [A, B], [A], 112.0, began_s=100.0)
    assert cadence.round_s == 9.0
    assert not cadence.is_ready(2, [A], [A, B], 112.0)


def test_a_quorum_that_comes_after_a_round_was_left_teaches_too():
    """One short round, then rounds of 10 s: the first are left at once, and soon the deadline has followed."""
    cadence, left_at_once = semi(1.0), []
    for round_ in range(2, 12):
        began_s = 100.0 * round_
        cadence.published(round_, [A, B], [], began_s + 10.0, began_s=began_s)
        left_at_once.append(cadence.is_ready(round_, [], [A, B], began_s + 10.0))
        for other in (A, B):
            cadence.arrived(round_, other, began_s + 10.2)
    assert left_at_once == [True] * 2 + [False] * 8
    assert cadence.round_s == pytest.approx(10.2, abs=0.6)


def test_what_a_round_takes_is_learnt_by_who_asks_only_a_round_later():
    """As one does who trains ahead: by then the first patience has ended."""
    cadence = Cadence(SEMI)
    cadence.published(1, [A, B], [], 10.0, began_s=0.0)
    cadence.arrived(1, A, 11.0)
    cadence.published(2, [A, B], [A, B], 30.0, began_s=10.0)
    assert cadence.is_ready(1, [A], [A, B], 30.0)
    assert cadence.round_s == 11.0 + 0.25 * (20.0 - 11.0)


def test_asking_changes_nothing():
    cadence = Cadence(SEMI)
    cadence.published(1, [A, B], [], 4.0, began_s=0.0)
    assert not cadence.is_ready(1, [A], [A, B], 4.5)
    assert cadence.round_s is None
    assert cadence.is_ready(1, [A], [A], 4.5), "B has left: all are there"


def test_who_leaves_may_complete_a_quorum_and_who_comes_undo_it():
    cadence = Cadence(CadenceConfig(quorum=0.5, grace_s=2.0, patience_s=30.0))
    cadence.published(1, [A, B, C], [], 10.0)
    cadence.arrived(1, A, 12.0)
    assert cadence.ready_at_s(1, [A], [A, B, C]) == 40.0
    assert cadence.ready_at_s(1, [A], [A, B]) == 14.0, "grace from when A came"
    cadence.arrived(1, B, 13.0)
    assert cadence.ready_at_s(1, [A, B], [A, B, C]) == 15.0
    assert cadence.ready_at_s(1, [A, B], [A, B, C, D, peer(5)]) == 40.0


def test_without_the_rule_patience_ends_the_wait_whatever_a_round_takes():
    cadence = Cadence(CadenceConfig(quorum=0.5))
    cadence.published(1, [A, B], [], 4.0, began_s=0.0)
    assert cadence.ready_at_s(1, [], [A, B]) == 14.0
    assert cadence.is_ready(1, [A], [A, B], 5.0), "no grace"


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
    assert len(cadence._mine) == ROUNDS_WATCHED_MAX
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
    assert cadence.ready_at_s(1, [], [A, B]) == 12.0
    assert not cadence.is_ready(1, [], [A, B], 11.9)
    assert cadence.is_ready(1, [], [A, B], 12.0)


def test_a_round_i_did_not_publish_to_holds_nobody():
    cadence = Cadence(CadenceConfig(quorum=1.0, patience_s=2.0))
    assert cadence.is_ready(3, [], [A], 0.0)
    assert cadence.ready_at_s(3, [], [A]) == 0.0


def test_nobody_draws_out_a_wait_under_way():
    """Late arrivals teach patience for the next round; this one ends when it was to end."""
    cadence = waited(*[1.0] * 4)
    cadence.published(9, [A, B], [], 900.0)
    assert cadence.ready_at_s(9, [], [A, B, C]) == 901.0
    for round_ in range(1, 5):
        for number in range(10, 40):
            cadence._mine[round_].expected |= {peer(number)}  # they were expected, too
            cadence.arrived(round_, peer(number), 900.9)
    assert cadence.patience_s == 60.0
    assert cadence.ready_at_s(9, [], [A, B, C]) == 901.0
    assert not cadence.is_ready(9, [], [A, B, C], 900.95)
    assert cadence.is_ready(9, [], [A, B, C], 901.0)


def test_less_patience_shortens_a_wait_under_way():
    cadence = Cadence(CadenceConfig())
    cadence.published(1, [A, B, C, D], [], 5.0)
    assert cadence.ready_at_s(1, [], [A, B, C, D]) == 15.0
    cadence.arrived(1, A, 6.0)
    assert cadence.ready_at_s(1, [A], [A, B, C, D]) == 6.0


def test_grace_waits_for_the_rest_once_the_quorum_is_there():
    cadence = Cadence(CadenceConfig(quorum=0.5, grace_s=2.0, patience_s=30.0))
    cadence.published(1, [A, B, C], [], 10.0)
    everybody = [A, B, C, D]
    assert not cadence.is_ready(1, [D], everybody, 10.0)
    assert cadence.ready_at_s(1, [D], everybody) == 40.0
    cadence.arrived(1, A, 15.0)
    assert not cadence.is_ready(1, [D, A], everybody, 15.0)
    assert cadence.ready_at_s(1, [D, A], everybody) == 17.0
    cadence.arrived(1, B, 16.5)
    assert not cadence.is_ready(1, [D, A, B], everybody, 16.9)
    assert cadence.is_ready(1, [D, A, B], everybody, 17.0)


def test_no_grace_when_all_are_there_or_patience_ends():
    cadence = Cadence(CadenceConfig(quorum=0.5, grace_s=2.0, patience_s=3.0))
    cadence.published(1, [A], [], 10.0)
    assert not cadence.is_ready(1, [D], [A, D], 10.0)
    assert cadence.is_ready(1, [D, A], [A, D], 10.1)
    cadence.published(2, [A], [], 20.0)
    cadence.arrived(2, D, 22.5)
    assert not cadence.is_ready(2, [D], [A, D], 22.5)
    assert cadence.ready_at_s(2, [D], [A, D]) == 23.0
    assert cadence.is_ready(2, [D], [A, D], 23.0)


def test_the_dead_teach_no_patience():
    """Three of eight are silent from round 6 on: nobody waits longer for it."""
    cadence, others = Cadence(CadenceConfig()), [peer(number) for number in range(1, 8)]
    for round_ in range(1, 20):
        cadence.published(round_, others, [], 10.0 * round_)
        for number, other in enumerate(others):
            if round_ < 6 or number > 2:
                cadence.arrived(round_, other, 10.0 * round_ + 0.3 + 0.01 * number)
    assert cadence.patience_s < 0.5


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


@pytest.mark.parametrize(
    ("staleness", "expected"), [(-1, 65536), (0, 65536), (1, 65536), (2, 46341), (4, 32768), (64, 8192)]
)
def test_the_papers_weight_of_late_work_is_a_setting(staleness, expected):
    """(1 + rounds late) ^ -1/2, PAPERS.md 2.6."""
    assert weight_of(10, staleness, CadenceConfig(staleness_power=0.5)) == expected


@pytest.mark.parametrize(("samples", "expected"), [(0, 65536), (1, 65536), (32, 2048), (480, 137), (10**9, 1)])
def test_a_weight_may_make_up_for_steps(samples, expected):
    assert weight_of(samples, 1, CadenceConfig(weight_power=-1.0)) == expected


@given(
    st.integers(0, 10**12),
    st.integers(-5, 5000),
    st.builds(CadenceConfig, weight_power=st.floats(-1, 2), decay=st.floats(0.001, 1), staleness_power=st.floats(0, 4)),
)
def test_a_weight_always_passes_the_gate(samples, staleness, config):
    weight = weight_of(samples, staleness, config)
    assert isinstance(weight, int)
    assert 1 <= weight <= WEIGHT_MAX

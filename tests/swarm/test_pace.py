"""Local steps that fit the device: by hand, and in a swarm that is nothing but arithmetic."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import PEERS_MAX, CadenceConfig
from p2pfusion.swarm.pace import LATE_MIN_S, OWN_KEPT_MAX, ROUNDS_KEPT_MAX, SLACK, Pace
from tests.swarm.made import peer
from tests.swarm.swarm_arithmetic import Swarm

A, B, C, D = (peer(number) for number in (1, 2, 3, 4))
FREE = CadenceConfig(quorum=0.0, round_min_s=0.0)
WANTED = 20
FAST_S = 0.05
"""Seconds per step of an ordinary device: a round of 20 steps takes a second."""


def heard(pace: Pace, took_s: dict[bytes, float], *, rounds: int = 6, samples: int = 640) -> None:
    """Everybody publishes round after round, each with its own period; nobody waits."""
    for round_ in range(1, rounds + 1):
        for peer_, each_s in took_s.items():
            pace.heard(round_, peer_, samples, round_ * each_s)


def paced(*took_s: float, step_s: float, config: CadenceConfig = FREE, rest_s: float = 0.0) -> Pace:
    """Others that take this long for a round, and a device of mine."""
    pace = Pace(config)
    others = {peer(number): each_s for number, each_s in enumerate(took_s, 1)}
    pace.expect(list(others))
    heard(pace, others)
    pace.trained(WANTED, WANTED * step_s, rest_s)
    return pace


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_who_knows_nothing_takes_all_steps():
    pace = Pace(FREE)
    assert pace.steps(WANTED) == WANTED
    pace.expect([A, B])
    pace.trained(WANTED, 100.0, 0.0)
    assert (pace.round_s(), pace.steps(WANTED)) == (None, WANTED)
    pace.heard(1, A, 640, 1.0)
    pace.heard(2, B, 640, 2.0)
    assert (pace.round_s(), pace.steps(WANTED)) == (None, WANTED), "nobody was seen to begin and to end a round"


@pytest.mark.parametrize(
    ("slower", "steps"), [(0.5, 20), (1.0, 20), (1.25, 20), (2.0, 10), (3.0, 6), (4.0, 5), (20.0, 1), (500.0, 1)]
)
def test_a_slow_device_takes_the_steps_that_fit(slower, steps):
    assert paced(1.0, 1.0, 1.0, step_s=FAST_S * slower).steps(WANTED) == steps


def test_switched_off_everybody_takes_all():
    off = CadenceConfig(quorum=0.0, round_min_s=0.0, adapt_steps=False)
    assert paced(1.0, 1.0, step_s=FAST_S * 20, config=off).steps(WANTED) == WANTED


def test_what_a_round_takes_besides_its_steps_counts_too():
    assert paced(1.0, 1.0, step_s=FAST_S * 4, rest_s=0.3).steps(WANTED) == 3
    assert paced(1.0, 1.0, step_s=FAST_S * 4, rest_s=7.0).steps(WANTED) == 1


def test_a_few_milliseconds_are_not_late():
    late_s = LATE_MIN_S * 0.9
    assert paced(0.01, 0.01, step_s=(0.01 + late_s) / WANTED).steps(WANTED) == WANTED
    assert paced(0.01, 0.01, step_s=(0.01 + 2 * late_s) / WANTED).steps(WANTED) < WANTED


@pytest.mark.parametrize(
    ("took_s", "round_s"),
    [((1.0,), 1.0), ((1.0, 8.0), 1.0), ((1.0, 1.0, 9.0), 1.0), ((2.0, 3.0, 9.0), 2.0)],
)
def test_nobody_waits_so_the_round_is_the_fastest_ones(took_s, round_s):
    assert paced(*took_s, step_s=1.0).round_s() == pytest.approx(round_s)


def test_where_the_fast_wait_the_majority_counts_and_not_the_wait():
    """Quorum 1: a round lasts as long as the slowest; what the others need is seen from its beginning."""
    pace = Pace(CadenceConfig(quorum=1.0, patience_s=60.0))
    pace.expect([A, B, C])
    for round_ in range(1, 6):
        begin_s = 20.0 * (round_ - 1)
        for peer_, each_s in ((A, 1.0), (B, 2.0), (C, 4.0)):
            pace.heard(round_, peer_, 640, begin_s + each_s)
        pace.published(round_, begin_s + 20.0)
    assert pace.round_s() == pytest.approx(2.0)
    pace.trained(WANTED, 20.0, 0.0)
    assert pace.steps(WANTED) == 2


def test_patience_that_is_given_ends_a_peers_wait():
    """A waited no longer than it was told to; the rest of its round was training."""
    pace = Pace(CadenceConfig(quorum=1.0, patience_s=3.0))
    pace.expect([A])
    for round_ in range(1, 6):
        pace.heard(round_, A, 640, 20.0 * round_)
        pace.published(round_, 20.0 * round_ + 19.0)
    assert pace.round_s() == pytest.approx(17.0)


def test_who_takes_fewer_steps_does_not_pass_for_a_fast_one():
    pace = Pace(FREE)
    pace.expect([A])
    for round_ in range(1, 8):
        pace.heard(round_, A, 640 if round_ < 3 else 64, 10.0 * min(round_, 2) + max(round_ - 2, 0) * 1.0)
    assert pace.round_s() == pytest.approx(10.0), "a second for a tenth of the samples"


def test_the_last_plan_stays_while_it_fits():
    pace = paced(1.0, 1.0, 1.0, step_s=FAST_S * 4)
    assert pace.steps(WANTED) == 5
    for step_s in (0.16, 0.24, 0.22, 0.17, 0.21):
        pace.trained(5, 5 * step_s, 0.0)
        assert pace.steps(WANTED) == 5
    for _ in range(OWN_KEPT_MAX):
        pace.trained(5, 5 * 0.4, 0.0)
    assert pace.steps(WANTED) == 2


def test_a_device_that_gets_faster_recovers():
    pace = paced(1.0, 1.0, 1.0, step_s=FAST_S * 20)
    plans = [pace.steps(WANTED)]
    for _ in range(3):
        pace.trained(plans[-1], plans[-1] * FAST_S, 0.0)
        plans.append(pace.steps(WANTED))
    assert plans == [1, 1, WANTED, WANTED]


def test_steps_of_no_duration_are_no_reason_to_cut():
    assert paced(1.0, step_s=0.0).steps(WANTED) == WANTED


def test_strangers_and_repetitions_teach_nothing():
    pace = paced(1.0, 1.0, step_s=FAST_S * 4)
    before = pace.round_s()
    for number in range(10):
        pace.heard(2 + number % 5, D, 640, 6.0 + number * 0.001)
        pace.heard(6, A, 640, 7.0 + number)
        pace.heard(3, A, 640, 7.0 + number)
    assert pace.round_s() == before


def test_who_is_heard_before_it_is_known_counts_as_soon_as_it_is():
    pace = Pace(FREE)
    heard(pace, {A: 1.0, B: 1.0})
    assert pace.round_s() is None
    pace.expect([A, B])
    assert pace.round_s() == pytest.approx(1.0)


def test_only_those_who_train_now_count():
    pace = paced(1.0, 1.0, 8.0, step_s=1.0)
    pace.expect([peer(3)])
    assert pace.round_s() == pytest.approx(8.0)
    pace.expect([D])
    assert pace.round_s() is None, "nothing is known of D"


def test_many_rounds_leave_nothing_behind():
    pace = Pace(CadenceConfig())
    pace.expect([A, B])
    heard(pace, {A: 1.0, B: 1.0}, rounds=500)
    for round_ in range(500):
        pace.published(round_, float(round_))
        pace.trained(1, 1.0, 0.0)
    assert sorted(pace._arrivals) == list(range(501 - ROUNDS_KEPT_MAX, 501))
    assert len(pace._step_s) == len(pace._rest_s) == OWN_KEPT_MAX
    for number in range(PEERS_MAX + 10):
        pace.heard(500, number.to_bytes(16, "big"), 640, 500.0)
    assert len(pace._samples_max) == PEERS_MAX
    assert len(pace._arrivals[500]) == PEERS_MAX + 1, "and mine"
    pace.expect([A])
    pace.heard(600, A, 640, 600.0)
    for round_ in range(601, 601 + ROUNDS_KEPT_MAX):
        pace.published(round_, 601.0)
    pace.expect([A])
    assert list(pace._samples_max) == [A]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(0, 10**6), st.floats(0, 3)), max_size=80),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=5),
    st.integers(1, 1000),
    st.floats(0, 1),
)
def test_a_plan_is_always_one_to_wanted(arrivals, mine, wanted, quorum):
    pace = Pace(CadenceConfig(quorum=quorum))
    pace.expect([peer(number) for number in range(1, 6)])
    now_s = 0.0
    for number, round_, samples, later_s in arrivals:
        now_s += later_s
        pace.heard(round_, peer(number), samples, now_s)
        assert 1 <= pace.steps(wanted) <= wanted
    for train_s, rest_s in mine:
        pace.trained(pace.steps(wanted), train_s, rest_s)
        assert 1 <= pace.steps(wanted) <= wanted


# -- whole swarms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quorum", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
def test_equal_devices_take_all_their_steps(nodes, quorum):
    config = CadenceConfig(round_min_s=0.0, quorum=quorum)
    swarm = Swarm([FAST_S] * nodes, config=config, wanted=WANTED, jitter=0.1).run(60.0)
    assert {steps for device in swarm.devices for steps in device.steps()} == {WANTED}


@pytest.mark.parametrize("quorum", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("nodes", "slow"), [(8, 1), (8, 3), (8, 4), (4, 1)])
def test_slow_devices_fit_in_and_nobody_else_trains_less(nodes, slow, quorum):
    config = CadenceConfig(round_min_s=0.0, quorum=quorum)
    swarm = Swarm([FAST_S] * (nodes - slow) + [20 * FAST_S] * slow, config=config, jitter=0.1).run(100.0)
    for device in swarm.devices[: nodes - slow]:
        assert set(device.steps()) == {WANTED}
    for device in swarm.devices[nodes - slow :]:
        assert device.steps()[0] == WANTED
        assert set(device.steps()[3:]) == {1}
        assert device.took_s() < 1.25
        assert len(device.rounds) > 50, "it takes part in nearly every round"


@pytest.mark.parametrize("nodes", [2, 3])
def test_a_few_devices_wait_for_a_slow_one_until_it_fits_in(nodes):
    swarm = Swarm([FAST_S] * (nodes - 1) + [20 * FAST_S], jitter=0.1).run(150.0)
    assert set(swarm.devices[-1].steps()[4:]) == {1}
    assert swarm.devices[0].cadence.patience_s < 1.0
    assert len(swarm.devices[-1].rounds) > 100 > 150 / 20


def test_without_it_a_slow_device_is_rarely_there():
    config = CadenceConfig(round_min_s=0.0, adapt_steps=False)
    swarm = Swarm([FAST_S] * 7 + [20 * FAST_S], config=config, jitter=0.1).run(100.0)
    assert len(swarm.devices[-1].rounds) < 6
    assert len(swarm.devices[0].rounds) > 80


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(1.0, 20.0), min_size=2, max_size=8), st.floats(0.0, 0.1), st.integers(0, 100))
def test_whatever_the_speeds_nobody_is_left_far_behind_and_the_fastest_takes_all(slower, jitter, seed):
    """Nobody's round settles above what the majority needs, and the slack; or at one step where a step takes longer."""
    swarm = Swarm([FAST_S * each for each in slower], jitter=jitter, seed=seed).run(400.0)
    fastest = min(swarm.devices, key=lambda device: device.step_s)
    assert sum(fastest.steps()[-20:]) >= 0.8 * WANTED * len(fastest.steps()[-20:])
    for device in swarm.devices:
        steps = device.steps()
        others_s = sorted(WANTED * other.step_s for other in swarm.devices if other is not device)
        most_s = others_s[len(others_s) // 2] * SLACK * (1 + 3 * jitter) + LATE_MIN_S
        assert steps[0] == WANTED
        assert device.took_s(5) <= max(most_s, device.step_s * (1 + jitter))
        settled = steps[len(steps) // 2 :]
        assert sum(before != after for before, after in pairwise(settled)) <= 3 + len(settled) // 4, "no up and down"


def test_the_slow_take_all_their_steps_again_when_the_fast_have_left():
    swarm = Swarm([FAST_S] * 4 + [20 * FAST_S] * 4, jitter=0.1).run(80.0)
    assert all(device.steps()[-1] == 1 for device in swarm.devices[4:])
    swarm.leave(swarm.devices[:4])
    swarm.run(400.0)
    assert all(device.steps()[-1] == WANTED for device in swarm.devices)


def test_a_device_that_was_slow_for_a_while_recovers():
    swarm = Swarm([FAST_S] * 8, jitter=0.1).run(20.0)
    lame = swarm.devices[3]
    lame.step_s *= 10
    swarm.run(60.0)
    assert lame.steps()[-1] == 2
    lame.step_s /= 10
    swarm.run(70.0)
    assert lame.steps()[-1] == WANTED
    assert all(set(device.steps()) == {WANTED} for device in swarm.devices if device is not lame)


def test_one_slow_device_teaches_nobody_patience():
    for adapt_steps in (False, True):
        config = CadenceConfig(round_min_s=0.0, adapt_steps=adapt_steps)
        swarm = Swarm([FAST_S] * 7 + [20 * FAST_S], config=config, jitter=0.1).run(100.0)
        assert max(device.cadence.patience_s for device in swarm.devices[:7]) < 0.5
        waits_s = [done.left_s - done.published_s for done in swarm.devices[0].rounds[1:-1]]
        assert max(waits_s) < 0.6

"""The prober as a step machine (memberlist: state_test.go `TestMemberList_Probe*`, `awareness_test.go`)."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import GossipConfig
from p2pfusion.swarm.probing import LAG_S, RESTARTS_MAX, Accuse, Ask, Ping, Prober
from tests.swarm.made import peer

GOSSIP = GossipConfig(probe_interval_s=1.0, probe_timeout_s=0.5, indirect_probes=3, awareness_max=8)


def prober(gossip: GossipConfig = GOSSIP, seed: int = 1) -> Prober:
    return Prober(gossip, random.Random(seed))


def members(count: int) -> list[bytes]:
    return [peer(number) for number in range(1, count + 1)]


def pinged(actions: list) -> bytes:
    (target,) = [action.target for action in actions if isinstance(action, Ping)]
    return target


def failed(made: Prober, who: list[bytes], now_s: float) -> bytes:
    """One whole probe that nobody answers; the target. Ends at the moment of the verdict, when the next has begun."""
    target = pinged(made.tick(who, now_s))
    while True:
        actions = made.tick(who, made.due_s)
        if Accuse(target) in actions:
            return target


# -- one probe --------------------------------------------------------------------------------------------------------


def test_a_silent_member_is_pinged_twice_then_by_others_then_accused():
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 10.0))
    steps = []
    for _ in range(3):
        at_s = made.due_s
        assert made.tick(who, at_s - 0.01) == [], "nothing before it is due"
        steps.append((at_s, made.tick(who, at_s)))
    (again_s, again), (ask_s, ask), (end_s, verdict) = steps
    assert (again_s, again) == (10.25, [Ping(target, 0.75)])
    assert ask_s == 10.5
    (request,) = ask
    assert isinstance(request, Ask)
    assert (request.target, request.deadline_s) == (target, 0.5)
    assert len(set(request.helpers)) == 3
    assert target not in request.helpers
    assert end_s == 11.0
    assert verdict[0] == Accuse(target)
    assert isinstance(verdict[1], Ping)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_answer_at_any_stage_ends_the_probe(steps):
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 0.0))
    for _ in range(steps):
        made.tick(who, made.due_s)
    made.acked(target)
    assert made.due_s == 1.0, "the period is waited out"
    assert [type(action) for action in made.tick(who, 1.0)] == [Ping]


def test_the_answer_of_another_ends_nothing():
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 0.0))
    made.acked(next(member for member in who if member != target))
    assert made.due_s == 0.25


def test_who_left_meanwhile_is_not_accused():
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 0.0))
    rest = [member for member in who if member != target]
    assert pinged(made.tick(rest, 0.25)) in rest


def test_of_two_the_other_is_accused_without_help():
    made, who = prober(), members(1)
    assert failed(made, who, 0.0) == who[0]


def test_nobody_is_probed_when_nobody_is_there():
    made = prober()
    assert made.tick([], 3.0) == []
    assert made.due_s == 4.0


def test_the_first_probe_comes_at_random():
    moments = []
    for seed in range(20):
        made = prober(seed=seed)
        made.begin(100.0)
        moments.append(made.due_s)
    assert all(100.0 <= at_s <= 101.0 for at_s in moments)
    assert len(set(moments)) == 20


@given(st.integers(2, 12), st.integers(0, 2**32), st.integers(1, 4))
def test_everybody_has_a_turn_in_every_round(count, seed, rounds):
    made, who, turns, now_s = prober(seed=seed), members(count), Counter(), 0.0
    for _ in range(rounds * count):
        target = pinged(made.tick(who, now_s))
        turns[target] += 1
        made.acked(target)
        now_s = made.due_s
    assert turns == dict.fromkeys(who, rounds)


def test_who_missed_a_call_is_probed_next_once_a_round():
    made, who = prober(), members(9)
    first = pinged(made.tick(who, 0.0))
    victim = made._order[0]
    made.missed(victim)
    made.acked(first)
    assert pinged(made.tick(who, 1.0)) == victim
    made.acked(victim)
    made.missed(victim)
    assert pinged(made.tick(who, 2.0)) != victim, "the others have their turn"


# -- awareness --------------------------------------------------------------------------------------------------------


def test_awareness_stretches_the_period_and_the_timeout():
    made, who = prober(), members(6)
    made.awareness = 2
    target = pinged(made.tick(who, 0.0))
    assert made.due_s == 0.75
    made.tick(who, 0.75)
    assert made.due_s == 1.5
    assert [type(action) for action in made.tick(who, 1.5)] == [Ask]
    assert made.due_s == 3.0
    made.acked(target)
    assert made.awareness == 1


@pytest.mark.parametrize(("nacks", "awareness"), [(0, 3), (1, 2), (3, 0), (5, 0)])
def test_helpers_who_are_silent_too_say_something_about_me(nacks, awareness):
    """memberlist's `TestMemberList_ProbeNode_Awareness_MissedNack`: a no from a helper proves my own ears."""
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 0.0))
    made.tick(who, made.due_s)
    made.tick(who, made.due_s)
    for _ in range(nacks):
        made.nacked(target)
    made.nacked(peer(99))
    assert Accuse(target) in made.tick(who, made.due_s)
    assert made.awareness == awareness


def test_without_helpers_a_silence_may_be_mine():
    made = prober()
    failed(made, members(1), 0.0)
    assert made.awareness == 1


@given(st.lists(st.sampled_from(["ack", "refuted", "lag", "silence"]), max_size=60), st.integers(0, 8))
def test_awareness_stays_within_its_bounds(events, most):
    made, who, now_s = prober(GossipConfig(awareness_max=most)), members(5), 0.0
    for event in events:
        now_s = max(now_s, made.due_s)
        made.tick(who, now_s)
        if event == "ack" and made._probe is not None:
            made.acked(made._probe.target)
        elif event == "refuted":
            made.refuted()
        elif event == "lag":
            made.lagged(1.0)
        assert 0 <= made.awareness <= most


# -- a loop that stood still ------------------------------------------------------------------------------------------


def test_a_little_lag_is_nothing():
    made, who = prober(), members(6)
    made.tick(who, 0.0)
    made.lagged(LAG_S - 0.01)
    assert (made.awareness, made.due_s) == (0, 0.25)


def test_a_probe_during_which_my_loop_stood_still_begins_anew():
    made, who = prober(), members(6)
    target = pinged(made.tick(who, 0.0))
    made.tick(who, 0.25)
    made.lagged(2.0)
    assert made.awareness == 1
    assert made.tick(who, 2.5) == [Ping(target, 2.0)], "the same, with twice the time"
    assert made.due_s == 3.0


def test_who_always_lags_still_comes_to_an_end():
    made, who = prober(), members(6)
    target, now_s, restarts = pinged(made.tick(who, 0.0)), 0.0, -1
    for _ in range(100):
        now_s = max(made.due_s, now_s) + 2.0
        made.lagged(2.0)
        actions = made.tick(who, now_s)
        if Accuse(target) in actions:
            break
        restarts += sum(isinstance(action, Ping) for action in actions)
    else:
        raise AssertionError("never judged")
    assert RESTARTS_MAX <= restarts + 1 <= RESTARTS_MAX + 1
    assert made.awareness == GOSSIP.awareness_max

"""Who is told what when everybody tells everybody: all of it, once, in few calls, whatever gets lost on the way."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import FRESH_PER_CALL_MAX, GossipConfig
from p2pfusion.swarm.telling import ANSWER_TIMES, OWED_MAX, Telling, is_first_of_pair
from tests.swarm.made import ME, peer

GOSSIP = GossipConfig()
FIRST = next(peer(n) for n in range(1, 99) if is_first_of_pair(ME, peer(n)))
SECOND = next(peer(n) for n in range(1, 99) if not is_first_of_pair(ME, peer(n)))
PEERS = sorted((FIRST, SECOND))


def id_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def telling(*, fresh: int = 0) -> Telling:
    """Everybody has heard the line `old`, and is owed so many contributions."""
    made = Telling(ME, GOSSIP)
    made.due(PEERS, "old", 0.0)
    for one in PEERS:
        made.told(one, (), "old")
    for number in range(fresh):
        made.owe(id_of(number), PEERS)
    return made


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_of_two_peers_exactly_one_is_first(one, other):
    if one != other:
        assert is_first_of_pair(one, other) != is_first_of_pair(other, one)


def test_each_is_first_of_about_half_of_its_pairs():
    peers = [peer(number) for number in range(1, 17)]
    firsts = [sum(is_first_of_pair(one, other) for other in peers if other != one) for one in peers]
    assert min(firsts) >= 7
    assert max(firsts) <= 8


def test_who_knows_everything_is_not_called():
    assert telling().due(PEERS, "old", 5.0) == ([], inf)


def test_the_first_of_a_pair_calls_at_once_and_the_second_after_coalescing():
    made = telling(fresh=1)
    assert made.due(PEERS, "old", 5.0) == ([FIRST], 5.0 + GOSSIP.coalesce_s)
    made.calling(FIRST, 5.0)
    assert made.due(PEERS, "old", 5.0 + GOSSIP.coalesce_s)[0] == [SECOND]


def test_the_second_of_a_pair_need_not_call_when_it_was_called():
    made = telling(fresh=1)
    made.due([SECOND], "old", 5.0)
    made.called(SECOND)
    assert made.owed_back(SECOND, 5.0) == (id_of(0),)
    made.told(SECOND, made.owed_back(SECOND, 5.0), "old")
    assert made.due([SECOND], "old", 6.0) == ([], inf)


def test_a_line_alone_waits_for_company():
    made = telling()
    assert made.due(PEERS, "new", 5.0) == ([], 5.0 + GOSSIP.coalesce_s)
    assert made.due(PEERS, "new", 5.0 + GOSSIP.coalesce_s)[0] == PEERS


def test_one_call_at_a_time_and_what_comes_meanwhile_goes_with_the_next():
    made = telling(fresh=1)
    made.calling(FIRST, 5.0)
    made.owe(id_of(7), PEERS)
    assert made.due([FIRST], "old", 5.01)[0] == []
    assert made.owed_back(FIRST, 5.01) == (), "a call of mine brings it"
    made.answered(FIRST, 0.01)
    made.told(FIRST, [id_of(0)], "old")
    assert made.due([FIRST], "old", 5.02)[0] == [FIRST]
    assert made.owed(FIRST) == (id_of(7),)


def test_the_silent_are_called_again_soon_and_then_at_every_beat():
    made, calls = telling(fresh=1), []
    now_s = 0.0
    while now_s < 30.0:
        due, look_s = made.due([FIRST], "old", now_s)
        for one in due:
            calls.append(now_s)
            made.calling(one, now_s)
        now_s = now_s if due else look_s
    pauses = [round(after - before, 6) for before, after in pairwise(calls)]
    assert pauses[0] == GOSSIP.retry_s
    assert set(pauses[1:]) == {GOSSIP.gossip_interval_s}


def test_who_calls_is_not_waited_for_any_longer():
    made = telling(fresh=1)
    for _ in range(5):
        made.calling(FIRST, 1.0)
    assert made.due([FIRST], "old", 1.3)[0] == []
    made.called(FIRST)
    assert made.due([FIRST], "old", 1.3)[0] == [FIRST]


def test_slow_answers_make_patient():
    made = telling()
    assert made.patience_s == GOSSIP.retry_s
    for _ in range(100):
        made.answered(FIRST, 0.5)
    assert made.patience_s == pytest.approx(ANSWER_TIMES * 0.5, rel=0.01)


def test_what_is_sealed_and_who_is_gone_is_forgotten():
    made = telling(fresh=3)
    made.keep([FIRST], lambda id_: id_ != id_of(1))
    assert made.owed(FIRST) == (id_of(0), id_of(2))
    assert made.owed(SECOND) == ()
    assert len(made) == 1


def test_direct_members_max():
    """So many are remembered, however many come and go between beats; who is present stays."""
    made, many = Telling(ME, GOSSIP), [peer(number) for number in range(1, 3 * GOSSIP.direct_members_max)]
    for start in range(2 * GOSSIP.direct_members_max):
        present = many[start : start + GOSSIP.direct_members_max]
        made.due(present, "line", 0.0)
        made.owe(id_of(start), present)
        assert len(made) <= GOSSIP.direct_members_max
        assert all(made.owed(one) for one in present)
    assert len(made) == GOSSIP.direct_members_max


def test_strangers_leave_nothing_behind():
    made, stranger = telling(), peer(999)
    made.calling(stranger, 1.0)
    made.called(stranger)
    made.answered(stranger, 0.1)
    made.told(stranger, [id_of(0)], "new")
    assert not made.answering(stranger, [id_of(0)], "new", 1.0)
    assert len(made) == len(PEERS)


def test_a_line_that_only_an_answer_brought_is_told_again_after_the_patience():
    made = telling(fresh=1)
    assert made.answering(FIRST, [id_of(0)], "new", 5.0)
    assert made.due([FIRST], "new", 5.1) == ([], 5.0 + made.patience_s)
    assert made.due([FIRST], "new", 5.0 + made.patience_s)[0] == [FIRST]
    assert made.due([FIRST], "newer", 5.1) == ([], 5.1 + GOSSIP.coalesce_s), "what is newer does not wait for that"
    made.told(FIRST, (), "new")
    assert made.due([FIRST], "new", 9.0) == ([], inf)


def test_owed_max():
    made = telling(fresh=OWED_MAX + 1)
    ids = []
    while made.owed(FIRST):
        assert len(made.owed(FIRST)) <= FRESH_PER_CALL_MAX
        ids += made.owed(FIRST)
        made.told(FIRST, made.owed(FIRST), "old")
    assert ids == [id_of(number) for number in range(1, OWED_MAX + 1)]


@given(st.lists(st.tuples(st.sampled_from(("owe", "line", "answer", "lose")), st.integers(1, 40)), max_size=60))
def test_whatever_is_lost_everybody_is_told_everything(steps):
    """Calls end well or get lost in any order; once they end well, all that was owed was told and nothing is due."""
    made, now_s, line, owed = telling(), 0.0, 0, set()
    heard: dict[bytes, set[bytes]] = {one: set() for one in PEERS}

    def speak(*, is_answered: bool) -> None:
        for one in made.due(PEERS, line, now_s)[0]:
            fresh = made.owed(one)
            made.calling(one, now_s)
            if is_answered:
                heard[one] |= set(fresh)
                made.answered(one, 0.01)
                made.told(one, fresh, line)

    for what, number in steps:
        now_s += number / 100
        if what == "owe":
            owed.add(id_of(number))
            made.owe(id_of(number), PEERS)
        elif what == "line":
            line += 1
        else:
            speak(is_answered=what == "answer")
    for _ in range(4):
        now_s += GOSSIP.gossip_interval_max_s
        speak(is_answered=True)
    assert all(ids == owed for ids in heard.values())
    assert made.due(PEERS, line, now_s) == ([], inf)

"""The shrinking timer (memberlist: suspicion_test.go, `TestSuspicion_remainingSuspicionTime`) and bounded rumours."""

from __future__ import annotations

from math import ceil, log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import GossipConfig
from p2pfusion.swarm.suspicion import (
    KNOWN_TO_MAX,
    RETRANSMIT_FACTOR,
    RUMOURS_WAITING_MAX,
    Rumours,
    Suspicion,
    suspicion_s,
)
from p2pfusion.wire.messages import Rumour
from tests.swarm.made import peer


def about(member: int, accuser: int = 9) -> Rumour:
    return Rumour(peer(member), 1, "suspect", peer(accuser))


@pytest.mark.parametrize(
    ("confirmations", "expected", "seconds"),
    [
        (0, 3, 30.0),
        (1, 3, 16.0),  # 30 - 28 * log 2 / log 4
        (2, 3, 7.81),
        (3, 3, 2.0),
        (4, 3, 2.0),
        (0, 1, 30.0),
        (1, 1, 2.0),
        (0, 0, 30.0),  # of two nobody could confirm: a single accuser never kills fast
        (0, -1, 30.0),
    ],
)
def test_the_more_accusers_the_shorter(confirmations, expected, seconds):
    """The rows with 3 expected are memberlist's table for k = 3, 2 s and 30 s."""
    assert suspicion_s(confirmations, expected, 2.0, 30.0) == pytest.approx(seconds, abs=0.01)


@given(st.integers(0, 20), st.integers(0, 10), st.floats(0.1, 5), st.floats(0, 30))
def test_it_stays_within_its_bounds_and_never_grows(confirmations, expected, least_s, more_s):
    times = [suspicion_s(count, expected, least_s, least_s + more_s) for count in range(confirmations + 1)]
    assert all(least_s <= time_s <= least_s + more_s for time_s in times)
    assert times == sorted(times, reverse=True)


def test_the_same_accuser_counts_once_and_no_more_than_are_expected():
    suspicion = Suspicion(1, 10.0, {peer(1): None}, 2)
    gossip = GossipConfig(suspicion_min_s=1.0, suspicion_max_s=5.0)
    assert suspicion.ends_s(gossip) == 15.0
    assert [suspicion.confirm(peer(n)) for n in (1, 2, 2, 3, 4)] == [False, True, False, True, False]
    assert suspicion.ends_s(gossip) == 11.0


def test_a_death_sentence_leaves_the_least_time():
    suspicion = Suspicion(1, 10.0, {peer(1): None}, 3, is_sentenced=True)
    assert suspicion.ends_s(GossipConfig(suspicion_min_s=1.5)) == 11.5


# -- rumours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 9, 16, 100, 1000])
def test_a_rumour_is_told_a_bounded_number_of_times(members):
    rumours = Rumours()
    rumours.add(about(1))
    told = [rumours.take(peer(100 + n), members, 10) for n in range(members)]
    assert told.count((about(1),)) == min(ceil(RETRANSMIT_FACTOR * log10(members + 1)), members - 1)
    assert len(rumours) == 0


def test_nobody_is_told_twice_nor_what_it_told():
    rumours = Rumours()
    rumours.add(about(1))
    rumours.known_to(about(1), peer(20))
    rumours.known_to(about(2), peer(20))
    assert [rumours.take(peer(n), 100, 9) for n in (20, 21, 21, 22)] == [(), (about(1),), (), (about(1),)]


def test_known_to_max():
    rumours = Rumours()
    rumours.add(about(1))
    for teller in range(KNOWN_TO_MAX + 1):
        rumours.known_to(about(1), peer(100 + teller))
    assert rumours.take(peer(100 + KNOWN_TO_MAX - 1), 1000, 9) == ()
    assert rumours.take(peer(100 + KNOWN_TO_MAX), 1000, 9) == (about(1),)


def test_what_was_told_least_often_goes_first():
    rumours = Rumours()
    for member in (1, 2, 3):
        rumours.add(about(member))
    assert rumours.take(peer(20), 100, 2) == (about(1), about(2))
    assert rumours.has_untold
    assert rumours.take(peer(21), 100, 2) == (about(3), about(1))
    assert not rumours.has_untold
    rumours.add(about(1))
    assert rumours.take(peer(20), 100, 1) == (about(1),), "told anew from the start"


def test_what_is_no_longer_so_is_not_told():
    rumours = Rumours()
    for accuser in (7, 8):
        rumours.add(about(1, accuser))
    rumours.add(about(2))
    rumours.drop(peer(1))
    assert rumours.take(peer(20), 100, 9) == (about(2),)


def test_rumours_waiting_max():
    rumours = Rumours()
    for member in range(RUMOURS_WAITING_MAX):
        rumours.add(about(member))
    rumours.take(peer(20), 100, 1)
    rumours.add(about(RUMOURS_WAITING_MAX))
    assert len(rumours) == RUMOURS_WAITING_MAX
    assert about(0) not in rumours.take(peer(21), 100, RUMOURS_WAITING_MAX), "the one told most often made room"

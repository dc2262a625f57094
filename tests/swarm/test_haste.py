"""How much to fetch at once, and how long to wait for it: limits, slow links, and what was learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import SEGMENT_BYTES_MAX, GossipConfig
from p2pfusion.swarm.haste import (
    FIRST_BYTES_PER_S,
    HEDGE_MIN_S,
    LARGE_BYTES,
    LATE_FACTOR,
    PACES_KEPT_MAX,
    Haste,
)

GOSSIP = GossipConfig()
MIB = 1 << 20


def test_the_window_holds_its_limit_and_not_a_byte_more():
    haste = Haste(GOSSIP)
    most = GOSSIP.fetch_bytes_in_flight_max
    assert haste.fits(most - MIB, MIB)
    assert not haste.fits(most - MIB, MIB + 1)
    assert haste.fits(0, 10 * most), "one request always may"


def test_requests_that_time_out_halve_the_window_and_answers_open_it_again():
    haste = Haste(GOSSIP)
    for moment_s in range(100):
        haste.exceeded(MIB, moment_s, moment_s + 0.5)
    assert haste.fits(0, MIB)
    assert not haste.fits(1, MIB)
    haste.exceeded(LARGE_BYTES, 100.0, 101.0)
    for _ in range(4):
        haste.came(MIB, MIB, 1.0)
    assert haste.fits(MIB, MIB)
    assert not haste.fits(MIB + 1, MIB)
    for _ in range(1000):
        haste.came(MIB, MIB, 1.0)
    assert not haste.fits(GOSSIP.fetch_bytes_in_flight_max, 1)


def test_requests_that_time_out_together_halve_the_window_once():
    haste = Haste(GOSSIP)
    half = GOSSIP.fetch_bytes_in_flight_max // 2
    for began_s in (1.0, 1.5, 18.9):
        haste.exceeded(MIB, began_s, 19.0 + began_s / 100)
    assert haste.fits(half - MIB, MIB)
    assert not haste.fits(half - MIB, MIB + 1)
    haste.exceeded(MIB, 20.0, 38.0)
    assert haste.fits(half // 2 - MIB, MIB)
    assert not haste.fits(half // 2 - MIB, MIB + 1)


@given(st.floats(GOSSIP.slowest_bytes_per_s, 1e9), st.integers(0, 32))
def test_under_a_limit_what_is_asked_for_can_be_here_in_time(limit, already):
    """At the limit alone, everything in flight is here in half the time a request is given, plus a segment's own."""
    haste, under_way = Haste(GOSSIP, limit), 0
    for _ in range(already):
        if haste.fits(under_way, MIB):
            under_way += MIB
    assert under_way / limit <= haste.deadline_s(SEGMENT_BYTES_MAX, under_way)
    assert under_way <= max(MIB, 0.5 * GOSSIP.deadline_s(MIB) * limit)
    assert haste.alone_s(max(under_way, MIB)) >= under_way / limit, "no second copy while the limit alone explains it"


def test_a_slow_limit_leaves_one_segment_at_a_time():
    haste = Haste(GOSSIP, 100e3)
    assert haste.fits(0, MIB)
    assert not haste.fits(1, MIB)
    assert haste.deadline_s(MIB, MIB) > MIB / 100e3


def test_without_a_limit_deadlines_are_those_of_the_configuration():
    assert Haste(GOSSIP).deadline_s(MIB, 8 * MIB) == GOSSIP.deadline_s(MIB)


@pytest.mark.parametrize("size", [0, LARGE_BYTES])
def test_small_requests_are_late_by_their_like(size):
    haste = Haste(GOSSIP)
    assert haste.alone_s(size) == HEDGE_MIN_S
    for took_s in (0.1, 0.2, 0.3, 0.4, 0.5):
        haste.came(size, size, took_s)
    assert haste.alone_s(size) == pytest.approx(0.3 + 4 * 0.1)
    for _ in range(PACES_KEPT_MAX):
        haste.came(size, size, 0.001)
    assert haste.alone_s(size) == HEDGE_MIN_S


def test_large_requests_are_late_by_what_shares_the_link():
    haste = Haste(GOSSIP)
    assert haste.alone_s(8 * MIB) == pytest.approx(8 * MIB / FIRST_BYTES_PER_S)
    for _ in range(3):
        haste.came(MIB, 4 * MIB, 2.0)
    assert haste.alone_s(8 * MIB) == pytest.approx(LATE_FACTOR * 4.0)
    assert haste.alone_s(MIB) == pytest.approx(LATE_FACTOR * 0.5)
    for _ in range(PACES_KEPT_MAX):
        haste.came(MIB, MIB, 0.001)
    assert haste.alone_s(8 * MIB) == HEDGE_MIN_S
    haste.came(LARGE_BYTES, LARGE_BYTES, 9.0)
    assert haste.alone_s(8 * MIB) == HEDGE_MIN_S, "small ones say nothing of large ones"

"""The limit on traffic: what a bucket lets through in any time, and that control traffic never waits."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.net.rate import BURST_S, PIECE_BYTES_MIN, Bucket, Throttle
from p2pfusion.sim.loop import run

RATE = 1000.0
pauses_s = st.floats(0, 5)
sizes = st.integers(0, 3000)


@given(st.lists(st.tuples(pauses_s, sizes), min_size=1, max_size=60))
def test_no_stretch_of_time_lets_more_through_than_its_share_and_one_burst(steps):
    """Whoever waits as told, however unevenly the pieces come, stays within rate x time + burst + the last piece."""
    bucket, asked_s, moved = Bucket(RATE), 0.0, []
    for pause_s, size in steps:
        asked_s += pause_s
        moved.append((asked_s + bucket.take(size, asked_s), size))
    for begin in range(len(moved)):
        total = 0
        for at_s, size in moved[begin:]:
            assert total <= RATE * (at_s - moved[begin][0] + BURST_S) + moved[begin][1] + 1e-6
            total += size


@given(st.lists(sizes, min_size=1, max_size=60))
def test_pieces_move_in_the_order_in_which_they_came(pieces):
    bucket = Bucket(RATE)
    moments = [bucket.take(size, 0.0) for size in pieces]
    assert moments == sorted(moments)


def test_an_idle_bucket_holds_one_burst_and_not_a_byte_more():
    burst = int(BURST_S * RATE)
    bucket = Bucket(RATE)
    assert bucket.take(burst, 100.0) == 0
    assert Bucket(RATE).take(burst + 1, 100.0) == pytest.approx(1 / RATE)


def test_a_clock_that_stands_or_goes_back_gives_nothing_away():
    bucket = Bucket(RATE)
    waits = [bucket.take(500, now_s) for now_s in (10.0, 10.0, 5.0, 10.0)]
    assert waits == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_control_is_paid_for_by_payload_but_stops_it_for_one_burst_at_most():
    bucket = Bucket(RATE)
    bucket.let_pass(100, 0.0)
    assert bucket.take(500, 0.0) == pytest.approx(0.1)
    flooded = Bucket(RATE)
    for _ in range(100):
        flooded.let_pass(1000, 0.0)
    assert flooded.take(0, 0.0) == pytest.approx(BURST_S)
    owing = Bucket(RATE)
    owing.take(5000, 0.0)
    owing.let_pass(1000, 0.0)
    assert owing.take(0, 0.0) == pytest.approx(4.5), "what payload owes itself stays"


def test_payload_waits_and_control_does_not():
    async def main() -> None:
        throttle, moments = Throttle(RATE), []
        now_s = asyncio.get_running_loop().time

        async def payload() -> None:
            for _ in range(10):
                await throttle.wait(500, is_payload=True)
                moments.append(now_s())

        async with asyncio.TaskGroup() as group:
            group.create_task(payload())
            await asyncio.sleep(1.0)
            await throttle.wait(100, is_payload=False)
            assert now_s() == 1.0
        assert moments[0] == 0.0
        assert moments[-1] == pytest.approx((10 * 500 + 100) / RATE - BURST_S)
        assert all(later - one <= 0.6 + 1e-9 for one, later in pairwise(moments)), "it flows"

    run(main)


def test_several_transfers_share_one_limit():
    async def main() -> float:
        throttle = Throttle(RATE)

        async def transfer() -> None:
            for _ in range(20):
                await throttle.wait(100, is_payload=True)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(transfer())
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(5 * 20 * 100 / RATE - BURST_S)


def test_without_a_limit_nothing_waits():
    async def main() -> None:
        throttle = Throttle(None)
        await throttle.wait(1 << 40, is_payload=True)
        assert asyncio.get_running_loop().time() == 0
        assert (throttle.is_limited, throttle.seconds(1 << 40), throttle.piece_bytes(7)) == (False, 0.0, 7)

    run(main)


def test_pieces_are_as_small_as_the_limit_asks_and_no_smaller():
    assert Throttle(1e9).piece_bytes(1 << 18) == 1 << 18
    assert Throttle(1e6).piece_bytes(1 << 18) == 100_000
    assert Throttle(1.0).piece_bytes(1 << 18) == PIECE_BYTES_MIN

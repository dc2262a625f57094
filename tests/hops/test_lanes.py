"""Lanes: every owner in one, every shard once in each, no relay in two; more of them only where that pays."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.errors import TaskError
from p2pfusion.hops.chains import choose
from p2pfusion.hops.lanes import FASTER_SHARE, Lanes, deal, devices, have_room, lane_of, mended, peopled, round_of, seen
from p2pfusion.sim.loop import run
from p2pfusion.wire.hops import LANES_MAX, Lane, Offer
from tests.hops.made import ROOM, SPLIT, device, hop, offer
from tests.hops.street import Street, split_of
from tests.hops.test_chains import LAST, check, offers, some
from tests.hops.test_device import fedavg

FIRST_OWNER = 100


def owners(many: int) -> list[bytes]:
    return [device(FIRST_OWNER + number) for number in range(many)]


def check_all(lanes: Lanes, relays: list[Offer], people: list[bytes]) -> None:
    assert sorted(owner for lane in lanes for owner in lane.owners) == people
    assert len(devices(lanes)) == sum(len(lane.hops) for lane in lanes)
    assert 1 <= len(lanes) <= LANES_MAX
    for lane in lanes:
        assert lane.owners
        assert list(lane.owners) == sorted(lane.owners)
        check(lane.hops, relays, len(lane.owners))
    assert have_room(SPLIT, lanes, relays)


@given(some, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_all_owners_have_a_chain_and_no_plan_of_one_chain_is_faster(found: list[tuple[int, int]], many: int) -> None:
    relays, people = offers(*map(list, zip(*found, strict=True))), owners(many)
    try:
        lanes = deal(SPLIT, relays, people)
    except TaskError:
        with pytest.raises(TaskError):
            choose(SPLIT, relays, many)
        return
    check_all(lanes, relays, people)
    try:
        one = (Lane(owners=tuple(people), hops=choose(SPLIT, relays, many)),)
    except TaskError:
        return
    assert round_of(SPLIT, lanes, relays) <= round_of(SPLIT, one, relays)
    with suppress(TaskError):
        most = deal(SPLIT, relays, people, exactly=len(relays))
        assert round_of(SPLIT, lanes, relays) <= round_of(SPLIT, most, relays) / FASTER_SHARE, "nor one relay each"
    assert deal(SPLIT, relays, people) == lanes


@given(some, st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_mended_lanes_are_whole_and_without_those_who_are_lost(
    found: list[tuple[int, int]], many: int, data: st.DataObject
) -> None:
    relays, people = offers(*map(list, zip(*found, strict=True))), owners(many)
    try:
        before = deal(SPLIT, relays, people)
    except TaskError:
        return
    lost = data.draw(st.sets(st.sampled_from(sorted(devices(before))), min_size=1))
    after = mended(SPLIT, before, lost, relays)
    if after:
        check_all(after, relays, people)
        assert not devices(after) & lost
        assert [lane.owners for lane in after] == [lane.owners for lane in before]
    else:  # some lane finds nobody idle with room for all of it
        left = [one for one in relays if one.device not in lost]
        idle = [one for one in left if one.device not in devices(before)]
        assert (
            all(
                one.memory_bytes < SPLIT.memory_bytes(1, LAST, len(lane.owners))
                for lane in before
                if devices((lane,)) & lost
                for one in idle
            )
            or len(before) > 1
        )


@given(st.lists(st.integers(0, 9), unique=True, min_size=1), st.lists(st.integers(0, 9), unique=True, min_size=1))
def test_who_comes_joins_the_emptiest_lane_and_who_stays_keeps_its_own(before: list[int], after: list[int]) -> None:
    half = len(before) // 2
    groups = [sorted(before[:half]), sorted(before[half:])]
    lanes = tuple(
        Lane(owners=tuple(device(number) for number in group), hops=(hop(place + 1, 1, LAST),))
        for place, group in enumerate(groups)
        if group
    )
    now = peopled(lanes, [device(number) for number in after])
    assert sorted(owner for lane in now for owner in lane.owners) == sorted(device(number) for number in after)
    assert all(lane.owners for lane in now)
    for number in set(before) & set(after):
        old, new = lane_of(lanes, device(number)), lane_of(now, device(number))
        assert old is not None
        assert new is not None
        assert old.hops == new.hops


def test_a_stranger_takes_the_emptiest_lane_and_without_lanes_there_is_none() -> None:
    full, spare = Lane(owners=tuple(owners(2)), hops=(hop(1, 1, LAST),)), Lane(owners=(), hops=(hop(2, 1, LAST),))
    assert lane_of((full, spare), device(7)) == spare
    assert lane_of((full, spare), owners(1)[0]) == full
    assert lane_of((), device(7)) is None


def test_a_planner_that_says_nothing_of_others_is_followed_into_its_own_chain() -> None:
    chain = (hop(1, 1, LAST),)
    told = offer(3, is_owner=True, is_relay=False, memory_bytes=0, chain=chain)
    assert seen(told) == (Lane(owners=(device(3),), hops=chain),)
    assert seen(offer(3, is_owner=True, is_relay=False, memory_bytes=0)) == ()


def test_so_many_lanes_as_are_asked_for_but_not_more_than_relays() -> None:
    relays, people = offers([ROOM] * 3), owners(4)
    for exactly, expected in ((1, 1), (2, 2), (3, 3), (9, 3)):
        lanes = deal(SPLIT, relays, people, exactly)
        check_all(lanes, relays, people)
        assert len(lanes) == expected


def test_a_fast_relay_gets_more_owners_than_a_slow_one() -> None:
    fast, slow = deal(SPLIT, offers([ROOM] * 2, [1000, 3000]), owners(8), 2)
    assert (len(fast.owners), len(slow.owners)) == (6, 2)


def test_more_than_the_wire_allows_are_not_opened() -> None:
    lanes = deal(SPLIT, offers([ROOM] * (LANES_MAX + 2)), owners(LANES_MAX + 2), LANES_MAX + 2)
    assert len(lanes) == LANES_MAX


# -- devices ----------------------------------------------------------------------------------------------------------

OWNERS = (1, 2, 3)


async def beside_each_other(crash: bool) -> Street:
    """Three owners, two relays, one block between the ends: a longer chain than of one relay cannot be."""
    async with Street(split_of(hidden=(16, 16))) as street:
        for host in OWNERS:
            street.start(host, rounds=5, patience_s=5.0, lanes=2)
        for host in (11, 12):
            street.start(host, owns=False, relay_bytes=10**6, patience_s=5.0)
        await street.until(lambda: all(len(street.reports.get(host, [])) >= 2 for host in OWNERS))
        if crash:
            await street.until(lambda: all(device.owner.figures.batches >= 9 for device in people(street)))
            street.crash(12)
        await street.owners_done()
        await street.until(lambda: all(tip >= 5 for tip in street.tips().values()))
    return street


def people(street: Street) -> list[object]:
    return [street.devices[host] for host in OWNERS]


def test_two_lanes_come_to_what_training_without_a_chain_comes_to() -> None:
    street = run(lambda: beside_each_other(crash=False), until_s=1000.0)
    worked = [street.devices[host].relay.figures.batches for host in (11, 12)]
    assert sorted(worked) == [20, 40]
    expected = fedavg(street.split, OWNERS, rounds=5, steps=4)
    assert np.abs(street.model() - expected).max() <= 1e-5


def test_a_lane_that_loses_its_only_relay_goes_over_to_the_other() -> None:
    street = run(lambda: beside_each_other(crash=True), until_s=1000.0)
    left = street.devices[11]
    assert {hop.device for device in people(street) for hop in device.owner.linking.chain} == {left.me}
    assert [len(street.reports[host]) for host in OWNERS] == [5, 5, 5]


def test_a_newcomer_finds_a_lane_and_when_the_planner_dies_the_others_go_on() -> None:
    async def main() -> Street:
        async with Street(split_of(hidden=(16, 16))) as street:
            for host in (1, 2, 3):
                street.start(host, rounds=12, patience_s=2.0, lanes=2)
            for host in (11, 12):
                street.start(host, owns=False, relay_bytes=10**6, patience_s=2.0)
            await street.until(lambda: all(len(street.reports.get(host, [])) >= 2 for host in (1, 2, 3)))
            street.start(4, rounds=12, patience_s=2.0, lanes=2)
            await street.until(lambda: len(street.reports.get(4, [])) >= 2)
            first = min((1, 2, 3, 4), key=lambda host: street.devices[host].me)
            assert street.devices[first].owner.linking.planned
            street.crash(first)
            left = [host for host in (1, 2, 3, 4) if host != first]
            await asyncio.gather(*(street.tasks[host] for host in left))
            assert all(street.devices[host].done.status == "ok" for host in left)
            assert len({street.devices[host].done.model_sha256 for host in left}) == 1
            second = min(left, key=lambda host: street.devices[host].me)
            placed = {owner for lane in street.devices[second].owner.linking.lanes for owner in lane.owners}
            assert placed >= {street.devices[host].me for host in left}
        return street

    run(main, until_s=2000.0)

"""Chains: every shard once, nobody twice, nobody beyond its memory, nobody who is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pfusion.errors import TaskError
from p2pfusion.hops.chains import PLANNED_MAX, Chain, backups, choose, fits, mend, times
from p2pfusion.wire.hops import Offer
from tests.hops.made import ROOM, SPLIT, address, device, held, hop, offer

LAST = SPLIT.shards.count - 1
WHOLE = SPLIT.memory_bytes(1, LAST, 1)


def offers(memories: list[int], paces: list[int] | None = None) -> list[Offer]:
    paces = paces or [0] * len(memories)
    return [
        offer(number, memory_bytes=memory, batch_us=pace)
        for number, (memory, pace) in enumerate(zip(memories, paces, strict=True), 1)
    ]


def check(chain: Chain, relays: list[Offer], owners: int) -> None:
    """Every shard between is in one stage, in order; every hop is an own device that has room and that address."""
    assert [shard for one in chain for shard in range(one.first, one.last + 1)] == list(range(1, LAST + 1))
    by_device = {one.device: one for one in relays}
    assert len({one.device for one in chain}) == len(chain)
    for one in chain:
        assert one.address == by_device[one.device].addresses[0]
        assert SPLIT.memory_bytes(one.first, one.last, owners) <= by_device[one.device].memory_bytes
    assert fits(SPLIT, chain, relays, owners)


room = st.integers(0, 4 * WHOLE)
some = st.lists(st.tuples(room, st.sampled_from([0, 1000, 2000, 50_000])), min_size=1, max_size=6)


@given(some, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_chosen_chain_covers_every_shard_once_within_memory(found: list[tuple[int, int]], owners: int) -> None:
    relays = offers(*map(list, zip(*found, strict=True)))
    try:
        chain = choose(SPLIT, relays, owners)
    except TaskError:
        roomiest = max(one.memory_bytes for one in relays)
        assert roomiest < SPLIT.memory_bytes(1, LAST, owners)  # else it alone would have done
        return
    check(chain, relays, owners)
    assert times(SPLIT, chain, relays, owners).batch_s > 0


@given(some, st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_a_mended_chain_is_whole_and_without_those_who_are_lost(
    found: list[tuple[int, int]], owners: int, data: st.DataObject
) -> None:
    relays = offers(*map(list, zip(*found, strict=True)))
    try:
        chain = choose(SPLIT, relays, owners)
    except TaskError:
        assume(False)
    lost = data.draw(st.sets(st.sampled_from([one.device for one in relays])))
    try:
        mended = mend(SPLIT, chain, lost, relays, owners)
    except TaskError:
        left = [one for one in relays if one.device not in lost]
        assert not left or max(one.memory_bytes for one in left) < SPLIT.memory_bytes(1, LAST, owners)
        return
    assert not lost & {one.device for one in mended}
    check(mended, [one for one in relays if one.device not in lost], owners)
    if not lost & {one.device for one in chain}:
        assert mended == chain


def test_the_faster_relay_gets_more() -> None:
    chain = choose(SPLIT, offers([ROOM, ROOM], [30_000, 10_000]), 2)
    by_device = {one.device: one.last - one.first + 1 for one in chain}
    assert by_device[device(2)] > by_device.get(device(1), 0)


def test_everybody_who_sees_the_same_chooses_the_same() -> None:
    relays = offers([ROOM] * 5)
    assert len({choose(SPLIT, relays, 2) for _ in range(3)}) == 1


def test_many_relays_that_all_differ_make_a_chain_of_the_fastest() -> None:
    relays = offers([ROOM] * 40, [20_000 - 100 * number for number in range(40)])
    chain = choose(SPLIT, relays, 2)
    check(chain, relays, 2)
    assert {one.device for one in chain} <= {device(number) for number in range(41 - PLANNED_MAX, 41)}


def test_of_many_the_roomiest_where_the_fastest_have_no_room() -> None:
    relays = offers([1] * 30 + [ROOM], [*range(100, 130), 100_000])
    assert [one.device for one in choose(SPLIT, relays, 2)] == [device(31)]


def test_nobody_is_refused_in_words_that_say_so() -> None:
    with pytest.raises(TaskError, match="there is no relay"):
        choose(SPLIT, [], 1)
    with pytest.raises(TaskError, match="nothing fits"):
        choose(SPLIT, offers([WHOLE // 10]), 1)


def test_a_stage_goes_to_an_idle_relay_that_holds_it_already_before_a_roomier_one() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, LAST))
    holder = offer(3, held=(held(2), held(3)))
    relays = [offer(1), offer(2), holder, offer(4, memory_bytes=2 * ROOM)]
    assert mend(SPLIT, chain, {device(2)}, relays, 1) == (hop(1, 1, 1), hop(3, 2, LAST))


def test_without_an_idle_relay_a_neighbour_that_keeps_the_backup_takes_the_stage() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, 2), hop(3, 3, LAST))
    backed = offer(3, held=tuple(held(shard) for shard in (2, *range(3, LAST + 1))))
    assert mend(SPLIT, chain, {device(2)}, [offer(1), backed], 1) == (hop(1, 1, 1), hop(3, 2, LAST))
    small = replace(backed, memory_bytes=SPLIT.memory_bytes(2, LAST, 1) - 1)
    assert mend(SPLIT, chain, {device(2)}, [offer(1), small], 1) == choose(SPLIT, [offer(1), small], 1)
    apart = offer(1, held=(held(LAST),))
    assert mend(SPLIT, chain, {device(3)}, [apart, offer(2)], 1) == choose(SPLIT, [apart, offer(2)], 1)


def test_without_an_idle_relay_everything_is_chosen_anew() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, LAST))
    assert mend(SPLIT, chain, {device(2)}, [offer(1), offer(2)], 1) == (hop(1, 1, LAST),)


def test_a_lost_device_that_still_offers_is_not_taken_again() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, LAST))
    mended = mend(SPLIT, chain, {device(1), device(2)}, [offer(1), offer(2), offer(3)], 1)
    assert {one.device for one in mended} == {device(3)}


def test_backups_are_idle_relays_one_stage_each_before_two() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, LAST))
    found = backups(chain, [offer(number) for number in (1, 2, 3, 4)])
    assert [(one.first, one.last) for one in found] == [(1, 1), (2, LAST)]
    assert {one.device for one in found} == {device(3), device(4)}


def test_without_idle_relays_the_next_of_the_chain_keeps_a_stage_and_one_relay_keeps_none_twice() -> None:
    chain = (hop(1, 1, 1), hop(2, 2, LAST))
    assert [one.device for one in backups(chain, [offer(1), offer(2)])] == [device(2), device(1)]
    assert backups((hop(1, 1, LAST),), [offer(1)]) == ()


def test_a_backup_stays_with_who_keeps_it_already() -> None:
    chain = (hop(1, 1, LAST),)
    relays = [offer(1), offer(3, held=(held(1),)), offer(4)]
    assert [(one.device, one.address) for one in backups(chain, relays)] == [(device(3), address(3))]


def test_what_a_chain_takes_is_not_told_of_a_hop_that_offers_nothing() -> None:
    with pytest.raises(ValueError, match="not in list"):
        times(SPLIT, (hop(1, 1, 1), hop(9, 2, LAST)), [offer(1)], 1)

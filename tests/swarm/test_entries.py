"""One contribution on its way: where its segments lie, and what of it takes memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pfusion.swarm.entries import ALIGNED_BYTES, BLOCK_SEGMENTS, Entry
from p2pfusion.swarm.gossip import Wanted
from p2pfusion.wire.messages import SegmentInfo
from tests.swarm.made import ledger, peer, piece, put


def entry_of(*sizes: int) -> Entry:
    made = piece(1, 1)
    manifest = replace(made.manifest, segments=tuple(SegmentInfo(bytes(32), size) for size in sizes))
    return Entry(made.id, manifest)


def test_every_segment_has_room_of_its_own_of_just_its_size():
    sizes = [1, 63, 64, 65, 1000, 0, 7] * 6
    entry = entry_of(*sizes)
    rooms = [entry.room(index) for index in range(len(sizes))]
    for index, room in enumerate(rooms):
        assert room.nbytes == sizes[index]
        room[:] = bytes([index]) * sizes[index]
    assert [bytes(entry.room(index)) for index in range(len(sizes))] == [bytes([i]) * n for i, n in enumerate(sizes)]


@pytest.mark.parametrize(("count", "blocks"), [(BLOCK_SEGMENTS, 1), (BLOCK_SEGMENTS + 1, 2)])
def test_block_segments(count, blocks):
    """Memory is taken block by block, as it is needed."""
    entry = entry_of(*[ALIGNED_BYTES] * count)
    entry.room(count - 1)
    assert len(entry._blocks) == 1
    for index in range(count):
        entry.room(index)
    lengths = sorted((len(block) // ALIGNED_BYTES for block in entry._blocks.values()), reverse=True)
    assert lengths == [BLOCK_SEGMENTS, 1][:blocks]


def test_segments_outlive_the_blocks_they_came_in():
    entry = entry_of(3, 4)
    for index, data in enumerate((b"abc", b"defg")):
        room = entry.room(index)
        room[:] = data
        entry.put(index, room.toreadonly())
    assert entry.is_complete
    assert not entry._blocks
    assert [bytes(segment or b"") for segment in entry.segments] == [b"abc", b"defg"]


def test_what_was_spilled_takes_no_memory_and_is_spilled_once():
    mine, other = ledger(), piece(1, 2)
    entry = put(mine, piece(1, 1, segments=3))
    put(mine, other)
    before, size = mine.held_bytes, len(b"segment 0")
    assert (entry.held_bytes, before) == (3 * size, 4 * size)
    assert [index for index, _ in entry.in_memory()] == [0, 1, 2]
    for _ in range(2):
        mine.spilled(entry, 1, memoryview(b"segment 1"))
    assert (entry.held_bytes, mine.held_bytes) == (2 * size, before - size)
    assert [index for index, _ in entry.in_memory()] == [0, 2]
    assert bytes(entry.segments[1] or b"") == b"segment 1"


def test_two_nodes_ask_one_holder_in_different_orders_each_always_in_its_own():
    made = [piece(1, author, segments=40) for author in (1, 2, 3)]
    orders = []
    for salt in (peer(1), peer(2), peer(2), b""):
        mine, wanted = ledger(), Wanted(salt)
        for one in made:
            put(mine, one, complete=False)
            wanted.offer(one.id, peer(9), None)
        orders.append([(id_, index) for id_, index, _ in wanted.segments(mine)])
    assert sorted(orders[0]) == sorted(orders[1]) == orders[3]
    assert orders[1] == orders[2]
    first, other = (set(order[:60]) for order in orders[:2])
    assert len(first & other) < 45, "after half of it, they have something for each other"
    assert len({id_ for id_, _ in orders[0][:10]}) > 1, "and not everybody begins with the same author"


def test_rarest_first_whatever_the_salt():
    mine, wanted, one = ledger(), Wanted(peer(1)), piece(1, 1, segments=8)
    put(mine, one, complete=False)
    wanted.offer(one.id, peer(1), None)
    wanted.offer(one.id, peer(2), bytes([0b11101111]))
    assert next(wanted.segments(mine))[1] == 4

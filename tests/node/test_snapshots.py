"""Which sealed models are kept, and that their segments are the model."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.node.snapshots import READ_S, SNAPSHOTS_KEPT_MAX, Kept, Snapshots, hash_of, take
from p2pfusion.wire.codec import decode_snapshot, encode_snapshot
from p2pfusion.wire.messages import Link

RUN_ID = bytes(range(32))
PER_SEGMENT = SEGMENT_BYTES_MAX // 4


def link(round: int) -> Link:
    return Link(round=round, chain=blake3(b"%d" % round).digest(), weight=10 * round, ids=())


def snapshot(round: int, size: int = 3) -> Kept:
    return take(RUN_ID, link(round), np.arange(size, dtype=np.float32) + round)


def kept(*rounds: int) -> Snapshots:
    made = Snapshots()
    for round_ in rounds:
        made.keep(snapshot(round_), 0.0)
    return made


@pytest.mark.parametrize(
    "size", [1, PER_SEGMENT - 1, PER_SEGMENT, PER_SEGMENT + 1, 2 * PER_SEGMENT, 2 * PER_SEGMENT + 7]
)
def test_segments_are_the_model(size):
    model = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    taken = take(RUN_ID, link(8), model)
    count = -(-size // PER_SEGMENT)
    assert [segment.size for segment in taken.manifest.segments[:-1]] == [SEGMENT_BYTES_MAX] * (count - 1)
    data = b""
    for index, info in enumerate(taken.manifest.segments):
        segment = taken.segment(index)
        assert segment is not None
        assert (blake3(segment).digest(), len(segment)) == (info.hash, info.size)
        data += segment
    assert len(taken.manifest.segments) == count
    assert taken.segment(count) is None
    assert data == model.astype("<f4").tobytes()
    assert hash_of(model) == blake3(data).digest()


def test_the_manifest_says_where_it_stands_and_travels():
    manifest = snapshot(8).manifest
    assert (manifest.run_id, manifest.round, manifest.chain, manifest.weight) == (RUN_ID, 8, link(8).chain, 80)
    assert decode_snapshot(encode_snapshot(manifest)) == manifest


def test_keeping_a_snapshot_costs_no_copy():
    model = np.ones(5, np.float32)
    assert take(RUN_ID, link(1), model).model is model


def test_the_two_newest_are_kept():
    assert SNAPSHOTS_KEPT_MAX == 2
    assert kept(0).oldest_round == 0
    assert kept(0, 8).oldest_round == 0
    three = kept(0, 8, 16)
    assert three.oldest_round == 8
    assert [three.by_chain(link(r).chain) is not None for r in (0, 8, 16)] == [False, True, True]
    assert three.by_chain(b"unknown") is None


def test_an_older_one_does_not_push_a_newer_one_out():
    assert kept(8, 16, 0).oldest_round == 8


def test_of_one_round_the_last_is_kept():
    both = kept(8)
    other = take(RUN_ID, Link(round=8, chain=b"o" * 32, weight=1, ids=()), np.ones(3, np.float32))
    both.keep(other, 0.0)
    assert both.by_chain(link(8).chain) is None
    assert both.by_chain(b"o" * 32) is other


@pytest.mark.parametrize(("round_", "found"), [(7, None), (8, 8), (15, 8), (16, 16), (99, 16)])
def test_the_newest_that_is_not_above(round_, found):
    at = kept(8, 16).at_or_before(round_)
    assert (at.manifest.round if at else None) == found


def test_my_chain_changed():
    changed = kept(8, 16)
    changed.drop_above(8)
    assert changed.by_chain(link(16).chain) is None
    assert changed.oldest_round == 8
    changed.drop_above(-1)
    assert changed.at_or_before(99) is None


@given(st.lists(st.integers(0, 20), min_size=1))
def test_never_more_than_two(rounds):
    made = kept(*rounds)
    assert made.oldest_round == sorted(set(rounds))[-2:][0]


def test_what_is_being_read_stays_two_at_most_until_its_reader_is_silent():
    made = Snapshots()
    for number, round_ in enumerate(range(0, 40, 8)):
        made.keep(snapshot(round_), now_s=float(number))
        made.read(link(round_).chain, now_s=float(number))
    assert [made.by_chain(link(r).chain) is not None for r in range(0, 40, 8)] == [False, True, True, True, True]
    assert made.oldest_round == 8
    made.keep(snapshot(40), now_s=4.0 + READ_S)
    assert [made.by_chain(link(r).chain) is not None for r in range(8, 48, 8)] == [False, False, False, True, True]


def test_reading_what_is_not_there():
    assert Snapshots().read(b"unknown", 0.0) is None

"""Decisions of gossip: what is news to whom, what is told of open rounds, what is fetched first and from whom."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import HAVE_PER_CALL_MAX, INLINE_BYTES_MAX, PEERS_MAX, REPORTS_PER_CALL_MAX
from p2pfusion.swarm.gossip import (
    FAILURES_MAX,
    HOLDERS_MAX,
    MANIFESTS_KNOWN_MAX,
    WANTED_MAX,
    Spoken,
    Wanted,
    choose,
    haves,
    is_small,
)
from p2pfusion.swarm.ledger import Ledger
from p2pfusion.wire.messages import Have
from tests.swarm.made import Piece, ledger, peer, piece, put, report, seal, shard_report

A, B, C = peer(1), peer(2), peer(3)
ALL = None

# -- reports ----------------------------------------------------------------------------------------------------------


def test_only_what_a_peer_has_not_heard_is_news():
    spoken, known = Spoken(), [report(2), report(3)]
    assert spoken.news(peer(1), known) == tuple(known)
    spoken.told(peer(1), known[:1])
    assert spoken.news(peer(1), known) == (known[1],)
    assert spoken.news(peer(4), known) == tuple(known), "each peer has heard other things"
    assert spoken.news(None, known) == tuple(known), "a stranger has heard nothing"


@pytest.mark.parametrize(
    ("incarnation", "beat", "is_news"), [(2, 6, True), (3, 0, True), (2, 5, False), (2, 4, False), (1, 9, False)]
)
def test_news_is_what_is_newer(incarnation, beat, is_news):
    spoken = Spoken()
    spoken.told(peer(1), [report(2, 5, incarnation=2)])
    spoken.told(peer(1), [report(2, 3, incarnation=1)])
    assert bool(spoken.news(peer(1), [report(2, beat, incarnation=incarnation)])) is is_news


def test_nobody_is_told_of_itself():
    assert Spoken().news(peer(1), [report(1), report(2)]) == (report(2),)


def test_who_is_forgotten_hears_everything_again():
    spoken = Spoken()
    spoken.told(peer(1), [report(2)])
    spoken.forget(peer(1))
    spoken.forget(peer(9))
    assert spoken.news(peer(1), [report(2)]) == (report(2),)


def test_reports_per_call_max():
    spoken, known = Spoken(), [report(member) for member in range(2, REPORTS_PER_CALL_MAX + 3)]
    first = spoken.news(peer(1), known)
    assert len(first) == REPORTS_PER_CALL_MAX
    assert first[0] == known[0], "the first one is the speaker's own"
    spoken.told(peer(1), first)
    assert list(spoken.news(peer(1), known)) == [r for r in known if r not in first]


def test_with_more_members_than_fit_everybody_is_told_of_in_turn():
    """Beats rise faster than a call can tell of them all; nobody may be left out for ever, or it seems to be dead."""
    spoken, members = Spoken(), 3 * REPORTS_PER_CALL_MAX
    last_told = dict.fromkeys(range(2, members + 2), 0)
    for beat in range(1, 9):
        told = spoken.news(peer(1), [report(member, beat) for member in last_told])
        spoken.told(peer(1), told)
        for r in told:
            last_told[int.from_bytes(r.peer, "big")] = beat
        assert last_told[2] == beat, "the speaker's own line is always told"
    assert min(last_told.values()) >= 4


def test_peers_max_are_remembered():
    spoken, known = Spoken(), [report(5000)]
    for member in range(PEERS_MAX + 1):
        spoken.told(peer(member), known)
    forgotten = [m for m in range(PEERS_MAX + 1) if spoken.news(peer(m), known)]
    assert len(forgotten) == 1
    assert len(spoken._versions) == PEERS_MAX


def test_the_members_one_peer_has_heard_of_are_bounded():
    spoken = Spoken()
    for member in range(2, PEERS_MAX + 10):
        spoken.told(peer(1), [report(member)])
    assert len(spoken._versions[peer(1)]) == PEERS_MAX
    assert spoken.news(peer(1), [report(PEERS_MAX + 9)]) == ()


# -- manifests --------------------------------------------------------------------------------------------------------


def test_what_manifests_a_peer_knows():
    spoken = Spoken()
    assert not spoken.knows(A, b"one")
    spoken.told_of(A, [b"one", b"two"])
    assert (spoken.knows(A, b"one"), spoken.knows(A, b"two"), spoken.knows(B, b"one")) == (True, True, False)
    spoken.forget(A)
    assert not spoken.knows(A, b"one")


def test_manifests_known_max():
    spoken = Spoken()
    ids = [number.to_bytes(32, "big") for number in range(MANIFESTS_KNOWN_MAX + 1)]
    spoken.told_of(A, ids[:-1])
    assert all(spoken.knows(A, id_) for id_ in ids[:-1])
    spoken.told_of(A, ids[-1:])
    assert [spoken.knows(A, id_) for id_ in (ids[0], ids[1], ids[-1])] == [False, True, True]


def test_manifests_of_peers_max_are_known():
    spoken = Spoken()
    for member in range(PEERS_MAX + 1):
        spoken.told_of(peer(member), [b"one"])
    assert sum(spoken.knows(peer(member), b"one") for member in range(PEERS_MAX + 1)) == PEERS_MAX


# -- have -------------------------------------------------------------------------------------------------------------


def told(found: tuple[Have, ...]) -> set[bytes]:
    assert len({have.id for have in found}) == len(found)
    return {have.id for have in found}


def test_haves_of_rounds_whose_digests_differ():
    mine = ledger()
    for round_ in (1, 2, 3):
        put(mine, piece(round_, 1))
    theirs = shard_report(newest=3, digests=((1, mine.digest(1)), (2, b"\x01" * 16)))
    assert told(haves(mine, theirs)) == {piece(2, 1).id, piece(3, 1).id}


def test_haves_for_somebody_whose_report_is_unknown():
    mine = ledger()
    put(mine, piece(1, 1))
    assert haves(mine, None) == (Have(piece(1, 1).id, b"\x01"),)


def test_no_haves_of_what_they_have_sealed():
    theirs = ledger()
    seal(theirs)
    seal(theirs)
    mine = ledger()
    for round_ in (1, 2, 3):
        put(mine, piece(round_, 1))
    assert told(haves(mine, shard_report(tip=theirs.tip))) == {piece(3, 1).id}


def test_haves_tell_segment_by_segment_and_nothing_of_what_is_empty():
    mine = ledger()
    put(mine, piece(1, 1, segments=3), complete=False)
    entry = put(mine, piece(1, 2, segments=10), complete=False)
    mine.put(entry, 8, b"x")
    assert haves(mine, None) == (Have(entry.id, b"\x00\x01"),)


def test_haves_of_what_is_fresh_come_once_and_first():
    mine = ledger()
    for author in range(1, 6):
        put(mine, piece(1, author))
    old = put(mine, piece(9, 9))
    fresh = [piece(1, 4).id, piece(7, 7).id]
    found = haves(mine, shard_report(digests=((9, mine.digest(9)),)), fresh)
    assert found[0].id == fresh[0]
    assert told(found) == {piece(1, author).id for author in range(1, 6)}
    assert told(haves(mine, shard_report(digests=((9, mine.digest(9)),)), [old.id])) >= {old.id}


def test_have_per_call_max():
    mine = ledger()
    for author in range(HAVE_PER_CALL_MAX):
        put(mine, piece(1, author))
    assert len(haves(mine, None)) == HAVE_PER_CALL_MAX
    last = put(mine, piece(1, HAVE_PER_CALL_MAX))
    assert len(haves(mine, None)) == HAVE_PER_CALL_MAX
    assert haves(mine, None, [last.id])[0].id == last.id


def test_when_not_all_haves_fit_the_round_that_is_sealed_next_is_told():
    """Sealing waits for the lowest open round: it must not be crowded out by newer ones that still fill up."""
    mine = ledger()
    for round_ in (1, 2, 3):
        for author in range(HAVE_PER_CALL_MAX // 2):
            put(mine, piece(round_, author))
    assert told(haves(mine, shard_report())) >= {entry.id for entry in mine.counted(1)}


# -- choosing ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(0, 6), st.integers())
def test_choose(there, count, seed):
    peers = [peer(number) for number in range(there)]
    chosen = choose(peers, count, random.Random(seed))
    assert len(chosen) == len(set(chosen)) == min(there, count)
    assert set(chosen) <= set(peers)


def test_choose_is_fair_and_as_random_as_its_generator():
    peers = [peer(number) for number in range(5)]
    drawn = [tuple(choose(peers, 2, random.Random(seed))) for seed in range(300)]
    assert drawn == [tuple(choose(peers, 2, random.Random(seed))) for seed in range(300)]
    assert len(set(drawn)) == 20, "every ordered pair"


@pytest.mark.parametrize(("last_bytes", "small"), [(INLINE_BYTES_MAX - 9, True), (INLINE_BYTES_MAX - 8, False)])
def test_is_small(last_bytes, small):
    manifest = piece(1, 1, segments=2).manifest
    first, last = manifest.segments
    assert first.size == 9
    assert is_small(replace(manifest, segments=(first, replace(last, size=last_bytes)))) is small


# -- wanted -----------------------------------------------------------------------------------------------------------


def known(mine: Ledger, *pieces: Piece) -> None:
    for one in pieces:
        put(mine, one, complete=False)


def test_what_has_no_manifest_yet():
    wanted, mine = Wanted(), ledger()
    one, two = sorted([piece(1, 1), piece(2, 1)], key=lambda p: p.id)
    for id_, holder in ((two.id, B), (one.id, C), (one.id, A)):
        wanted.offer(id_, holder, ALL)
    assert wanted.unknown(mine) == [(one.id, [A, C]), (two.id, [B])]
    assert one.id in wanted
    assert piece(9, 9).id not in wanted
    known(mine, one)
    assert wanted.unknown(mine) == [(two.id, [B])]


def test_segments_lowest_round_first_then_rarest_then_by_id():
    wanted, mine = Wanted(), ledger()
    early, late = piece(1, 1, segments=3), piece(2, 1, segments=2)
    known(mine, late, early)
    wanted.offer(early.id, A, b"\x07")
    wanted.offer(early.id, B, b"\x05")
    wanted.offer(early.id, C, b"\x04")
    wanted.offer(late.id, A, b"\x02")
    assert list(wanted.segments(mine)) == [
        (early.id, 1, [A]),
        (early.id, 0, [A, B]),
        (early.id, 2, [A, B, C]),
        (late.id, 1, [A]),
    ]


def test_equally_rare_segments_come_by_id_and_index():
    wanted, mine = Wanted(), ledger()
    both = sorted([piece(1, 1, segments=2), piece(1, 2, segments=2)], key=lambda p: p.id)
    known(mine, *both)
    for one in reversed(both):
        wanted.offer(one.id, A, ALL)
    assert [(id_, index) for id_, index, _ in wanted.segments(mine)] == [(p.id, i) for p in both for i in (0, 1)]


def test_what_is_here_is_not_fetched():
    wanted, mine = Wanted(), ledger()
    one = piece(1, 1, segments=2)
    known(mine, one)
    wanted.offer(one.id, A, ALL)
    mine.put(mine.entries[one.id], 0, b"x")
    assert list(wanted.segments(mine)) == [(one.id, 1, [A])]
    mine.put(mine.entries[one.id], 1, b"x")
    assert list(wanted.segments(mine)) == []


def test_the_author_is_thought_to_hold_everything():
    wanted, mine = Wanted(), ledger()
    huge = piece(1, 1, segments=3000)
    known(mine, huge)
    wanted.offer(huge.id, A, ALL)
    assert len(list(wanted.segments(mine))) == 3000


@pytest.mark.parametrize("bitmap", [b"", b"\x00", b"\x04"])
def test_a_bitmap_that_lacks_the_segment(bitmap):
    wanted, mine = Wanted(), ledger()
    known(mine, piece(1, 1, segments=2))
    wanted.offer(piece(1, 1, segments=2).id, A, bitmap)
    assert list(wanted.segments(mine)) == []


def test_a_newer_offer_takes_the_place_of_the_older():
    wanted, mine, one = Wanted(), ledger(), piece(1, 1, segments=2)
    known(mine, one)
    wanted.offer(one.id, A, b"\x01")
    wanted.offer(one.id, A, b"\x02")
    assert list(wanted.segments(mine)) == [(one.id, 1, [A])]


def test_who_failed_often_is_asked_no_more_until_it_offers_again():
    wanted, mine, one = Wanted(), ledger(), piece(1, 1)
    known(mine, one)
    wanted.offer(one.id, A, ALL)
    wanted.offer(one.id, B, ALL)
    for count in range(FAILURES_MAX):
        assert list(wanted.segments(mine)) == [(one.id, 0, [A, B])], f"after {count} failures"
        wanted.failed(one.id, A, is_final=False)
    assert list(wanted.segments(mine)) == [(one.id, 0, [B])]
    wanted.failed(one.id, B, is_final=True)
    assert list(wanted.segments(mine)) == []
    assert one.id not in wanted
    wanted.offer(one.id, A, ALL)
    for _ in range(FAILURES_MAX):
        assert list(wanted.segments(mine)) == [(one.id, 0, [A])], "its failures are forgiven"
        wanted.failed(one.id, A, is_final=False)
    assert list(wanted.segments(mine)) == []


def test_what_is_done_is_wanted_no_more():
    wanted, mine, one = Wanted(), ledger(), piece(1, 1)
    wanted.offer(one.id, A, ALL)
    wanted.done(one.id)
    wanted.done(one.id)
    assert one.id not in wanted
    assert wanted.unknown(mine) == []


def test_wanted_max():
    wanted, mine = Wanted(), ledger()
    ids = [number.to_bytes(32, "big") for number in range(WANTED_MAX + 1)]
    for id_ in ids:
        wanted.offer(id_, A, ALL)
    assert len(wanted.unknown(mine)) == WANTED_MAX
    assert ids[-1] not in wanted
    wanted.offer(ids[0], B, ALL)
    assert wanted.unknown(mine)[0] == (ids[0], [A, B])
    wanted.done(ids[0])
    wanted.offer(ids[-1], A, ALL)
    assert ids[-1] in wanted


def test_holders_max():
    """More do not count until one of them is gone; those that do may say that they hold more."""
    wanted, mine, one = Wanted(), ledger(), piece(1, 1)
    holders = [peer(number) for number in range(1, HOLDERS_MAX + 2)]
    assert [wanted.offer(one.id, holder, b"") for holder in holders] == [True] * HOLDERS_MAX + [False]
    assert wanted.unknown(mine) == [(one.id, holders[:-1])]
    assert wanted.offer(one.id, holders[0], ALL)
    wanted.failed(one.id, holders[0], is_final=True)
    assert wanted.offer(one.id, holders[-1], ALL)
    assert wanted.unknown(mine) == [(one.id, holders[1:])]


def test_what_nobody_delivers_leaves_nothing_behind():
    """Ids that never come (a liar's, or of peers that left) must not fill the table."""
    wanted = Wanted()
    for number in range(2 * WANTED_MAX):
        id_ = number.to_bytes(32, "big")
        wanted.offer(id_, A, ALL)
        assert id_ in wanted
        wanted.failed(id_, A, is_final=True)
    assert not wanted._holders
    assert not wanted._failures


def test_a_failure_that_comes_after_the_end_leaves_nothing_behind():
    """Two holders are asked at once; one delivers, later the other's call fails."""
    wanted, one = Wanted(), piece(1, 1)
    wanted.offer(one.id, A, ALL)
    wanted.offer(one.id, B, ALL)
    wanted.failed(one.id, B, is_final=False)
    wanted.done(one.id)
    wanted.failed(one.id, A, is_final=False)
    assert not wanted._holders
    assert not wanted._failures


def test_a_version_is_relayed_in_so_many_calls_and_then_only_to_who_never_heard_of_it():
    spoken, mine, theirs = Spoken(), report(1, beat=5), report(2, beat=5)
    for number in range(10, 14):
        spoken.told(peer(number), [replace(theirs, beat=theirs.beat - 1)])
    told = [theirs in spoken.news(peer(number), (mine, theirs), 2) for number in range(10, 13)]
    assert told == [True, True, False]
    assert mine in spoken.news(peer(12), (mine, theirs), 0), "my own line is no relay"
    assert theirs in spoken.news(peer(99), (mine, theirs), 0), "it was never told of that member"
    assert theirs in spoken.news(peer(12), (mine, theirs)), "a beat tells everything"
    newer = replace(theirs, beat=theirs.beat + 1)
    assert newer in spoken.news(peer(13), (mine, newer), 2), "counted anew for a new version"

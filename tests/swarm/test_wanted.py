"""What is asked of whom, and what need not be said: the quick ways give what the plain ones would."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import PEERS_MAX, SEGMENTS_MAX
from p2pfusion.swarm.gossip import DOUBTED_EVERY, EVERYTHING, RANKED_STALE_MAX, Spoken, Wanted, haves, whole
from p2pfusion.swarm.ledger import Ledger
from p2pfusion.wire.messages import Have, Link
from tests.swarm.made import ledger, peer, piece, put, report, shard_report

A, B, C = peer(1), peer(2), peer(3)
PIECES = [
    piece(round_, author, segments=count) for round_, author, count in ((1, 1, 3), (1, 2, 1), (2, 3, 9), (2, 1, 2))
]


def plainly(holders: dict[bytes, dict[bytes, bytes | None]], mine: Ledger) -> list[tuple[bytes, int, list[bytes]]]:
    """`Wanted.segments` as its text says it."""
    missing = []
    for id_, bitmaps in holders.items():
        entry = mine.entries.get(id_)
        for index, segment in enumerate(entry.segments if entry else ()):
            bits = {
                p: int.from_bytes(EVERYTHING if b is None else b, "little") >> index & 1 for p, b in bitmaps.items()
            }
            who = sorted(p for p, bit in bits.items() if bit)
            if segment is None and who:
                missing.append((entry.manifest.round, len(who), id_, index, who))
    return [(id_, index, who) for _, _, id_, index, who in sorted(missing)]


steps = st.one_of(
    st.tuples(st.just("offer"), st.sampled_from(PIECES), st.sampled_from((A, B, C)), st.none() | st.binary(max_size=2)),
    st.tuples(st.just("put"), st.sampled_from(PIECES), st.integers(0, 8)),
    st.tuples(st.just("drop"), st.sampled_from(PIECES)),
    st.tuples(st.just("know"), st.sampled_from(PIECES)),
    st.tuples(st.just("done"), st.sampled_from(PIECES)),
    st.tuples(st.just("failed"), st.sampled_from(PIECES), st.sampled_from((A, B, C))),
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=40))
def test_segments_are_those_of_the_plain_rule_whatever_happened_before(done):
    wanted, mine, holders = Wanted(), ledger(), {}
    for what, one, *rest in done:
        entry = mine.entries.get(one.id)
        match what:
            case "offer":
                wanted.offer(one.id, *rest)
                holders.setdefault(one.id, {})[rest[0]] = rest[1]
            case "put" if entry is not None and rest[0] < len(entry.segments):
                mine.put(entry, rest[0], b"x")
            case "drop":
                mine.drop(one.id)
            case "know":
                mine.add(one.id, one.manifest, 0.0)
            case "done":
                wanted.done(one.id)
                holders.pop(one.id, None)
            case "failed":
                wanted.failed(one.id, rest[0], is_final=True)
                holders.get(one.id, {}).pop(rest[0], None)
        expected = plainly(holders, mine)
        assert list(wanted.segments(mine)) == expected
        assert wanted.offered(mine) == {id_ for id_, _, _ in expected}


def test_of_very_many_segments_the_first_are_found_without_ranking_all_again():
    wanted, mine, huge = Wanted(), ledger(), piece(1, 1, segments=20_000)
    entry = put(mine, huge, complete=False)
    wanted.offer(huge.id, A, None)
    wanted.offer(huge.id, B, None)
    ranked: list[int] = []
    rank = wanted._rank

    def counted(entry):
        ranked.append(entry.missing)
        return rank(entry)

    wanted._rank = counted  # type: ignore[method-assign]
    for index in range(20_000):
        assert next(islice(wanted.segments(mine), 1))[1] == index
        mine.put(entry, index, b"x")
        wanted.offer(huge.id, A, EVERYTHING)  # said again: no news
    assert list(wanted.segments(mine)) == []
    assert len(ranked) < 20
    assert ranked[-1] <= RANKED_STALE_MAX


def test_one_bitmap_of_everything_serves_all():
    assert len(EVERYTHING) * 8 == SEGMENTS_MAX
    wanted = Wanted()
    for number in range(3):
        wanted.offer(bytes((number,)), A, None)
    assert len({id(bits) for holders in wanted._holders.values() for bits in holders.values()}) == 1


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
def test_whole_is_the_bitmap_of_a_complete_entry(count):
    mine, one = ledger(), piece(1, 1, segments=count)
    entry = put(mine, one, complete=False)
    for index in range(count):
        assert entry.have() == Have(one.id, entry.bitmap())
        assert entry.bitmap() != whole(one.manifest)
        mine.put(entry, index, b"x")
    assert entry.bitmap() == whole(one.manifest)
    assert entry.have() is entry.have()
    assert entry.have() == Have(one.id, whole(one.manifest))


# -- what need not be said --------------------------------------------------------------------------------------------


def known(spoken: Spoken, one: bytes = b"one", member: int = 1, **line: object) -> bool:
    return spoken.holds(peer(member), report(member, **line)).get(one, False)  # type: ignore[arg-type]


def test_what_a_peer_holds_in_whole_is_not_offered_to_it():
    spoken, mine = Spoken(), ledger()
    first, second, third = (put(mine, piece(1, author)) for author in (1, 2, 3))
    spoken.told_of(A, [first.id], is_whole=True)
    spoken.told_of(A, [second.id])
    told = haves(mine, shard_report(), (), spoken.holds(A, report(1)))
    assert {have.id for have in told} == {second.id, third.id}


def test_whole_once_is_whole_though_its_manifest_is_heard_of_again():
    spoken = Spoken()
    spoken.told_of(A, [b"one"], is_whole=True)
    spoken.told_of(A, [b"one"])
    assert known(spoken)
    assert spoken.knows(A, b"one")


def test_every_so_often_a_peer_is_told_everything():
    spoken = Spoken()
    spoken.told_of(A, [b"one"], is_whole=True)
    assert [known(spoken) for _ in range(2 * DOUBTED_EVERY)] == ([True] * (DOUBTED_EVERY - 1) + [False]) * 2


def test_who_came_back_or_fell_back_may_hold_nothing_any_more():
    tip = Link(round=5, chain=bytes(32), weight=1, ids=())
    for line in ({"incarnation": 2, "shard": shard_report(tip=tip)}, {"shard": shard_report()}):
        spoken = Spoken()
        spoken.told_of(A, [b"one"], is_whole=True)
        assert known(spoken, shard=shard_report(tip=tip))
        assert known(spoken, shard=shard_report(tip=tip), beat=7)
        assert not known(spoken, **line)
        assert spoken.knows(A, b"one"), "it heard of it all the same"
        spoken.told_of(A, [b"one"], is_whole=True)
        assert known(spoken, **line)


def test_who_is_doubted_or_forgotten_is_told_everything():
    spoken = Spoken()
    spoken.told_of(A, [b"one"], is_whole=True)
    spoken.doubt(A)
    assert not known(spoken)
    spoken.told_of(A, [b"one"], is_whole=True)
    spoken.forget(A)
    assert not known(spoken)


def test_what_peers_max_hold_is_remembered():
    spoken = Spoken()
    for member in range(PEERS_MAX + 1):
        spoken.told_of(peer(member), [b"one"], is_whole=True)
        known(spoken, member=member)
        known(spoken, member=5000 + member)
    assert len(spoken._manifests) == len(spoken._standing) == len(spoken._asked) == PEERS_MAX

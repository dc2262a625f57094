"""The ledger by hand: sets, slots, sealing, forks, and every limit at the limit and one beyond.

`test_ledger_properties` has what must hold whatever happens, `test_ledger_oracle` the comparison with the model.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import permutations

import pytest

from p2pfusion.config import LINK_IDS_MAX, LINKS_KEPT_MAX, OPEN_ROUNDS_MAX, RunConfig
from p2pfusion.errors import LocalError
from p2pfusion.swarm.grafts import Grafts
from p2pfusion.swarm.ledger import EMPTY_DIGEST, Counting, Entry, Ledger, MemberLine, in_fold_order
from p2pfusion.swarm.openings import EQUIVOCATIONS_KEPT_MAX
from p2pfusion.wire.codec import digest, next_chain
from p2pfusion.wire.messages import FLOOR_NEVER, Link
from tests.swarm.made import GENESIS, ledger, line_of, link_after, peer, piece, put, seal

HORIZON = 8


def ids(entries: tuple[Entry, ...] | None) -> list[bytes]:
    return [entry.id for entry in entries or ()]


# -- entries ----------------------------------------------------------------------------------------------------------


def test_an_entry_fills_up_segment_by_segment():
    eleven = piece(1, 1, segments=11)
    entry = Entry(eleven.id, eleven.manifest)
    assert (entry.is_complete, entry.missing, entry.bitmap()) == (False, 11, b"\x00\x00")
    assert [entry.put(index, b"x") for index in (0, 3, 3, 9, 0)] == [False] * 5
    assert (entry.missing, entry.bitmap()) == (8, bytes([0b00001001, 0b00000010]))
    assert [entry.put(index, b"x") for index in (1, 2, 4, 5, 6, 7, 8)] == [False] * 7
    assert entry.put(10, b"x")
    assert not entry.put(10, b"other")
    assert (entry.is_complete, entry.bitmap(), entry.segments) == (True, b"\xff\x07", [b"x"] * 11)


# -- open rounds ------------------------------------------------------------------------------------------------------


def test_a_new_ledger():
    fresh = ledger()
    assert (fresh.tip, fresh.newest, fresh.floor, fresh.base_round) == (
        Link(round=0, chain=GENESIS, weight=0, ids=()),
        0,
        1,
        0,
    )
    assert (fresh.digests(), fresh.open_rounds(), fresh.ripe(0.0, [])) == ({}, [], None)
    assert repr(fresh) == f"<Ledger tip 0 {GENESIS.hex()[:8]} newest 0 floor 1 open []>"


def test_only_what_is_complete_counts():
    mine = ledger()
    entry = put(mine, piece(1, 1, segments=2), complete=False)
    assert (mine.counted(1), mine.digest(1), mine.digests(), mine.base_round) == ((), EMPTY_DIGEST, {}, 0)
    assert not mine.put(entry, 0, b"one")
    assert mine.counted(1) == ()
    assert mine.put(entry, 1, b"two")
    assert not mine.put(entry, 1, b"again")
    assert (mine.counted(1), mine.digest(1), mine.base_round) == ((entry,), digest([entry.id]), 1)
    assert mine.digests() == {1: digest([entry.id])}


def test_the_same_contribution_again_is_the_same_entry():
    mine, one = ledger(), piece(1, 1)
    entry = put(mine, one)
    assert mine.add(one.id, one.manifest, 5.0) is entry
    assert mine.counted(1) == (entry,)
    assert mine.equivocations_count == 0


def test_what_counts_is_in_fold_order():
    mine = ledger()
    for author in (5, 1, 9, 3):
        put(mine, piece(2, author))
    assert [entry.manifest.peer for entry in mine.counted(2)] == [peer(1), peer(3), peer(5), peer(9)]


def test_open_rounds_ascend_and_skip_what_is_empty():
    mine = ledger()
    late, early = put(mine, piece(5, 1)), put(mine, piece(2, 1))
    put(mine, piece(3, 1), complete=False)
    assert mine.open_rounds() == [Counting((early,)), Counting((late,))]
    assert mine.base_round == 5
    assert list(mine.digests()) == [2, 5]


def test_newest_and_floor_rise_with_what_is_seen():
    mine = ledger()
    put(mine, piece(4, 1), complete=False)
    assert (mine.newest, mine.floor) == (4, 4)
    mine.saw_round(6)
    assert (mine.newest, mine.floor) == (6, 6)
    mine.published(6)
    assert (mine.newest, mine.floor) == (6, 7)
    mine.published(3)
    mine.saw_round(2)
    assert (mine.newest, mine.floor, mine.last) == (6, 7, 6)
    mine.set_limit(6)
    assert mine.floor == FLOOR_NEVER


def test_a_sealed_round_takes_nothing_more():
    mine, late = ledger(), piece(1, 2)
    put(mine, piece(1, 1))
    seal(mine)
    assert mine.add(late.id, late.manifest, 0.0) is None
    assert late.id not in mine.entries
    assert not mine.open


def test_a_sealed_rounds_work_that_a_link_needs_is_kept_aside():
    mine, late = ledger(), piece(1, 2)
    seal(mine)
    entry = mine.add(late.id, late.manifest, 0.0, wanted=True)
    assert entry is not None
    assert mine.entries[late.id] is entry
    assert not mine.open
    assert mine.newest == 1, "what is only wanted moves nothing"


# -- limits -----------------------------------------------------------------------------------------------------------


def test_open_rounds_max():
    mine = ledger()
    seal(mine)
    last, beyond = piece(1 + OPEN_ROUNDS_MAX, 1), piece(2 + OPEN_ROUNDS_MAX, 1)
    assert mine.add(last.id, last.manifest, 0.0) is not None
    assert mine.add(beyond.id, beyond.manifest, 0.0) is None
    assert mine.newest == 1 + OPEN_ROUNDS_MAX
    seal(mine)
    assert mine.add(beyond.id, beyond.manifest, 0.0) is not None


def test_one_who_lies_about_the_newest_round_cannot_push_everybody_away():
    mine = ledger()
    mine.saw_round(FLOOR_NEVER)
    assert mine.newest == OPEN_ROUNDS_MAX


def test_link_ids_max():
    mine, one_more = ledger(), piece(1, LINK_IDS_MAX + 1)
    for author in range(1, LINK_IDS_MAX + 1):
        assert mine.add((one := piece(1, author)).id, one.manifest, 0.0) is not None
    assert mine.add(one_more.id, one_more.manifest, 0.0) is None
    assert len(mine.open[1]) == len(mine.entries) == LINK_IDS_MAX
    wanted = mine.add(one_more.id, one_more.manifest, 0.0, wanted=True)
    assert wanted is not None
    assert one_more.id not in mine.open[1]


def test_links_kept_max():
    mine = ledger()
    for _ in range(LINKS_KEPT_MAX - 1):
        seal(mine)
    assert (mine.links[0].round, len(mine.links)) == (0, LINKS_KEPT_MAX)
    seal(mine)
    assert (mine.links[0].round, len(mine.links)) == (1, LINKS_KEPT_MAX)
    assert mine.link_at(0) is None
    assert mine.link_at(LINKS_KEPT_MAX) == mine.tip
    assert mine.links_after(0, 2) == mine.links_after(-5, 2) == tuple(mine.links[:2])


def test_install_keeps_as_many_links():
    chain = [Link(round=0, chain=GENESIS, weight=0, ids=())]
    for _ in range(LINKS_KEPT_MAX):
        chain.append(link_after(chain[-1]))
    mine = ledger()
    mine.install(chain, Grafts())
    assert (mine.links[0].round, len(mine.links), mine.tip) == (1, LINKS_KEPT_MAX, chain[-1])


# -- equivocation -----------------------------------------------------------------------------------------------------


def rivals(round: int, author: int, count: int = 2) -> list:
    """Different contributions of one author to one round, ascending by id."""
    return sorted((piece(round, author, variant=v) for v in range(1, count + 1)), key=lambda p: p.id)


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_in_one_slot_the_smaller_id_counts(first):
    mine, both = ledger(), rivals(1, 1)
    put(mine, both[first])
    put(mine, both[1 - first])
    assert ids(mine.counted(1)) == [both[0].id]
    assert mine.digest(1) == digest([both[0].id])
    assert mine.equivocations == [(both[first].manifest, both[1 - first].manifest)]
    assert mine.equivocations_count == 1


def test_of_two_in_one_slot_the_complete_one_counts_until_the_smaller_is_complete():
    mine, (small, large) = ledger(), rivals(1, 1)
    entry = put(mine, small, complete=False)
    put(mine, large)
    assert ids(mine.counted(1)) == [large.id]
    mine.put(entry, 0, small.data(0))
    assert ids(mine.counted(1)) == [small.id]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_three_in_one_slot_the_two_smallest_are_kept(order):
    mine, three = ledger(), rivals(1, 1, 3)
    for place in order:
        mine.counted(1)
        entry = mine.add(three[place].id, three[place].manifest, 0.0)
        if entry is not None:
            mine.put(entry, 0, b"x")
    assert sorted(mine.entries) == sorted(mine.open[1]) == [three[0].id, three[1].id]
    assert ids(mine.counted(1)) == [three[0].id]
    assert mine.digest(1) == digest([three[0].id])
    assert mine.equivocations_count == 2
    assert mine.add(three[2].id, three[2].manifest, 0.0) is None


def test_another_round_another_author_and_another_kind_are_other_slots():
    mine, work = ledger(), piece(1, 1)
    graft = replace(work.manifest, kind="graft")
    put(mine, work)
    put(mine, piece(1, 2))
    put(mine, piece(2, 1))
    entry = mine.add(digest([b"graft"]) * 2, graft, 0.0)
    assert entry is not None
    mine.put(entry, 0, b"x")
    assert [e.manifest.kind for e in mine.counted(1)] == ["graft", "work", "work"]
    assert mine.equivocations_count == 0


def test_the_loser_of_a_slot_is_forgotten_when_the_round_is_sealed():
    mine, (small, large) = ledger(), rivals(1, 1)
    put(mine, small)
    put(mine, large)
    assert seal(mine).ids == (small.id,)
    assert list(mine.entries) == [small.id]


def test_proofs_are_bounded_and_counted_on():
    mine = ledger()
    for author in range(1, EQUIVOCATIONS_KEPT_MAX + 2):
        for one in rivals(1, author):
            put(mine, one, complete=False)
        assert len(mine.equivocations) == min(author, EQUIVOCATIONS_KEPT_MAX)
    assert mine.equivocations_count == EQUIVOCATIONS_KEPT_MAX + 1


# -- the end of the run, dropping, forgetting -------------------------------------------------------------------------


def test_nothing_counts_above_the_limit():
    mine, beyond = ledger(), piece(4, 1)
    mine.set_limit(3)
    assert mine.add(beyond.id, beyond.manifest, 0.0) is None
    kept = put(mine, piece(3, 1))
    mine.saw_round(9)
    assert (mine.newest, mine.counted(3), mine.floor) == (3, (kept,), 3)
    mine.published(3)
    assert mine.floor == FLOOR_NEVER


def test_the_smallest_limit_wins_and_takes_what_is_above_it_away():
    mine = ledger()
    for round_ in range(1, 6):
        put(mine, piece(round_, 1))
    mine.set_limit(5)
    mine.set_limit(3)
    mine.set_limit(4)
    assert (mine.limit, mine.newest, sorted(mine.open), len(mine.entries)) == (3, 3, [1, 2, 3], 3)
    assert sorted(mine.opened_at_s) == [1, 2, 3]


def test_who_observes_publishes_to_no_round_that_is_known_and_afterwards_from_there():
    mine = ledger()
    mine.observe(True)
    assert mine.floor == 1, "nobody has begun a round"
    put(mine, piece(1, 1))
    assert mine.floor == 2
    mine.saw_round(4)
    assert mine.floor == 5
    mine.observe(False)
    assert mine.floor == 5, "a promise"
    mine.saw_round(6)
    assert mine.floor == 6
    mine.observe(True)
    mine.set_limit(7)
    assert mine.floor == 7
    mine.saw_round(7)
    assert mine.floor == FLOOR_NEVER, "the run's last round is open, and no work of mine will be in it"


def test_a_round_is_sealed_without_work_of_those_who_observe_and_by_them():
    trainer, observer = ledger(1), ledger(2)
    observer.observe(True)
    trainer.published(1)
    for each in (trainer, observer):
        put(each, piece(1, 1))
    assert (
        ids(trainer.ripe(0.0, [line_of(observer)])) == ids(observer.ripe(0.0, [line_of(trainer)])) == [piece(1, 1).id]
    )


def test_a_floor_that_was_promised_above_the_limit_stays_promised():
    mine = ledger()
    mine.saw_round(10)
    assert mine.floor == 10
    mine.set_limit(8)
    assert mine.floor == FLOOR_NEVER, "to publish to 8 now would break the promise"


def test_a_limit_below_the_tip():
    mine = ledger()
    for _ in range(4):
        seal(mine)
    mine.set_limit(2)
    assert (mine.newest, mine.tip.round, mine.floor) == (4, 4, FLOOR_NEVER)
    assert mine.ripe(0.0, []) is None


def test_drop_forgets_what_is_incomplete_and_nothing_else():
    mine = ledger()
    half, whole = put(mine, piece(1, 1), complete=False), put(mine, piece(1, 2))
    aside = put(mine, piece(99, 3), complete=False, wanted=True)
    for id_ in (half.id, whole.id, aside.id, digest([b"unknown"])):
        mine.drop(id_)
    assert mine.entries == mine.open[1] == {whole.id: whole}


def test_forgotten_payloads_leave_their_links():
    mine = ledger()
    for round_ in (1, 2, 3):
        put(mine, piece(round_, 1))
        seal(mine)
    open_ = put(mine, piece(4, 1))
    mine.forget_payloads(2)
    assert [mine.sealed_entries(r) is None for r in (0, 1, 2, 3, 4)] == [False, True, True, False, True]
    assert list(mine.entries) == [*mine.tip.ids, open_.id]
    assert [link.round for link in mine.links] == [0, 1, 2, 3]
    mine.forget_payloads(2)
    assert mine.counts(mine.links[1].ids[0], 1), "the chain still counts it"


def test_what_was_fetched_for_a_chain_that_was_not_taken_is_forgotten_with_its_round():
    mine = ledger()
    for _ in range(2):
        seal(mine)
    for round_ in (1, 2):
        put(mine, piece(round_, 9), wanted=True)
    open_ = put(mine, piece(3, 9))
    mine.forget_payloads(1)
    assert sorted(mine.entries) == sorted([piece(2, 9).id, open_.id])
    mine.forget_payloads(2)
    assert list(mine.entries) == [open_.id]


def test_a_round_sealed_with_nothing_in_it_has_nothing_to_forget():
    mine = ledger()
    seal(mine)
    mine.forget_payloads(1)
    assert mine.sealed_entries(1) == ()


# -- ripe -------------------------------------------------------------------------------------------------------------


def voter(mine: Ledger, **changes) -> MemberLine:
    """A member that agrees with sealing my next round, but for the changes."""
    return replace(line_of(mine), **changes)


def reached(newest: int, *, grace_s: float = 0.0) -> Ledger:
    """One contribution in round 1, which has been open since 0 s, and a promise for the round after the newest."""
    mine = ledger(grace_s=grace_s)
    put(mine, piece(1, 1))
    mine.published(newest)
    return mine


AGREE: dict = {}
OTHER_DIGEST = {"digests": {1: digest([b"other"])}}
NO_DIGEST = {"digests": {}}
LOW_FLOOR = {"floor": 1}
OTHER_TIP = {"tip_chain": next_chain(GENESIS, [b"x"])}
AHEAD = {"tip_round": 1, "tip_chain": next_chain(GENESIS, [b"x"])}
SUSPECT = {"is_suspect": True}

EARLY = [
    ("alone", [], True),
    ("all agree", [AGREE, AGREE], True),
    ("all agree, one of them suspect", [AGREE, AGREE | SUSPECT], True),
    ("one digest differs", [AGREE, OTHER_DIGEST], False),
    ("one has nothing", [AGREE, NO_DIGEST], False),
    ("one floor is too low", [AGREE, LOW_FLOOR], False),
    ("one tip differs", [AGREE, OTHER_TIP], False),
    ("one is ahead", [AGREE, AHEAD], False),
    ("one is suspect and says nothing", [AGREE, NO_DIGEST | SUSPECT], False),
]
LATE = [
    ("alone", [], True),
    ("one of two", [NO_DIGEST], False),
    ("two of three", [AGREE, NO_DIGEST], True),
    ("two of four", [AGREE, NO_DIGEST, LOW_FLOOR], False),
    ("three of four", [AGREE, AGREE, OTHER_TIP], True),
    ("three of five", [AGREE, AGREE, NO_DIGEST, OTHER_DIGEST], True),
    ("two of five", [AGREE, NO_DIGEST, NO_DIGEST, OTHER_DIGEST], False),
    ("suspects do not vote", [NO_DIGEST | SUSPECT, NO_DIGEST | SUSPECT], True),
    ("suspects do not help", [NO_DIGEST, NO_DIGEST, AGREE | SUSPECT, AGREE | SUSPECT], False),
    ("somebody is ahead", [AGREE, AGREE, AHEAD], False),
    ("a suspect is ahead", [AGREE, AGREE, AHEAD | SUSPECT], False),
]
ALONE = [
    ("nobody agrees", [NO_DIGEST, OTHER_DIGEST, OTHER_TIP, LOW_FLOOR], True),
    ("somebody is ahead", [AGREE, AGREE, AHEAD], False),
]


@pytest.mark.parametrize(("_", "members", "is_ripe"), EARLY)
@pytest.mark.parametrize("newest", [1, HORIZON])
def test_within_the_horizon_everybody_must_agree(_, members, is_ripe, newest):
    mine = reached(newest)
    found = mine.ripe(1e9, [voter(mine, **changes) for changes in members])
    assert found == (mine.counted(1) if is_ripe else None)


@pytest.mark.parametrize(("_", "members", "is_ripe"), LATE)
@pytest.mark.parametrize("newest", [HORIZON + 1, 4 * HORIZON])
def test_beyond_the_horizon_more_than_half_must_agree(_, members, is_ripe, newest):
    mine = reached(newest)
    found = mine.ripe(1e9, [voter(mine, **changes) for changes in members])
    assert found == (mine.counted(1) if is_ripe else None)


@pytest.mark.parametrize(("_", "members", "is_ripe"), ALONE)
def test_beyond_four_horizons_i_seal_what_i_hold(_, members, is_ripe):
    mine = reached(4 * HORIZON + 1)
    found = mine.ripe(1e9, [voter(mine, **changes) for changes in members])
    assert found == (mine.counted(1) if is_ripe else None)


@pytest.mark.parametrize(
    ("newest", "open_s", "members", "is_ripe"),
    [
        (HORIZON + 1, 5.9, [AGREE, NO_DIGEST], False),
        (HORIZON + 1, 6.0, [AGREE, NO_DIGEST], True),
        (4 * HORIZON + 1, 23.9, [NO_DIGEST, NO_DIGEST], False),
        (4 * HORIZON + 1, 24.0, [NO_DIGEST, NO_DIGEST], True),
        (4 * HORIZON + 1, 5.9, [AGREE, NO_DIGEST], False),
        (4 * HORIZON + 1, 6.0, [AGREE, NO_DIGEST], True),
        (1, 0.0, [AGREE, AGREE], True),
    ],
)
def test_the_horizon_takes_time_as_well(newest, open_s, members, is_ripe):
    mine = reached(newest, grace_s=6.0)
    found = mine.ripe(open_s, [voter(mine, **changes) for changes in members])
    assert (found is not None) is is_ripe


def test_a_round_nobody_worked_in_begins_to_be_open_when_it_is_looked_at():
    mine = ledger(grace_s=6.0)
    mine.published(HORIZON + 1)
    members = [voter(mine), voter(mine, floor=1)]
    assert mine.ripe(100.0, members) is None
    assert mine.ripe(105.9, members) is None
    assert mine.ripe(106.0, members) == ()


def test_the_horizon_is_the_runs():
    mine = ledger(run=RunConfig(horizon_rounds=1))
    mine.published(2)
    assert mine.ripe(0.0, [voter(mine, floor=1), voter(mine)]) == ()


def test_a_round_i_may_still_publish_to_is_not_ripe():
    mine = ledger()
    put(mine, piece(1, 1))
    assert mine.floor == 1
    assert mine.ripe(0.0, []) is None
    mine.published(1)
    assert mine.ripe(0.0, []) == mine.counted(1)


def test_a_round_nobody_has_reached_is_not_ripe():
    mine = ledger()
    mine.last = 5
    assert mine.ripe(0.0, []) is None


def test_an_empty_round_between_is_sealed_empty():
    mine = ledger()
    mine.published(2)
    assert mine.ripe(0.0, [voter(mine)]) == ()
    assert seal(mine).ids == ()


# -- seal -------------------------------------------------------------------------------------------------------------


def test_a_link_names_its_ids_and_adds_up_the_weights():
    mine = ledger()
    entries = [put(mine, piece(1, author, weight=author)) for author in (3, 1, 2)]
    link = mine.next_link(entries)
    assert link == Link(
        round=1, chain=next_chain(GENESIS, [e.id for e in entries]), weight=6, ids=tuple(sorted(e.id for e in entries))
    )
    mine.seal(link)
    assert (mine.tip, mine.newest, mine.floor, mine.open) == (link, 1, 2, {})
    assert mine.sealed_entries(1) == in_fold_order(entries)
    put(mine, piece(2, 1, weight=10))
    assert seal(mine).weight == 16


def test_what_a_link_leaves_out_is_forgotten():
    mine = ledger()
    kept, left, half = put(mine, piece(1, 1)), put(mine, piece(1, 2)), put(mine, piece(1, 3), complete=False)
    mine.seal(mine.next_link([kept]))
    assert mine.entries == {kept.id: kept}
    assert (mine.counts(kept.id, 1), mine.counts(left.id, 1), mine.counts(half.id, 1)) == (True, False, False)


WRONG = ["the same round again", "a round too far", "an unknown contribution", "an incomplete contribution"]


@pytest.mark.parametrize("wrong", WRONG)
def test_an_illegal_link_raises_and_changes_nothing(wrong):
    mine = ledger()
    put(mine, piece(1, 1))
    seal(mine)
    put(mine, piece(2, 1))
    put(mine, piece(2, 2), complete=False)
    link = mine.next_link(mine.counted(2))
    illegal = {
        "the same round again": replace(link, round=1),
        "a round too far": replace(link, round=3),
        "an unknown contribution": link_after(mine.tip, [piece(2, 1), piece(2, 9)]),
        "an incomplete contribution": link_after(mine.tip, [piece(2, 1), piece(2, 2)]),
    }[wrong]
    before = deepcopy(shape(mine))
    with pytest.raises(LocalError):
        mine.seal(illegal)
    assert shape(mine) == before


def shape(of: Ledger) -> dict:
    """Everything a ledger holds, entries by their ids."""
    return {
        "links": list(of.links),
        "entries": {id_: entry.bitmap() for id_, entry in of.entries.items()},
        "open": {r: list(slots) for r, slots in of.open.items()},
        "opened": of.opened_at_s,
        "numbers": (of.newest, of.last, of.limit, of.floor, of.equivocations_count),
        "sealed": {r: list(slots) for r, slots in of._sealed.items()},
    }


# -- the chain --------------------------------------------------------------------------------------------------------


def sealed_ledger(*authors: tuple[int, ...], start: Ledger | None = None) -> Ledger:
    """A round for each tuple of authors, sealed."""
    made = start or ledger()
    for who in authors:
        for author in who:
            put(made, piece(made.tip.round + 1, author))
        seal(made)
    return made


def test_looking_up_links():
    mine = sealed_ledger((1,), (1, 2), ())
    assert [mine.link_at(r) for r in (-1, 0, 3, 4)] == [None, mine.links[0], mine.tip, None]
    assert mine.has_chain(2, mine.links[2].chain)
    assert not mine.has_chain(1, mine.links[2].chain)
    assert not mine.has_chain(9, mine.tip.chain)
    assert mine.links_after(1, 256) == tuple(mine.links[2:])
    assert mine.links_after(0, 1) == (mine.links[1],)
    assert mine.links_after(3, 256) == mine.links_after(99, 256) == ()
    assert mine.sealed_entries(4) is None


def test_where_two_chains_fork():
    mine, theirs = sealed_ledger((1,), (1,), (1,)), sealed_ledger((1,), (1, 2), (1,), (1,))
    assert mine.fork_round(theirs.links) == 1
    assert mine.fork_round(theirs.links[1:]) == 1
    assert mine.fork_round(theirs.links[2:]) == 1, "the first link extends one of mine"
    assert mine.fork_round(theirs.links[3:]) is None
    assert mine.fork_round([]) is None
    assert mine.fork_round(mine.links) == 3
    assert mine.fork_round([link_after(mine.tip)]) == 3
    assert mine.fork_round([replace(link_after(mine.tip), round=9)]) is None


def test_follow_over_what_i_held_open():
    """Their link counts what I lack, and leaves out what I have."""
    mine, theirs = ledger(), sealed_ledger((2, 3))
    mine_alone, common = put(mine, piece(1, 1)), put(mine, piece(1, 2))
    put(mine, piece(2, 1))
    put(mine, piece(1, 3), wanted=True)
    mine.seal(theirs.tip)
    assert mine.tip == theirs.tip
    assert not mine.counts(mine_alone.id, 1)
    assert mine.counts(common.id, 1)
    assert mine_alone.id not in mine.entries
    assert list(mine.open) == [2]


def test_follow_with_a_late_contribution_kept_aside():
    mine, theirs = ledger(), sealed_ledger((7,))
    mine.set_limit(5)
    put(mine, piece(1, 7), wanted=True)
    mine.seal(theirs.tip)
    assert mine.sealed_entries(1) == tuple(mine.entries.values())


def test_switch():
    """Fork after round 1. Mine sealed 2 (1, 2), 3 (1); theirs 2 (2, 3), 3 (3), 4 (). I hold 4 (1), 5 (1, 8) open."""
    start = ((1, 2),)
    mine, theirs = sealed_ledger(*start, (1, 2), (1,)), sealed_ledger(*start, (2, 3), (3,), ())
    mine.published(5)
    for round_, author in ((4, 1), (5, 1)):
        put(mine, piece(round_, author))
    put(mine, piece(5, 8), complete=False)
    floor = mine.floor
    for round_, author in ((2, 3), (3, 3)):
        put(mine, piece(round_, author), wanted=True)
    loss = mine.switch(1, theirs.links[2:])
    assert loss is not None
    assert loss.covers == {piece(2, 1).id, piece(2, 2).id, piece(3, 1).id}
    assert (loss.length, loss.weight, loss.fork_weight) == (3, 3 * 65536, 2 * 65536)
    assert loss.key[0] == mine.links[1].chain
    assert mine.links == theirs.links
    assert mine.floor == floor
    assert sorted(mine.open) == [5], "4 is sealed without me"
    assert ids(mine.counted(5)) == [piece(5, 1).id]
    held = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (5, 1), (5, 8)]
    assert sorted(mine.entries) == sorted(piece(*slot).id for slot in held)
    assert [ids(mine.sealed_entries(r)) for r in (2, 3, 4)] == [ids(theirs.sealed_entries(r)) for r in (2, 3, 4)]
    assert mine.counts(piece(2, 2).id, 2)
    assert mine.counts(piece(2, 1).id, 2), "a graft of mine will stand for it"
    assert not mine.counts(piece(4, 1).id, 4)
    mine.losses.remove(loss.key)
    assert not mine.counts(piece(2, 1).id, 2)


def test_switch_to_a_chain_that_counts_my_open_work():
    mine, theirs = sealed_ledger((1,)), sealed_ledger((2,), (1,))
    put(mine, piece(2, 1))
    put(mine, piece(1, 2), wanted=True)
    loss = mine.switch(0, theirs.links[1:])
    assert loss is not None
    assert loss.covers == {piece(1, 1).id}
    assert mine.open == {}
    assert sorted(mine.entries) == sorted([piece(1, 2).id, piece(2, 1).id])


def test_switch_to_a_heavier_but_shorter_chain():
    mine, theirs = sealed_ledger((1,), (1,), (1,)), sealed_ledger((2, 3, 4, 5))
    open_ = put(mine, piece(4, 1))
    floor = mine.floor
    for author in (2, 3, 4, 5):
        put(mine, piece(1, author), wanted=True)
    loss = mine.switch(0, theirs.links[1:])
    assert loss is not None
    assert len(loss.covers) == 3
    assert (mine.tip, mine.newest) == (theirs.tip, 4)
    assert mine.counted(4) == (open_,)
    assert mine.floor >= floor


def test_a_side_that_weighs_nothing_is_owed_nothing():
    mine, theirs = sealed_ledger((), ()), sealed_ledger((1, 2))
    for author in (1, 2):
        put(mine, piece(1, author), wanted=True)
    assert mine.switch(0, theirs.links[1:]) is None
    assert (mine.tip, len(mine.losses)) == (theirs.tip, 0)


def test_a_switch_that_lacks_a_contribution_raises_before_anything_is_lost():
    mine, theirs = sealed_ledger((1,), (1,)), sealed_ledger((2,), (3,))
    put(mine, piece(3, 1))
    put(mine, piece(1, 2), wanted=True)
    before = deepcopy(shape(mine))
    with pytest.raises(LocalError):
        mine.switch(0, theirs.links[1:])
    assert shape(mine) == before


def test_install():
    mine, theirs = sealed_ledger((1,), (1,)), sealed_ledger((2,), (2,), (2,), (2,))
    for round_ in (3, 4, 5, 6):
        put(mine, piece(round_, 1), now_s=float(round_))
    put(mine, piece(9, 9), wanted=True, complete=False)
    mine.install(theirs.links[2:], Grafts())
    assert mine.links == theirs.links[2:]
    assert (mine.tip, mine.newest) == (theirs.tip, 9)
    assert sorted(mine.open) == [5, 6, 9]
    assert sorted(mine.entries) == sorted([piece(5, 1).id, piece(6, 1).id, piece(9, 9).id])
    assert sorted(mine.opened_at_s) == [5, 6, 9]
    assert [mine.sealed_entries(r) for r in (2, 3, 4)] == [None, None, None]
    assert mine.link_at(1) is None


def test_install_of_a_later_tip_moves_newest():
    mine, theirs = ledger(), sealed_ledger(*[(2,)] * 20)
    mine.install(theirs.links[-3:], Grafts())
    assert (mine.tip.round, mine.newest, mine.floor) == (20, 20, 21)


# -- agreeing without being asked -------------------------------------------------------------------------------------


def test_a_chain_that_my_open_sets_give_needs_nobody():
    mine, theirs = ledger(), sealed_ledger((1,), (), (1, 2))
    first = put(mine, piece(1, 1))
    for author in (1, 2):
        put(mine, piece(3, author))
    put(mine, piece(4, 1))
    assert mine.agreed(3, theirs.tip.chain) == (first,)
    assert mine.agreed(2, theirs.links[2].chain) == (first,)
    for _ in range(3):
        entries = mine.agreed(3, theirs.tip.chain)
        assert entries is not None
        mine.seal(mine.next_link(entries))
    assert mine.links == theirs.links
    assert mine.agreed(3, theirs.tip.chain) is None, "there already"


@pytest.mark.parametrize("difference", ["one more", "one less", "incomplete", "another round", "a far round"])
def test_a_chain_that_my_open_sets_do_not_give(difference):
    mine, theirs = ledger(), sealed_ledger((1, 2))
    put(mine, piece(1, 1))
    if difference != "one less":
        put(mine, piece(1, 2), complete=difference != "incomplete")
    if difference == "one more":
        put(mine, piece(1, 3))
    tip_round = {"another round": 2, "a far round": 10**9}.get(difference, 1)
    if tip_round > 1:
        put(mine, piece(2, 1))
    assert mine.agreed(tip_round, theirs.tip.chain) is None


def test_what_is_pinned_is_held_once_whatever_becomes_of_its_round():
    mine = ledger()
    entry = put(mine, piece(1, 1))
    size = mine.held_bytes
    assert size == entry.held_bytes > 0
    mine.pin(entry)
    mine.pin(entry)
    assert (mine.held_bytes, mine.held()) == (size, [entry])
    seal(mine)
    mine.forget_payloads(1)
    assert (mine.held_bytes, mine.held(), mine.entries) == (size, [entry], {})
    mine.spilled(entry, 0, memoryview(bytes(entry.segments[0] or b"")))
    assert mine.held_bytes == 0
    mine.unpin(entry.id)
    mine.unpin(entry.id)
    assert (mine.held_bytes, mine.held()) == (0, [])


def test_who_is_unpinned_while_its_round_needs_it_stays():
    mine = ledger()
    entry = put(mine, piece(1, 1))
    mine.pin(entry)
    mine.unpin(entry.id)
    assert (mine.held_bytes, mine.held()) == (entry.held_bytes, [entry])

"""What holds of a ledger whatever happens to it: equal sets give equal everything, and the invariants of its docstring.

Two things are drawn: the order, duplication and retry in which one set of contributions arrives, and arbitrary
sequences of everything that a node ever does to its ledger.
"""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pfusion.config import OPEN_ROUNDS_MAX
from p2pfusion.swarm.grafts import LOSSES_MAX, Grafts
from p2pfusion.swarm.ledger import Entry, Ledger
from p2pfusion.swarm.openings import EQUIVOCATIONS_KEPT_MAX
from p2pfusion.wire.codec import digest, next_chain
from p2pfusion.wire.messages import FLOOR_NEVER, Link
from tests.swarm.made import GENESIS, Piece, ledger, link_after, piece, put, seal

ROUNDS, AUTHORS, VARIANTS, SEGMENTS = 4, 4, 3, 3

slots = st.tuples(st.integers(1, ROUNDS), st.integers(1, AUTHORS), st.integers(0, VARIANTS - 1))


def made(slot: tuple[int, int, int]) -> Piece:
    """One in three has one segment, two, three."""
    round_, author, variant = slot
    return piece(round_, author, variant=variant, segments=1 + (round_ + author + variant) % SEGMENTS)


# -- equal sets -------------------------------------------------------------------------------------------------------


def arrive(pieces: list[Piece], rng: random.Random) -> Ledger:
    """Everything arrives, manifests and segments mixed, many of them twice, some tried before their manifest came."""
    mine = ledger()
    steps = [(p, index) for p in pieces for index in range(-1, len(p.manifest.segments))]
    steps += rng.sample(steps, len(steps) // 2)
    rng.shuffle(steps)
    for added, index in steps + steps:
        entry = mine.entries.get(added.id)
        if index < 0:
            mine.add(added.id, added.manifest, rng.random())
        elif entry is not None:
            mine.put(entry, index, added.data(index))
        mine.digest(added.manifest.round)
    return mine


def counted_by_hand(pieces: list[Piece], round_: int) -> list[bytes]:
    """Of each author the smallest id, by author."""
    best: dict[bytes, bytes] = {}
    for p in pieces:
        if p.manifest.round == round_:
            best[p.manifest.peer] = min(best.get(p.manifest.peer, p.id), p.id)
    return [best[author] for author in sorted(best)]


@settings(max_examples=60)
@given(st.lists(slots, unique=True, max_size=20), st.integers(0, 2**32))
def test_equal_sets_give_equal_digests_sets_and_chains(chosen, seed):
    pieces = [made(slot) for slot in chosen]
    found = [arrive(pieces, random.Random(seed + salt)) for salt in range(3)]
    for mine in found:
        for round_ in range(1, ROUNDS + 1):
            by_hand = counted_by_hand(pieces, round_)
            assert [entry.id for entry in mine.counted(round_)] == by_hand
            assert mine.digest(round_) == digest(by_hand)
        mine.published(ROUNDS)
        while (entries := mine.ripe(0.0, [])) is not None:
            mine.seal(mine.next_link(entries))
        assert mine.tip.round == ROUNDS
        assert mine.links == found[0].links
    chain, weight = GENESIS, 0
    for link in found[0].links[1:]:
        by_hand = counted_by_hand(pieces, link.round)
        chain, weight = next_chain(chain, by_hand), weight + 65536 * len(by_hand)
        assert link == Link(round=link.round, chain=chain, weight=weight, ids=tuple(sorted(by_hand)))


@given(st.lists(slots, unique=True, min_size=1, max_size=12), st.data())
def test_another_set_gives_another_digest(chosen, data):
    pieces = [made(slot) for slot in chosen]
    left_out = data.draw(st.sampled_from(pieces))
    round_ = left_out.manifest.round
    more, less = arrive(pieces, random.Random(0)), arrive([p for p in pieces if p is not left_out], random.Random(0))
    same = counted_by_hand(pieces, round_) == counted_by_hand([p for p in pieces if p is not left_out], round_)
    assert (more.digest(round_) == less.digest(round_)) is same


# -- whatever happens -------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Everything a node does to its ledger, in any order, and a chain of somebody else's to follow or switch to."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = ledger()
        self.now_s = 0.0
        self.floor = 0
        self.chains: list[tuple[Link, ...]] = []

    def at(self, ahead: int, author: int, variant: int) -> Piece:
        round_ = max(1, self.mine.tip.round + ahead)
        return piece(round_, author, variant=variant, segments=1 + (round_ + author) % 2)

    @rule(ahead=st.integers(-2, 6), author=st.integers(1, 4), variant=st.integers(0, 2), wanted=st.booleans())
    def add(self, ahead: int, author: int, variant: int, wanted: bool) -> None:
        added = self.at(ahead, author, variant)
        was_known = added.id in self.mine.entries
        entry = self.mine.add(added.id, added.manifest, self.now_s, wanted=wanted)
        assert (entry is not None) == (added.id in self.mine.entries)
        assert entry is not None or not (was_known or wanted)

    @rule(ahead=st.sampled_from((OPEN_ROUNDS_MAX, OPEN_ROUNDS_MAX + 1)))
    def add_far_ahead(self, ahead: int) -> None:
        added = self.at(ahead, 5, 0)
        known = self.mine.entries.get(added.id)  # from before a switch to a shorter chain
        entry = self.mine.add(added.id, added.manifest, self.now_s)
        assert entry is known or ahead == OPEN_ROUNDS_MAX

    @precondition(lambda self: self.mine.entries)
    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        entry = self.mine.entries[data.draw(st.sampled_from(sorted(self.mine.entries)))]
        self.mine.put(entry, data.draw(st.integers(0, len(entry.segments) - 1)), b"x")

    @precondition(lambda self: self.mine.entries)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.mine.drop(data.draw(st.sampled_from(sorted(self.mine.entries))))

    @rule(ahead=st.integers(-3, 100))
    def see_round(self, ahead: int) -> None:
        self.mine.saw_round(max(0, self.mine.tip.round + ahead))

    @rule()
    def publish(self) -> None:
        if (round_ := self.mine.floor) <= self.mine.tip.round + OPEN_ROUNDS_MAX:
            added = piece(round_, 0)
            assert added.id not in self.mine.entries, "published twice to one round"
            self.mine.published(round_)
            put(self.mine, added, now_s=self.now_s, wanted=True)
            assert added.id in [entry.id for entry in self.mine.counted(round_)]

    @rule(is_observing=st.booleans())
    def observe(self, is_observing: bool) -> None:
        self.mine.observe(is_observing)
        assert self.mine.floor > self.mine.newest or not is_observing

    @rule(ahead=st.integers(-2, 12))
    def learn_limit(self, ahead: int) -> None:
        self.mine.set_limit(max(0, self.mine.newest + ahead))

    @rule(grown_s=st.floats(0, 10))
    def seal_what_is_ripe(self, grown_s: float) -> None:
        self.now_s += grown_s
        before = self.mine.links[:]
        while (entries := self.mine.ripe(self.now_s, [])) is not None:
            self.mine.seal(self.mine.next_link(entries))
        assert self.mine.links[: len(before)] == before
        assert self.mine.floor > self.mine.tip.round

    @precondition(lambda self: self.mine.tip.round)
    @rule(back=st.integers(0, 4))
    def forget(self, back: int) -> None:
        self.mine.forget_payloads(self.mine.tip.round - back)

    @rule(authors=st.lists(st.lists(st.integers(1, 9), max_size=3, unique=True), min_size=1, max_size=4))
    def follow(self, authors: list[list[int]]) -> None:
        for who in authors:
            counted = [piece(self.mine.tip.round + 1, author) for author in who]
            self.bring(counted)
            self.mine.seal(link_after(self.mine.tip, counted))

    @precondition(lambda self: self.mine.tip.round)
    @rule(
        back=st.integers(1, 3),
        authors=st.lists(st.lists(st.integers(1, 9), max_size=3, unique=True), min_size=1, max_size=4),
    )
    def switch(self, back: int, authors: list[list[int]]) -> None:
        mine = self.mine
        fork = max(mine.links[0].round, mine.tip.round - back)
        if any(mine.sealed_entries(r) is None for r in range(fork + 1, mine.tip.round + 1)):
            return
        links, at = [], mine.links[fork - mine.links[0].round]
        for who in authors:
            counted = [piece(at.round + 1, author) for author in who]
            self.bring(counted)
            links.append(at := link_after(at, counted))
        was_sealed = {id_ for link in mine.links_after(fork, 99) for id_ in link.ids}
        was_open = {id_ for slots in mine.open.values() for id_ in slots}
        weight = mine.tip.weight - mine.links[fork - mine.links[0].round].weight
        loss = mine.switch(fork, links)
        theirs = {id_ for link in links for id_ in link.ids}
        assert mine.tip == at
        if loss is not None:
            assert (loss.covers, loss.weight) == (was_sealed, weight)
            assert all(mine.counts(id_, fork + 1) for id_ in was_sealed), "a graft will stand for them"
        for id_ in was_open - theirs:
            assert (id_ in mine.entries) == any(id_ in slots for slots in mine.open.values())
        for round_, held in mine.open.items():
            assert round_ > at.round
            assert set(held) <= was_open

    @precondition(lambda self: self.mine.tip.round)
    @rule(ahead=st.integers(-2, 20), known=st.integers(1, 4))
    def install(self, ahead: int, known: int) -> None:
        stands = max(1, self.mine.tip.round + ahead)
        links = [Link(round=max(0, stands - known), chain=b"\x07" * 32, weight=stands * 10**6, ids=())]
        while links[-1].round < stands:
            links.append(link_after(links[-1]))
        self.mine.install(links, Grafts())
        assert self.mine.tip == links[-1]

    def bring(self, pieces: list[Piece]) -> None:
        """Fetched because a link counts it."""
        for one in pieces:
            put(self.mine, one, now_s=self.now_s, wanted=True)

    # -- invariants ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_floor_only_rises(self) -> None:
        floor = self.mine.floor
        assert self.floor <= floor <= FLOOR_NEVER
        assert floor > self.mine.last
        self.floor = floor

    @invariant()
    def an_id_is_counted_once(self) -> None:
        counted = [id_ for link in self.mine.links for id_ in link.ids]
        counted += [entry.id for counting in self.mine.open_rounds() for entry in counting.work]
        assert len(counted) == len(set(counted))

    @invariant()
    def links_are_a_chain(self) -> None:
        links = self.mine.links
        for before, link in pairwise(links):
            assert (link.round, link.chain) == (before.round + 1, next_chain(before.chain, link.ids))
            assert link.weight >= before.weight

    @invariant()
    def open_rounds_are_above_the_tip_and_bounded(self) -> None:
        mine = self.mine
        assert all(round_ > mine.tip.round for round_ in mine.open)
        assert mine.newest >= mine.tip.round
        assert mine.limit is None or all(round_ <= mine.limit for round_ in mine.open)
        assert len(mine.opened_at_s) <= 2 * OPEN_ROUNDS_MAX
        assert len(mine.equivocations) <= EQUIVOCATIONS_KEPT_MAX
        assert len(mine.losses) <= LOSSES_MAX
        assert mine.held_bytes == sum(entry.held_bytes for entry in mine.entries.values())

    @invariant()
    def what_is_remembered_is_what_would_be_found(self) -> None:
        for round_ in range(self.mine.tip.round + 1, self.mine.tip.round + 8):
            found = by_hand(self.mine, round_)
            assert list(self.mine.counted(round_)) == found
            assert self.mine.digest(round_) == digest([entry.id for entry in found])
            assert (round_ in self.mine.digests()) == bool(found)

    @invariant()
    def every_slot_is_an_entry(self) -> None:
        for round_, held in self.mine.open.items():
            for id_, entry in held.items():
                assert self.mine.entries[id_] is entry
                assert (entry.manifest.round, entry.id) == (round_, id_)
            peers = [entry.manifest.peer for entry in held.values()]
            assert all(peers.count(author) <= 2 for author in peers)

    @invariant()
    def what_is_sealed_can_be_folded_or_is_gone(self) -> None:
        for link in self.mine.links:
            entries = self.mine.sealed_entries(link.round)
            if entries is not None:
                assert tuple(sorted(entry.id for entry in entries)) == link.ids
                assert all(self.mine.entries[entry.id] is entry and entry.is_complete for entry in entries)
                assert all(self.mine.counts(id_, link.round) for id_ in link.ids)


def by_hand(mine: Ledger, round_: int) -> list[Entry]:
    best: dict[bytes, Entry] = {}
    for entry in mine.open.get(round_, {}).values():
        author = entry.manifest.peer
        if all(s is not None for s in entry.segments) and (author not in best or entry.id < best[author].id):
            best[author] = entry
    return [best[author] for author in sorted(best)]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_life_of_sealing_alone():
    """The plainest run: publish, seal, forget, for ever; nothing piles up."""
    mine = ledger()
    for round_ in range(1, 200):
        put(mine, piece(mine.floor, 0))
        mine.published(round_)
        seal(mine)
        if round_ % 8 == 0:
            mine.forget_payloads(round_ - 8)
    assert (mine.tip.round, mine.floor, len(mine.links)) == (199, 200, 200)
    assert len(mine.entries) <= 16
    assert mine.open == mine.opened_at_s == {}

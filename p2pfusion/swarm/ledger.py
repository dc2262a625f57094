"""The ledger: a grow-only set of contributions per round, and the chain of rounds that are sealed.

Rounds above the tip are *open*: their sets grow by union, whoever brings a contribution, however often. The next round
is *sealed* when every member reports the same tip, the same digest for it and a floor above it (PROTOCOL.md 4): then
nothing more can come, the round becomes a link, and equal chains mean equal bits. Chains that fork are repaired by
`switch`.

Invariants. An id is counted at most once. A sealed link never changes except by `switch`. The floor only rises. All
tables are bounded: `OPEN_ROUNDS_MAX`, `LINK_IDS_MAX`, `LINKS_KEPT_MAX`; `forget_payloads` drops those of sealed rounds.

It knows no tensors (whoever seals folds), no clock (`now_s` is passed in), no peers but through `MemberLine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2pfusion.config import LINK_IDS_MAX, LINKS_KEPT_MAX, OPEN_ROUNDS_MAX, RunConfig
from p2pfusion.errors import LocalError
from p2pfusion.swarm.entries import Entry, MemberLine, in_fold_order
from p2pfusion.swarm.sealing import Overdue, electorate
from p2pfusion.wire.codec import digest, next_chain
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId, Link, PeerId

__all__ = ["Entry", "Ledger", "MemberLine", "in_fold_order"]

EQUIVOCATIONS_KEPT_MAX = 64
"""Proofs kept of peers that published two contributions to one slot; more are counted, not kept."""


class Ledger:
    """All contributions and links of one shard. Owned by the loop thread; every method returns at once."""

    def __init__(self, me: PeerId, genesis_chain: bytes, run: RunConfig, *, grace_s: float = 0.0) -> None:
        """`grace_s`: how long a round must have been open before the horizon rules may seal it without everybody."""
        self.me = me
        self.run = run
        self.grace_s = grace_s
        self.links: list[Link] = [Link(round=0, chain=genesis_chain, weight=0, ids=())]
        self.entries: dict[ContributionId, Entry] = {}
        self.open: dict[int, dict[ContributionId, Entry]] = {}
        self.opened_at_s: dict[int, float] = {}
        self.newest = 0
        self.last = 0
        self._promised = 0
        self.limit: int | None = None
        self.equivocations: list[tuple[Contribution, Contribution]] = []
        self.equivocations_count = 0
        self._sealed: dict[int, dict[ContributionId, Entry]] = {}
        self._counted: dict[int, tuple[Entry, ...]] = {}
        self._digests: dict[int, bytes] = {}

    def __repr__(self) -> str:
        tip, rounds = self.tip, sorted(self.open)
        return f"<Ledger tip {tip.round} {tip.chain.hex()[:8]} newest {self.newest} floor {self.floor} open {rounds}>"

    @property
    def tip(self) -> Link:
        """The newest sealed round; genesis at first."""
        return self.links[-1]

    @property
    def floor(self) -> int:
        """The lowest round this node may still publish to: a promise, and it only rises (PROTOCOL.md 4)."""
        floor = max(self._promised, self.last + 1, self.newest, self.tip.round + 1)
        return FLOOR_NEVER if self.limit is not None and floor > self.limit else floor

    def _promise(self) -> None:
        """What the floor is now it stays at least, though newest round or tip are about to fall."""
        self._promised = max(self._promised, self.last + 1, self.newest, self.tip.round + 1)

    # -- contributions ------------------------------------------------------------------------------------------------

    def add(self, id_: ContributionId, manifest: Contribution, now_s: float, *, wanted: bool = False) -> Entry | None:
        """Keep a manifest that passed the gate. None when it cannot count any more and nobody `wanted` it.

        Two different ones for one slot are an equivocation: both stay, the smaller complete id counts.
        """
        if (known := self.entries.get(id_)) is not None:
            return known
        slots = self._open_slots(manifest.round, now_s)
        if slots is not None and len(slots) < LINK_IDS_MAX and self._fits_slot(slots, id_, manifest):
            self.entries[id_] = slots[id_] = entry = Entry(id_, manifest)
            self.newest = max(self.newest, manifest.round)
            return entry
        if wanted:
            self.entries[id_] = entry = Entry(id_, manifest)
            return entry
        return None

    def put(self, entry: Entry, index: int, data: bytes) -> bool:
        """Keep one segment that passed the gate; True when the contribution is complete now."""
        is_complete = entry.put(index, data)
        if is_complete:
            self._changed(entry.manifest.round)
        return is_complete

    def _changed(self, *rounds: int) -> None:
        """What counts in these open rounds (none named: in all) must be looked at again."""
        for round_ in rounds or tuple(self._counted):
            self._counted.pop(round_, None)
            self._digests.pop(round_, None)

    def _open_slots(self, round_: int, now_s: float) -> dict[ContributionId, Entry] | None:
        """The set of an open round, or None when it is sealed, too far ahead or beyond the run's end."""
        if not self.tip.round < round_ <= self.tip.round + OPEN_ROUNDS_MAX:
            return None
        if self.limit is not None and round_ > self.limit:
            return None
        self.opened_at_s.setdefault(round_, now_s)
        return self.open.setdefault(round_, {})

    def _fits_slot(self, slots: dict[ContributionId, Entry], id_: ContributionId, manifest: Contribution) -> bool:
        """Of one author and kind the two smallest ids of a round are kept: one to count, one to prove the other."""
        rivals = [e for e in slots.values() if (e.manifest.peer, e.manifest.kind) == (manifest.peer, manifest.kind)]
        if not rivals:
            return True
        self.equivocations_count += 1
        if len(self.equivocations) < EQUIVOCATIONS_KEPT_MAX:
            self.equivocations.append((rivals[0].manifest, manifest))
        largest = max(rivals, key=lambda entry: entry.id)
        if len(rivals) < 2 or id_ > largest.id:
            return len(rivals) < 2
        del slots[largest.id], self.entries[largest.id]
        self._changed(manifest.round)
        return True

    def saw_round(self, round_: int) -> None:
        """Somebody reports `round_` as its newest; bounded, so that one liar cannot push everybody away."""
        if self.limit is not None:
            round_ = min(round_, self.limit)
        self.newest = max(self.newest, min(round_, self.tip.round + OPEN_ROUNDS_MAX))

    def published(self, round_: int) -> None:
        """I have published to `round_`: never again to it or below."""
        self.last = max(self.last, round_)
        self.newest = max(self.newest, round_)

    def set_limit(self, round_: int) -> None:
        """No work above `round_` counts (the run's end); the smallest one known wins."""
        self._promise()
        self.limit = round_ if self.limit is None else min(self.limit, round_)
        for beyond in [r for r in self.open if r > self.limit]:
            for id_ in self.open.pop(beyond):
                del self.entries[id_]
            self.opened_at_s.pop(beyond, None)
        self.newest = min(self.newest, max(self.limit, self.tip.round))
        self._changed()

    def drop(self, id_: ContributionId) -> None:
        """Forget an incomplete contribution nobody can serve any more."""
        entry = self.entries.get(id_)
        if entry is not None and not entry.is_complete:
            del self.entries[id_]
            self.open.get(entry.manifest.round, {}).pop(id_, None)

    def counted(self, round_: int) -> tuple[Entry, ...]:
        """The complete contributions of an open round that count, in ascending (peer, kind): the order of the fold."""
        if (known := self._counted.get(round_)) is not None:
            return known
        best: dict[tuple[PeerId, str], Entry] = {}
        for entry in self.open.get(round_, {}).values():
            if entry.is_complete:
                slot = (entry.manifest.peer, entry.manifest.kind)
                if slot not in best or entry.id < best[slot].id:
                    best[slot] = entry
        self._counted[round_] = counted = tuple(best[slot] for slot in sorted(best))
        return counted

    def digest(self, round_: int) -> bytes:
        """Digest of the complete ids of an open round."""
        if (known := self._digests.get(round_)) is None:
            self._digests[round_] = known = digest(sorted(entry.id for entry in self.counted(round_)))
        return known

    def digests(self) -> dict[int, bytes]:
        """Digest of each open round in which anything is complete, by round."""
        return {r: self.digest(r) for r in sorted(self.open) if self.counted(r)}

    def open_rounds(self) -> list[tuple[Entry, ...]]:
        """What counts in each open round, ascending: head = sealed model + the fold of these."""
        return [entries for r in sorted(self.open) if (entries := self.counted(r))]

    @property
    def base_round(self) -> int:
        """The newest round of which anything is in the head."""
        return max((r for r in self.open if self.counted(r)), default=self.tip.round)

    # -- sealing ------------------------------------------------------------------------------------------------------

    def ripe(self, now_s: float, members: Sequence[MemberLine]) -> tuple[Entry, ...] | None:
        """What the next round would be sealed with now, or None when it may not be sealed yet (PROTOCOL.md 4)."""
        round_ = self.tip.round + 1
        if round_ > self.newest or self.floor <= round_:
            return None
        open_s = now_s - self.opened_at_s.setdefault(round_, now_s)
        overdue = Overdue(self.newest - round_, open_s)
        asked = electorate(members, round_, overdue, self.run.horizon_rounds, self.grace_s)
        if asked is None:
            return None
        mine, (voters, needed) = self.digest(round_), asked
        agree = 1 + sum(self._agrees(m, round_, mine) for m in voters)
        return self.counted(round_) if agree >= needed else None

    def _agrees(self, member: MemberLine, round_: int, mine: bytes) -> bool:
        theirs = member.digests.get(round_, EMPTY_DIGEST)
        return member.tip_chain == self.tip.chain and member.floor > round_ and theirs == mine

    def agreed(self, tip_round: int, tip_chain: bytes) -> tuple[Entry, ...] | None:
        """What to seal next when my own open sets up to `tip_round` give just that chain: nobody need be asked."""
        chain = self.tip.chain
        for round_ in range(self.tip.round + 1, min(tip_round, self.tip.round + OPEN_ROUNDS_MAX) + 1):
            chain = next_chain(chain, sorted(entry.id for entry in self.counted(round_)))
        return self.counted(self.tip.round + 1) if chain == tip_chain != self.tip.chain else None

    def next_link(self, entries: Iterable[Entry]) -> Link:
        """The link that sealing the next round with `entries` would append."""
        ids = tuple(sorted(entry.id for entry in entries))
        weight = self.tip.weight + sum(entry.manifest.weight for entry in entries)
        return Link(round=self.tip.round + 1, chain=next_chain(self.tip.chain, ids), weight=weight, ids=ids)

    def holds(self, link: Link) -> bool:
        """Whether everything a link counts is complete here."""
        return all(id_ in self.entries and self.entries[id_].is_complete for id_ in link.ids)

    def seal(self, link: Link) -> None:
        """Append a link whose contributions are all complete here; called after its fold is done.

        Raises `LocalError`, and changes nothing, for any other link.
        """
        if link.round != self.tip.round + 1 or not self.holds(link):
            raise LocalError(f"round {link.round} cannot be sealed on a tip of round {self.tip.round}")
        chosen = {id_: self.entries[id_] for id_ in link.ids}
        for id_ in self.open.pop(link.round, {}):
            if id_ not in chosen:
                del self.entries[id_]  # came too late or lost its slot: its author keeps it as residual
        self.opened_at_s.pop(link.round, None)
        self._changed()
        for entry in chosen.values():
            self.open.get(entry.manifest.round, {}).pop(entry.id, None)
        self._sealed[link.round] = chosen
        self.links.append(link)
        self.newest = max(self.newest, link.round)
        if len(self.links) > LINKS_KEPT_MAX:
            del self.links[0]

    def forget_payloads(self, through_round: int) -> None:
        """Rounds up to this one are in a snapshot: only their links stay."""
        for round_ in [r for r in self._sealed if r <= through_round]:
            for id_ in self._sealed.pop(round_):
                self.entries.pop(id_, None)
        for id_ in [id_ for id_, entry in self.entries.items() if entry.manifest.round <= through_round]:
            del self.entries[id_]  # fetched for a chain that was not taken after all

    # -- the chain ----------------------------------------------------------------------------------------------------

    def link_at(self, round_: int) -> Link | None:
        """The link of a sealed round, or None when it is unknown or no longer kept."""
        index = round_ - self.links[0].round
        return self.links[index] if 0 <= index < len(self.links) else None

    def has_chain(self, round_: int, chain: bytes) -> bool:
        link = self.link_at(round_)
        return link is not None and link.chain == chain

    def links_after(self, round_: int, count: int) -> tuple[Link, ...]:
        """Up to `count` links that follow `round_`, from the oldest kept on."""
        start = max(0, round_ + 1 - self.links[0].round)
        return tuple(self.links[start : start + count])

    def sealed_entries(self, round_: int) -> tuple[Entry, ...] | None:
        """The contributions of a sealed round in fold order, or None when their payloads are gone."""
        link = self.link_at(round_)
        if link is None or (link.ids and round_ not in self._sealed):
            return None
        return in_fold_order(self._sealed.get(round_, {}).values())

    def fork_round(self, links: Sequence[Link]) -> int | None:
        """The newest round at which another chain, given as consecutive links, agrees with mine.

        None when they have nothing in common that is still kept. The first link may also directly extend one of mine.
        """
        for link in reversed(links):
            if self.has_chain(link.round, link.chain):
                return link.round
        if links and (before := self.link_at(links[0].round - 1)) is not None:
            return before.round if next_chain(before.chain, links[0].ids) == links[0].chain else None
        return None

    def switch(self, fork_round: int, links: Sequence[Link]) -> tuple[ContributionId, ...]:
        """Adopt the winner's links after `fork_round`; returns the ids my chain had sealed and the winner's lacks.

        My own open contributions join the winner's open rounds by union. Raises `LocalError`, and changes nothing,
        unless all contributions of `links` are complete here.
        """
        if not all(self.holds(link) for link in links):
            raise LocalError(f"no switch after round {fork_round}: not everything the other chain counts is here")
        self._promise()
        still_open = [e for slots in self.open.values() for e in slots.values()]
        lost: dict[ContributionId, Entry] = {}
        for link in self.links_after(fork_round, len(self.links)):
            lost.update(self._sealed.pop(link.round, {}))
        theirs = {id_ for link in links for id_ in link.ids}
        del self.links[fork_round - self.links[0].round + 1 :]
        self.open.clear()
        for link in links:
            self.seal(link)
        for entry in still_open:
            if entry.manifest.round > self.tip.round and entry.id not in theirs:
                self.open.setdefault(entry.manifest.round, {})[entry.id] = entry
        self._changed()
        left = tuple(sorted(id_ for id_ in lost if id_ not in theirs))
        kept = {e.id for slots in self.open.values() for e in slots.values()}
        kept.update(id_ for sealed in self._sealed.values() for id_ in sealed)
        for entry in [*lost.values(), *still_open]:
            if entry.id not in kept:
                self.entries.pop(entry.id, None)
        return left

    def install(self, links: Sequence[Link]) -> None:
        """Start from a snapshot: `links[-1]` is where it stands, the others are what is known before it."""
        self._promise()
        still_open = [e for slots in self.open.values() for e in slots.values() if e.manifest.round > links[-1].round]
        self.links = list(links[-LINKS_KEPT_MAX:])
        self._sealed.clear()
        self.open.clear()
        self.opened_at_s = {r: t for r, t in self.opened_at_s.items() if r > self.tip.round}
        self.entries = {entry.id: entry for entry in still_open}
        for entry in still_open:
            self.open.setdefault(entry.manifest.round, {})[entry.id] = entry
        self.newest = max(self.newest, self.tip.round)
        self._changed()

    def counts(self, id_: ContributionId, round_: int) -> bool:
        """Whether my chain counts this contribution: in its link, or in its round while that is open."""
        if round_ > self.tip.round:
            return id_ in self.open.get(round_, {})
        link = self.link_at(round_)
        return link is not None and id_ in link.ids


EMPTY_DIGEST = digest([])
"""Digest of a round in which nothing is complete."""

"""The open rounds above a chain's tip: sets of contributions that only grow, whoever brings what, however often.

An id is held once. Of one author and kind the smallest complete id of a round counts. The floor, the lowest round this
node may still publish to, only rises; who observes keeps it above every round that it knows of. All sets are bounded:
`OPEN_ROUNDS_MAX` rounds of `LINK_IDS_MAX` contributions. When a round may be sealed, and what becomes of it, is the
ledger's affair.
"""

from __future__ import annotations

from p2pfusion.config import LINK_IDS_MAX, OPEN_ROUNDS_MAX
from p2pfusion.swarm.entries import Counting, Entry
from p2pfusion.swarm.grafts import Grafted, rounds_of
from p2pfusion.swarm.links import Links
from p2pfusion.wire.codec import digest
from p2pfusion.wire.coding import Body
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId, PeerId

EQUIVOCATIONS_KEPT_MAX = 64
"""Proofs kept of peers that published two contributions to one slot; more are counted, not kept."""


class OpenRounds(Links):
    """A chain, and what is known of the rounds that it has not sealed yet."""

    def __init__(self, genesis_chain: bytes) -> None:
        super().__init__(genesis_chain)
        self.held_bytes = 0
        """Payload in memory: what was put, less what was forgotten or spilled."""
        self.pinned: dict[ContributionId, Entry] = {}
        """My own contributions, kept also when the chain needs them no more; as many as their author remembers."""
        self.entries: dict[ContributionId, Entry] = {}
        self.open: dict[int, dict[ContributionId, Entry]] = {}
        self.opened_at_s: dict[int, float] = {}
        self.newest = 0
        self.last = 0
        self._promised = 0
        self._is_observing = False
        self.limit: int | None = None
        self.equivocations: list[tuple[Contribution, Contribution]] = []
        self.equivocations_count = 0
        self._counted: dict[int, tuple[Entry, ...]] = {}
        self._digests: dict[int, bytes] = {}

    @property
    def floor(self) -> int:
        """The lowest round this node may still publish to: a promise, and it only rises (PROTOCOL.md 4)."""
        floor = self._lowest
        return FLOOR_NEVER if self.limit is not None and floor > self.limit else floor

    @property
    def _lowest(self) -> int:
        """The floor, were there no end."""
        return max(self._promised, self.last + 1, self.newest + self._is_observing, self.tip.round + 1)

    def _promise(self) -> None:
        """What the floor is now it stays at least, though newest round or tip are about to fall."""
        self._promised = self._lowest

    def observe(self, is_observing: bool) -> None:
        """Whether I observe: then I publish to no round that anybody has begun, and no seal waits for work of mine.

        Who stops goes on from the floor that this has given it.
        """
        self._promise()
        self._is_observing = is_observing

    # -- contributions ------------------------------------------------------------------------------------------------

    def add(self, id_: ContributionId, manifest: Contribution, now_s: float, *, wanted: bool = False) -> Entry | None:
        """Keep a manifest that passed the gate. None when it cannot count any more and nobody `wanted` it.

        Two different ones for one slot are an equivocation: both stay, the smaller complete id counts.
        """
        if (known := self.entries.get(id_)) is not None:
            return known
        slots = self._open_slots(manifest, now_s)
        if slots is not None and len(slots) < LINK_IDS_MAX and self._fits_slot(slots, id_, manifest):
            self.entries[id_] = slots[id_] = entry = Entry(id_, manifest)
            self.newest = max(self.newest, manifest.round)
            return entry
        if wanted:
            self.entries[id_] = entry = Entry(id_, manifest)
            return entry
        return None

    def put(self, entry: Entry, index: int, data: Body) -> bool:
        """Keep one segment that passed the gate; True when the contribution is complete now."""
        if self.entries.get(entry.id) is not entry:
            return False  # forgotten while this was on its way
        if entry.segments[index] is None:
            self.held_bytes += len(data)
        is_complete = entry.put(index, data)
        if is_complete:
            self._changed(entry.manifest.round)
        return is_complete

    def _changed(self, *rounds: int) -> None:
        """What counts in these open rounds (none named: in all) must be looked at again."""
        for round_ in rounds or tuple(self._counted):
            self._counted.pop(round_, None)
            self._digests.pop(round_, None)

    def _open_slots(self, manifest: Contribution, now_s: float) -> dict[ContributionId, Entry] | None:
        """The set of an open round, or None when it is sealed, too far ahead or beyond the run's end.

        Grafts have no end: what the run's last rounds lost comes after them. What a graft stands for is never open: it
        lies below the losing tip, and that below the winner's.
        """
        round_ = manifest.round
        if not self.tip.round < round_ <= self.tip.round + OPEN_ROUNDS_MAX:
            return None
        if self.limit is not None and round_ > self.limit and manifest.kind == "work":
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
        del slots[largest.id]
        self._forget(largest.id)
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
            for id_ in [id_ for id_, entry in self.open[beyond].items() if entry.manifest.kind == "work"]:
                del self.open[beyond][id_]
                self._forget(id_)
            if not self.open[beyond]:
                del self.open[beyond]
                self.opened_at_s.pop(beyond, None)
        self.newest = min(self.newest, max([self.limit, self.tip.round, *self.open]))
        self._changed()

    def drop(self, id_: ContributionId) -> None:
        """Forget an incomplete contribution nobody can serve any more."""
        entry = self.entries.get(id_)
        if entry is not None and not entry.is_complete:
            self._forget(id_)
            self.open.get(entry.manifest.round, {}).pop(id_, None)

    def _forget(self, id_: ContributionId) -> None:
        if (entry := self.entries.pop(id_, None)) is not None and self.pinned.get(id_) is not entry:
            self.held_bytes -= entry.held_bytes

    def pin(self, entry: Entry) -> None:
        """Keep a complete contribution's payload, whatever becomes of its round, until it is unpinned."""
        if self.pinned.get(entry.id) is not entry:
            self.unpin(entry.id)
            self.pinned[entry.id] = entry
            self.held_bytes += 0 if self.entries.get(entry.id) is entry else entry.held_bytes

    def unpin(self, id_: ContributionId) -> None:
        """Its author needs it no more."""
        entry = self.pinned.pop(id_, None)
        if entry is not None and self.entries.get(id_) is not entry:
            self.held_bytes -= entry.held_bytes

    def held(self) -> list[Entry]:
        """Whatever takes memory: contributions on their way, open, sealed or pinned, each once."""
        return [*self.entries.values(), *(e for id_, e in self.pinned.items() if self.entries.get(id_) is not e)]

    def spilled(self, entry: Entry, index: int, kept: memoryview) -> None:
        """A segment is on disk now; `kept` reads it from there."""
        is_held = self.entries.get(entry.id) is entry or self.pinned.get(entry.id) is entry
        if is_held and entry.spilled(index, kept):
            self.held_bytes -= kept.nbytes

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

    def open_rounds(self) -> list[Counting]:
        """What counts in each open round, ascending: head = sealed model + the fold of these."""
        grafts = self.grafts.until(self.tip.round) if self._has_open_graft() else self.grafts
        rounds = []
        for round_ in sorted(self.open):
            work, candidates = rounds_of(self.counted(round_))
            graft = grafts.choose(candidates, self.is_mine)
            if graft is not None and graft.manifest.graft is not None:
                grafts.append(Grafted(round=round_, key=graft.manifest.graft.key, ids=frozenset()))
            if work or graft:
                rounds.append(Counting(work, graft))
        return rounds

    @property
    def base_round(self) -> int:
        """The newest round of which anything is in the head."""
        return max((r for r in self.open if self.counted(r)), default=self.tip.round)

    # -- grafts --------------------------------------------------------------------------------------------------------

    def _has_open_graft(self) -> bool:
        """Whether one is on its way that the chain could count next."""
        return any(
            entry.manifest.graft is not None and entry.manifest.graft.after == self.grafts.total
            for slots in self.open.values()
            for entry in slots.values()
        )

    @property
    def graft_round(self) -> int:
        """Where a graft of mine goes: my floor, or beyond everything when I publish no more work."""
        return self.newest + 1 if self.floor == FLOOR_NEVER else self.floor

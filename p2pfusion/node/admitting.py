"""Taking in what peers say of contributions: the gate, the ledger, and whom to ask for what is missing.

Part of the talking task: `node.gossiping` brings what was said. It speaks to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2pfusion.config import OPEN_ROUNDS_MAX
from p2pfusion.node.judging import LOOP_ELEMENTS_MAX, Judging, elements_of
from p2pfusion.node.state import State
from p2pfusion.swarm.gate import judge, judge_segment
from p2pfusion.swarm.gossip import whole
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId, Gossip, Have, PeerId

REJECTED_MAX = 4096
"""Ids not worth asking for again: refused by the gate, or too late."""
ACCUSED_MAX = 64
"""Peers told of for publishing two contributions to one round; so many copies say enough, and more stay untold."""
BESIDE_ELEMENTS_MAX = 1 << 24
"""Elements that travelled inside calls and wait to be judged beside the loop: half a second of work; beyond it segments
are fetched as if they had not come. Each contribution counts as `LOOP_ELEMENTS_MAX` at least, so at most 256 wait."""


class Admitting:
    """Judges manifests and remembers the refused."""

    def __init__(self, state: State, pass_on: Callable[[ContributionId], None], group: asyncio.TaskGroup) -> None:
        """`pass_on` is called with each contribution that is new here; in `group` runs what takes longer."""
        self._state = state
        self._pass_on = pass_on
        self._group = group
        self._judging = Judging(state.doors.compute, state.blueprint, group)
        self._beside_elements = 0
        self._rejected: dict[ContributionId, int] = {}
        """Ids not worth asking for while the tip is at this round or above: 0 for ever, or the sealed one."""
        self._accused: dict[PeerId, None] = {}

    def absorb(self, message: Gossip) -> None:
        """What a member of my run says it made, brings or holds."""
        segments, room_elements = dict(message.inline), LOOP_ELEMENTS_MAX
        for manifest in message.fresh:
            room_elements -= self._absorb_manifest(manifest, message.sender, segments, room_elements)
        self._absorb_haves(message.have, message.sender)

    def _absorb_haves(self, haves: tuple[Have, ...], sender: PeerId) -> None:
        """Of most I have everything too: then all there is to learn is that the sender has.

        Who is no member cannot be called, so nothing is wanted from it.
        """
        is_member = self._state.membership.report_of(sender) is not None
        state, entries = self._state, self._state.ledger.entries
        wholes: list[ContributionId] = []
        others: list[ContributionId] = []
        for have in haves:
            entry = entries.get(have.id)
            if entry is not None and entry.is_complete:
                (wholes if have.bitmap == entry.have().bitmap else others).append(have.id)
                continue
            is_whole = entry is not None and have.bitmap == whole(entry.manifest)
            (wholes if is_whole else others).append(have.id)
            if is_member and not self._is_rejected(have.id) and state.wanted.offer(have.id, sender, have.bitmap):
                state.bells["fetch"].ring()
        state.spoken.told_of(sender, others)
        state.spoken.told_of(sender, wholes, is_whole=True)

    def _absorb_manifest(
        self,
        manifest: Contribution,
        sender: PeerId,
        segments: dict[ContributionId, tuple[bytes, ...]],
        room_elements: int,
    ) -> int:
        """How many elements were judged on the loop: `room_elements` at most; more are judged beside it."""
        id_, ledger = contribution_id(manifest), self._state.ledger
        self._state.spoken.told_of(sender, [id_], is_whole=id_ in segments)
        if id_ in ledger.entries or self._is_rejected(id_) or not self.admit(id_, manifest):
            return 0
        entry, given, blueprint = ledger.entries[id_], segments.get(id_, ()), self._state.blueprint
        elements = sum(elements_of(manifest, index, blueprint) for index in range(len(given)))
        if elements > room_elements:
            self._take_beside(entry, sender, given, max(elements, LOOP_ELEMENTS_MAX))
            return 0
        for index, data in enumerate(given):
            if judge_segment(manifest, index, data, blueprint) is None:
                self._put(entry, index, data)
        self._want_rest(entry, sender)
        return elements

    def _take_beside(self, entry: Entry, sender: PeerId, given: tuple[bytes, ...], elements: int) -> None:
        """Have the segments judged beside the loop if there is room to wait; else the sender holds what it sent."""
        if self._beside_elements + elements > BESIDE_ELEMENTS_MAX:
            self._state.wanted.offer(entry.id, sender, None)
            self._state.bells["fetch"].ring()
            return
        self._beside_elements += elements
        self._group.create_task(self._judge_beside(entry, sender, given, elements))

    async def _judge_beside(self, entry: Entry, sender: PeerId, given: tuple[bytes, ...], elements: int) -> None:
        try:
            for index, data in enumerate(given):
                reason = await self._judging.beside(entry.manifest, index, memoryview(data))
                if self._state.ledger.entries.get(entry.id) is not entry:
                    return  # sealed without it, or given up
                if reason is None:
                    self._put(entry, index, data)
        finally:
            self._beside_elements -= elements
        self._want_rest(entry, sender)

    def _put(self, entry: Entry, index: int, data: bytes) -> None:
        if self._state.ledger.put(entry, index, data):
            self._state.completed(entry)

    def _want_rest(self, entry: Entry, sender: PeerId) -> None:
        """Its author surely holds all of it."""
        if sender == entry.manifest.peer and not entry.is_complete:
            self._state.wanted.offer(entry.id, sender, None)
        self._state.bells["fetch"].ring()

    def admit(self, id_: ContributionId, manifest: Contribution) -> bool:
        """The gate, then the ledger; a new one is passed on. False: refused or too late, not to be asked for again.

        One for a round too far ahead is not kept either, but it may be offered again when the tip has followed.
        """
        state = self._state
        reason = judge(manifest, state.blueprint, state.config.run)
        wanted = id_ in state.needed
        if state.is_full and not wanted and manifest.round > state.ledger.tip.round + 1:
            state.wanted.done(id_)  # for now: it may be offered again
            return False
        if reason is None and self._add(id_, manifest, wanted=wanted):
            if manifest.round > state.ledger.tip.round:  # what is fetched for a link is old news
                self._pass_on(id_)
            return True
        if reason is not None:
            state.warn("refused-contribution", f"peer {manifest.peer.hex()[:8]} sent a contribution refused: {reason}")
        elif manifest.round <= state.ledger.tip.round:
            state.late += 1
        state.wanted.done(id_)
        if reason is not None or manifest.round <= state.ledger.tip.round + OPEN_ROUNDS_MAX:
            if len(self._rejected) >= REJECTED_MAX:
                del self._rejected[next(iter(self._rejected))]
            is_late = reason is None and manifest.round <= state.ledger.tip.round
            self._rejected[id_] = manifest.round if is_late else 0
        return False

    def _add(self, id_: ContributionId, manifest: Contribution, *, wanted: bool) -> bool:
        state, ledger = self._state, self._state.ledger
        proofs = ledger.equivocations_count
        is_kept = ledger.add(id_, manifest, state.now_s(), wanted=wanted) is not None
        if is_kept:
            state.ahead.heard(id_, state.now_s())
        if ledger.equivocations_count > proofs:
            self._tell_of_rivals(manifest)
        return is_kept

    def _tell_of_rivals(self, manifest: Contribution) -> None:
        """Once for each peer: a copied node does it every round."""
        if manifest.peer in self._accused or len(self._accused) >= ACCUSED_MAX:
            return
        self._accused[manifest.peer] = None
        known = self._state.membership.report_of(manifest.peer)
        name = "" if known is None else f" ({known.name})"
        self._state.warn(
            "equivocation",
            f"peer {manifest.peer.hex()[:8]}{name} published two different contributions to round {manifest.round}: "
            "the smaller id counts, for everybody; probably its state folder was copied",
        )

    def _is_rejected(self, id_: ContributionId) -> bool:
        """A switch to a shorter chain opens rounds again, and with them what came too late for mine."""
        return self._rejected.get(id_, FLOOR_NEVER) <= self._state.ledger.tip.round

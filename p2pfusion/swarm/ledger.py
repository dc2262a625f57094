"""The ledger: a grow-only set of contributions per round, and the chain of rounds that are sealed.

Rounds above the tip are *open*: their sets grow by union, whoever brings a contribution, however often. The next round
is *sealed* when every member reports the same tip, the same digest for it and a floor above it (PROTOCOL.md 4): then
nothing more can come, the round becomes a link, and equal chains mean equal bits. Chains that fork are repaired by
`switch`; what the loser leaves behind it owes a graft for (`grafts`).

Invariants. An id is counted at most once. A sealed link never changes except by `switch`. All tables are bounded:
`LINKS_KEPT_MAX`, `LOSSES_MAX`; `forget_payloads` drops those of sealed rounds. `links` is the chain alone, `openings`
the rounds above it; this module moves rounds from one to the other.

It knows no tensors (whoever seals folds), no clock (`now_s` is passed in), no peers but through `MemberLine`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from p2pfusion.config import COVERED_IDS_MAX, LINKS_KEPT_MAX, OPEN_ROUNDS_MAX, RunConfig
from p2pfusion.errors import LocalError
from p2pfusion.swarm.entries import Counting, Entry, MemberLine, in_fold_order
from p2pfusion.swarm.grafts import Grafts, Loss, Losses
from p2pfusion.swarm.openings import OpenRounds
from p2pfusion.swarm.sealing import Overdue, electorate
from p2pfusion.wire.codec import digest, next_chain
from p2pfusion.wire.messages import ContributionId, Link, PeerId

__all__ = ["Counting", "Entry", "Ledger", "MemberLine", "in_fold_order"]


class Ledger(OpenRounds):
    """A chain of links and the open rounds above it. Owned by the loop thread; every method returns at once."""

    def __init__(self, me: PeerId, genesis_chain: bytes, run: RunConfig, *, grace_s: float = 0.0) -> None:
        """`grace_s`: how long a round must have been open before the horizon rules may seal it without everybody."""
        super().__init__(genesis_chain)
        self.me = me
        self.run = run
        self.grace_s = grace_s
        self.losses = Losses()
        self._sealed: dict[int, dict[ContributionId, Entry]] = {}

    def __repr__(self) -> str:
        tip, rounds = self.tip, sorted(self.open)
        return f"<Ledger tip {tip.round} {tip.chain.hex()[:8]} newest {self.newest} floor {self.floor} open {rounds}>"

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
                self._forget(id_)  # came too late or lost its slot: its author keeps it as residual
        self.opened_at_s.pop(link.round, None)
        self._changed()
        for entry in chosen.values():
            self.open.get(entry.manifest.round, {}).pop(entry.id, None)
        self._sealed[link.round] = chosen
        self._append(link, chosen.values())
        self.newest = max(self.newest, link.round)
        self.losses.settle(self.grafts, self.is_mine)

    def forget_payloads(self, through_round: int) -> None:
        """Rounds up to this one are in a snapshot: only their links stay."""
        for round_ in [r for r in self._sealed if r <= through_round]:
            for id_ in self._sealed.pop(round_):
                self._forget(id_)
        for id_ in [id_ for id_, entry in self.entries.items() if entry.manifest.round <= through_round]:
            self._forget(id_)  # fetched for a chain that was not taken after all

    # -- the chain ----------------------------------------------------------------------------------------------------

    def sealed_rounds(self) -> list[int]:
        """Sealed rounds whose payloads are kept, oldest first."""
        return sorted(self._sealed)

    def sealed_entries(self, round_: int) -> tuple[Entry, ...] | None:
        """The contributions of a sealed round in fold order, or None when their payloads are gone."""
        link = self.link_at(round_)
        if link is None or (link.ids and round_ not in self._sealed):
            return None
        return in_fold_order(self._sealed.get(round_, {}).values())

    def switch(self, fork_round: int, links: Sequence[Link]) -> Loss | None:
        """Adopt the winner's links after `fork_round`; what my side loses so I owe a graft for, if it weighs anything.

        My own open contributions join the winner's open rounds by union. Raises `LocalError`, and changes nothing,
        unless all contributions of `links` are complete here.
        """
        if fork_round >= self.tip.round:
            raise LocalError(f"no switch after round {fork_round}: that is no fork of a chain of {self.tip.round}")
        if not all(self.holds(link) for link in links):
            raise LocalError(f"no switch after round {fork_round}: not everything the other chain counts is here")
        self._promise()
        still_open = [e for slots in self.open.values() for e in slots.values()]
        loss, lost = self._lost_after(fork_round), self._cut(fork_round)
        dropped = [e for link in lost for e in self._sealed.pop(link.round, {}).values()]
        self.open.clear()
        for link in links:
            self.seal(link)
        for entry in still_open:
            if entry.manifest.round > self.tip.round:
                self.open.setdefault(entry.manifest.round, {})[entry.id] = entry
        self._changed()
        kept = {e.id for slots in self.open.values() for e in slots.values()}
        kept.update(id_ for sealed in self._sealed.values() for id_ in sealed)
        for entry in [*dropped, *still_open]:
            if entry.id not in kept:
                self._forget(entry.id)
        return self._owe(loss)

    def _owe(self, loss: Loss) -> Loss | None:
        """Owe a graft for what weighs anything and fits one; None when nothing is owed for it (any more)."""
        if loss.weight and len(loss.covers) <= COVERED_IDS_MAX:
            self.losses.add(loss)
        self.losses.settle(self.grafts, self.is_mine)
        return loss if loss.key in self.losses else None

    def _lost_after(self, fork_round: int) -> Loss:
        """What my chain has counted since the fork, as a side that is about to lose."""
        fork, *lost = self.links_after(fork_round - 1, len(self.links))
        covers = {id_ for link in lost for id_ in link.ids}
        covers.update(id_ for one in self.grafts.counted if one.round > fork_round for id_ in one.ids)
        return Loss(
            key=(fork.chain, lost[0].chain),
            length=lost[-1].round,
            weight=lost[-1].weight - fork.weight,
            fork_weight=fork.weight,
            covers=frozenset(covers),
        )

    def install(self, links: Sequence[Link], grafts: Grafts) -> Loss | None:
        """Start from a snapshot: `links[-1]` is where it stands, the others are what is known before it.

        Returns what I owe a graft for, when my chain and this one forked at a link that both know.
        """
        self._promise()
        fork = self.fork_round(links)
        loss = self._lost_after(fork) if fork is not None and fork < self.tip.round else None
        links = [*(link for link in self.links if link.round < links[0].round), *links] if fork is not None else links
        still_open = [e for slots in self.open.values() for e in slots.values() if e.manifest.round > links[-1].round]
        self.links = list(links[-LINKS_KEPT_MAX:])
        self.grafts = grafts
        self._sealed.clear()
        self.open.clear()
        self.opened_at_s = {r: t for r, t in self.opened_at_s.items() if r > self.tip.round}
        self.entries = {entry.id: entry for entry in still_open}
        self.held_bytes = sum(entry.held_bytes for entry in self.held())
        for entry in self.entries.values():
            self.open.setdefault(entry.manifest.round, {})[entry.id] = entry
        self.newest = max(self.newest, self.tip.round)
        self._changed()
        if loss is None:
            self.losses.settle(grafts, self.is_mine)
            return None
        return self._owe(loss)

    # -- grafts -------------------------------------------------------------------------------------------------------

    def graft_due(self, now_s: float, patience_s: float, rng: random.Random) -> Loss | None:
        """The loss to publish a graft for now, if any."""
        if not self.losses:
            return None
        return self.losses.due(self.tip.round, self._has_open_graft(), now_s, patience_s, rng)

    def counts(self, id_: ContributionId, round_: int) -> bool | None:
        """Whether my chain counts this contribution: in its link, in its round while that is open, or among what a
        graft stands for, be it one that is sealed or one I still owe. None when nothing is known of its round any more.
        """
        if self.grafts.covers(id_) or self.losses.stand_for(id_):
            return True
        if round_ > self.tip.round:
            return id_ in self.open.get(round_, {})
        link = self.link_at(round_)
        return None if link is None else id_ in link.ids


EMPTY_DIGEST = digest([])
"""Digest of a round in which nothing is complete."""

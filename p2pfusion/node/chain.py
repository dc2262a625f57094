"""The one task that moves the tip: seal what is ripe, follow a longer chain, switch to a heavier one, take a snapshot.

Nothing else changes links or the sealed model, so everything here is one step after another. `swarm.ledger` decides
what may be sealed; the fold runs in the executor; the ledger is changed when the new model is there.

How to leave a chain is `switching`'s, what a switch left behind `grafting`'s; both are called from this task alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import PEERS_MAX
from p2pfusion.errors import RemoteError, WireError
from p2pfusion.node import snapshots
from p2pfusion.node.authoring import Authoring
from p2pfusion.node.calls import Calls
from p2pfusion.node.decoding import counting_of, folded
from p2pfusion.node.gathering import Gathering, Gone
from p2pfusion.node.grafting import Grafting
from p2pfusion.node.pull import Pull
from p2pfusion.node.resuming import CHECKPOINT_MIN_S, capture
from p2pfusion.node.snapshots import Kept, Snapshots
from p2pfusion.node.state import State
from p2pfusion.node.switching import Switching
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import next_chain
from p2pfusion.wire.messages import Link, PeerId, ShardReport

SHUN_S = 1.0
"""How long a member is not asked again for a chain that led nowhere."""


class Chain:
    """Owner of the tip."""

    def __init__(self, state: State, calls: Calls, kept: Snapshots, authoring: Authoring, grafting: Grafting) -> None:
        self._state = state
        self._kept = kept
        self._authoring = authoring
        self._grafting = grafting
        pull = Pull(state, calls)
        self._gathering = Gathering(state, pull)
        self._switching = Switching(state, pull, self._gathering, kept, grafting)
        self._shunned_until_s: dict[tuple[PeerId, bytes], float] = {}
        self.last_seal_s = 0.0
        self._save_due_s = 0.0

    async def run(self) -> None:
        self._save_due_s = self._state.now_s() + CHECKPOINT_MIN_S
        while True:
            await self._state.bells["chain"].wait(self._state.config.gossip.gossip_interval_s)
            while await self._step():
                if self._state.now_s() >= self._save_due_s:
                    await self.save()
            await self._authoring.settle()

    async def _step(self) -> bool:
        """One move of the tip; False when there is nothing to do."""
        if (better := self.better()) is not None:
            return await self._pursue(*better)
        state = self._state
        if state.role == "syncing":
            return False  # who enters follows the others: it seals nothing alone, and publishes nothing
        entries = state.ledger.ripe(state.now_s(), state.lines())
        if entries is None:
            await self._grafting.step()
            return False
        await self._append(state.ledger.next_link(entries), entries)
        return True

    # -- whose chain ------------------------------------------------------------------------------------------------

    def better(self) -> tuple[PeerId, ShardReport] | None:
        """The heaviest advertised tip that is not on my chain and is ahead of mine or beats it, and who holds it."""
        state, now_s = self._state, self._state.now_s()
        self._shunned_until_s = {key: t for key, t in self._shunned_until_s.items() if t > now_s}
        found = [
            (shard.tip_weight, shard.tip_chain, report.peer, shard)
            for report, _ in state.membership.reports()
            for shard in report.shards[:1]
            if (report.peer, shard.tip_chain) not in self._shunned_until_s and self._is_better(shard)
        ]
        if not found:
            return None
        heaviest = max(item[:2] for item in found)
        holders = [(peer, shard) for weight, chain, peer, shard in found if (weight, chain) == heaviest]
        return state.doors.rng.choice(holders)

    def _is_better(self, shard: ShardReport) -> bool:
        """Whether it is not mine and is ahead of it or beats it; at its end a node only looks for grafts and forks."""
        ledger = self._state.ledger
        if ledger.has_chain(shard.tip_round, shard.tip_chain):
            return False
        return shard.tip_round > ledger.tip.round or ledger.is_beaten_by(shard.tip_weight, shard.tip_chain)

    def _is_at_its_end(self) -> bool:
        ledger = self._state.ledger
        return ledger.limit is not None and ledger.tip.round >= ledger.limit

    async def _pursue(self, peer: PeerId, shard: ShardReport) -> bool:
        """Follow, switch or start from a snapshot; a member that led nowhere is left alone for a while."""
        ledger = self._state.ledger
        if (entries := ledger.agreed(shard.tip_round, shard.tip_chain)) is not None:
            await self._append(ledger.next_link(entries), entries)
            return True
        with suppress(RemoteError):
            if await self._advance(peer, shard):
                return True
        if len(self._shunned_until_s) < PEERS_MAX:
            self._shunned_until_s[peer, shard.tip_chain] = self._state.now_s() + SHUN_S
        return False

    async def _advance(self, peer: PeerId, shard: ShardReport) -> bool:
        ledger, every = self._state.ledger, self._state.config.run.snapshot_every_rounds
        is_new = ledger.tip.round == 0 and shard.tip_round >= every
        if (is_new or shard.tip_round - ledger.tip.round > 2 * every) and not self._is_at_its_end():
            return self._has_moved(await self._start_anew(peer, shard))
        links = await self._gathering.links(peer, ledger.tip.round, shard.tip_round)
        if not (links and next_chain(ledger.tip.chain, links[0].ids) == links[0].chain):
            fork, links = await self._switching.search(peer, shard)
            if fork != ledger.tip.round:
                return self._has_moved(await self._switching.leave(peer, fork, links))
            links = tuple(link for link in links if link.round > fork)  # it was another's answer that did not fit
        try:
            return await self._follow(peer, links)
        except Gone:  # a snapshot stands for what is not kept any more
            return self._has_moved(await self._start_anew(peer, shard))

    async def _start_anew(self, peer: PeerId, shard: ShardReport) -> bool:
        """Too far behind, or what lies between is gone: a snapshot, with what is known of the links before it."""
        _, links = await self._switching.search(peer, shard)
        return await self._switching.take_snapshot(peer, links)

    async def _follow(self, peer: PeerId, links: Sequence[Link]) -> bool:
        """Their chain extends mine: take its links one by one, over whatever I held open."""
        for link in links:
            self._gathering.want(peer, link)
        try:
            for link in links:
                entries = await self._gathering.gather(peer, link)
                if self._state.ledger.next_link(entries) != link:
                    raise WireError(f"round {link.round}: a link that its contributions do not give")
                await self._append(link, entries)
        finally:
            self._gathering.unwant(links)
        return bool(links)

    # -- sealing ----------------------------------------------------------------------------------------------------

    async def _append(self, link: Link, entries: Sequence[Entry]) -> None:
        """Fold a round into the sealed model, then make it a link."""
        state, sealed = self._state, self._state.replica.sealed
        is_snapshot = link.round % state.config.run.snapshot_every_rounds == 0

        def work() -> tuple[Vector, bytes, Kept | None]:
            model = folded(state.blueprint, sealed, counting_of(entries, link.graft))
            taken = snapshots.take(state.run_id, link, model) if is_snapshot else None
            return model, snapshots.hash_of(model), taken

        model, model_hash, snapshot = await state.doors.compute.run(work, lane="fold")
        if not state.ledger.holds(link):
            return  # the run's end, learnt meanwhile, took its work away
        state.ledger.seal(link)
        state.replica.sealed = model
        state.model_hash = model_hash
        if snapshot is not None:
            self._kept.keep(snapshots.counting(snapshot, state.ledger.grafts), state.now_s())
            state.ledger.forget_payloads(self._kept.oldest_round)
        self._has_moved(True)
        if snapshot is not None:
            await self.save()

    def _has_moved(self, did: bool) -> bool:
        """When the tip moved: balance the residual, tell everybody."""
        if did:
            self._authoring.balance()
            self.last_seal_s = self._state.now_s()
            self._state.stir()
        return did

    async def save(self) -> None:
        """Write a checkpoint of everything as it stands; a disk that fails costs a warning, never the run."""
        captured = capture(self._state, self._authoring, self._grafting, self._kept)
        self._save_due_s = self._state.now_s() + captured.pause_s
        await self._state.disk.save_checkpoint(captured.checkpoint)

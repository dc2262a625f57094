"""The one task that moves the tip: seal what is ripe, follow a longer chain, switch to a heavier one, take a snapshot.

Nothing else changes links or the sealed model, so everything here is one step after another. `swarm.ledger` decides
what may be sealed; the fold runs in the executor; the ledger is changed when the new model is there.

There are no grafts yet: what a switch leaves behind is named in a warning, and each author's own lost work returns as
its residual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import LINKS_PER_REPLY_MAX, PEERS_MAX
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.errors import RemoteError, StoreError, WireError
from p2pfusion.node import snapshots
from p2pfusion.node.authoring import Authoring, weighted
from p2pfusion.node.calls import Calls
from p2pfusion.node.pull import Pull
from p2pfusion.node.snapshots import Kept, Snapshots
from p2pfusion.node.state import State
from p2pfusion.seams import Checkpoint
from p2pfusion.swarm.ledger import Entry, in_fold_order
from p2pfusion.wire.codec import next_chain
from p2pfusion.wire.messages import Link, PeerId, ShardReport

FORK_SEARCH_ROUNDS = 200
"""How far back a fork is looked for."""
GATHER_S = 30.0
"""Longest wait for everything one link counts: the largest segment at the slowest rate, and then some."""
SHUN_S = 1.0
"""How long a member is not asked again for a chain that led nowhere."""


class Gone(WireError):
    """What a link counts is not to be had any more."""


class Chain:
    """Owner of the tip."""

    def __init__(self, state: State, calls: Calls, kept: Snapshots, authoring: Authoring) -> None:
        self._state = state
        self._calls = calls
        self._pull = Pull(state, calls)
        self._kept = kept
        self._authoring = authoring
        self._shunned_until_s: dict[tuple[PeerId, bytes], float] = {}
        self.last_seal_s = 0.0

    async def run(self) -> None:
        while True:
            await self._state.bells["chain"].wait(self._state.config.gossip.gossip_interval_s)
            while await self._step():
                pass

    async def _step(self) -> bool:
        """One move of the tip; False when there is nothing to do."""
        if (better := self.better()) is not None:
            return await self._pursue(*better)
        state = self._state
        entries = state.ledger.ripe(state.now_s(), state.lines())
        if entries is None:
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
        ledger = self._state.ledger
        is_at_its_end = ledger.limit is not None and ledger.tip.round >= ledger.limit
        if is_at_its_end or ledger.has_chain(shard.tip_round, shard.tip_chain):
            return False
        return shard.tip_round > ledger.tip.round or _beats(shard, ledger.tip)

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
        if is_new or shard.tip_round - ledger.tip.round > 2 * every:
            return await self._take_snapshot(peer, shard)
        links = await self._links(peer, ledger.tip.round, shard.tip_round)
        if links and next_chain(ledger.tip.chain, links[0].ids) == links[0].chain:
            try:
                return await self._follow(peer, links)
            except Gone:  # a snapshot stands for what is not kept any more
                return await self._take_snapshot(peer, shard)
        first = max(0, min(ledger.tip.round, shard.tip_round) - FORK_SEARCH_ROUNDS)
        links = await self._links(peer, first, shard.tip_round)
        fork = ledger.fork_round(links)
        if fork is not None and fork >= self._kept.oldest_round:
            return await self._switch(peer, fork, [link for link in links if link.round > fork])
        if links and (links[-1].weight, links[-1].chain) > (ledger.tip.weight, ledger.tip.chain):
            return await self._take_snapshot(peer, shard)
        return False

    async def _links(self, peer: PeerId, after: int, until: int) -> tuple[Link, ...]:
        """A member's links after a round, none beyond the end of my run."""
        links = await self._pull.links(self._holders(peer), after, until)
        limit = self._state.ledger.limit
        return tuple(link for link in links if limit is None or link.round <= limit)

    # -- follow and switch ------------------------------------------------------------------------------------------

    async def _follow(self, peer: PeerId, links: Sequence[Link]) -> bool:
        """Their chain extends mine: take its links one by one, over whatever I held open."""
        for link in links:
            self._want(peer, link)
        try:
            for link in links:
                entries = await self._gather(peer, link, self._state.ledger.tip.weight)
                if self._state.ledger.next_link(entries) != link:
                    raise WireError(f"round {link.round}: a link that its contributions do not give")
                await self._append(link, entries)
        finally:
            for link in links:
                self._unwant(link)
        return True

    async def _switch(self, peer: PeerId, fork: int, links: Sequence[Link]) -> bool:
        """Two chains that fork: adopt theirs when it still beats mine once everything of it is here."""
        state, ledger = self._state, self._state.ledger
        if not links or (links[-1].weight, links[-1].chain) <= (ledger.tip.weight, ledger.tip.chain):
            return False
        weights = [link.weight for link in (*ledger.links_after(fork - 1, 1), *links)]
        rounds = [await self._gather(peer, link, before) for before, link in zip(weights, links, strict=False)]
        base = self._kept.at_or_before(fork)
        if base is None or (links[-1].weight, links[-1].chain) <= (ledger.tip.weight, ledger.tip.chain):
            return False
        mine = [ledger.sealed_entries(r) for r in range(base.manifest.round + 1, fork + 1)]
        known = [entries for entries in mine if entries is not None]
        if len(known) < len(mine):
            raise WireError("a fork older than what is kept")
        model, snapshots_new = await self._refold(base, [*known, *rounds], links)
        if not all(ledger.holds(link) for link in links):
            raise WireError("what the other chain counts was taken away by the run's end")
        left = ledger.switch(fork, links)
        state.replica.sealed = model
        state.model_hash = snapshots.hash_of(model)
        self._kept.drop_above(fork)
        for snapshot in snapshots_new:
            self._kept.keep(snapshot)
        state.warn(
            "switched",
            f"two chains met after round {fork}: mine lost, {len(left)} contributions it had sealed are not in the "
            "winner's; their authors send them again",
        )
        self._moved()
        return True

    async def _refold(
        self, base: Kept, rounds: Sequence[Sequence[Entry]], links: Sequence[Link]
    ) -> tuple[Vector, list[Kept]]:
        """The model from a snapshot on, and the snapshots passed on the way."""
        state, every = self._state, self._state.config.run.snapshot_every_rounds
        by_round = {link.round: link for link in links}

        def work() -> tuple[Vector, list[Kept]]:
            model, passed = base.model, []
            for round_, entries in enumerate(rounds, base.manifest.round + 1):
                model = fold(state.blueprint, state.blueprint.whole(), model, _decoded(state, entries))
                if round_ % every == 0 and round_ in by_round:
                    passed.append(snapshots.take(state.run_id, by_round[round_], model))
            return model, passed

        return await state.doors.compute.run(work, lane="fold")

    def _want(self, peer: PeerId, link: Link) -> None:
        """Have what a link counts fetched, from the peer that told of it at least."""
        state, entries = self._state, self._state.ledger.entries
        for id_ in link.ids:
            if id_ not in entries or not entries[id_].is_complete:
                state.needed[id_] = None
                state.wanted.offer(id_, peer, None)
        state.bells["fetch"].ring()

    def _unwant(self, link: Link) -> None:
        for id_ in link.ids:
            self._state.needed.pop(id_, None)

    def _holders(self, peer: PeerId) -> list[PeerId]:
        """This member, then the others on the same chain."""
        reports = [report for report, _ in self._state.membership.reports() if report.shards]
        chains = [report.shards[0].tip_chain for report in reports if report.peer == peer]
        return [peer, *(r.peer for r in reports if r.peer != peer and r.shards[0].tip_chain in chains)]

    async def _gather(self, peer: PeerId, link: Link, weight_before: int) -> tuple[Entry, ...]:
        """Everything a link counts, complete, in fold order.

        Raises `RemoteError` when it does not come in time, or when nobody honest could have sealed it.
        """
        state = self._state
        entries = state.ledger.entries
        self._want(peer, link)
        try:
            async with asyncio.timeout(GATHER_S):
                while not state.ledger.holds(link):
                    await state.bells["chain"].wait(state.config.gossip.gossip_interval_s)
                    for id_ in link.ids:
                        if id_ not in state.wanted and not (id_ in entries and entries[id_].is_complete):
                            raise Gone(f"round {link.round}: nobody has {id_.hex()[:8]}")
        except TimeoutError:
            raise Gone(f"round {link.round}: its contributions did not come") from None
        finally:
            self._unwant(link)
        found = in_fold_order(entries[id_] for id_ in link.ids)
        slots = [(entry.manifest.peer, entry.manifest.kind) for entry in found]
        if (
            any(entry.manifest.round != link.round for entry in found)
            or any(one == other for one, other in pairwise(slots))
            or link.weight != weight_before + sum(entry.manifest.weight for entry in found)
        ):
            raise WireError(f"round {link.round}: a link that nobody honest could have sealed")
        return found

    # -- sealing ----------------------------------------------------------------------------------------------------

    async def _append(self, link: Link, entries: Sequence[Entry]) -> None:
        """Fold a round into the sealed model, then make it a link."""
        state, sealed = self._state, self._state.replica.sealed
        every = state.config.run.snapshot_every_rounds

        def work() -> tuple[Vector, bytes, Kept | None]:
            model = fold(state.blueprint, state.blueprint.whole(), sealed, _decoded(state, entries))
            taken = snapshots.take(state.run_id, link, model) if link.round % every == 0 else None
            return model, snapshots.hash_of(model), taken

        model, model_hash, snapshot = await state.doors.compute.run(work, lane="fold")
        if not state.ledger.holds(link):
            return  # the run's end, learnt meanwhile, took its work away
        state.ledger.seal(link)
        state.replica.sealed = model
        state.model_hash = model_hash
        if snapshot is not None:
            self._kept.keep(snapshot, state.now_s())
            state.ledger.forget_payloads(self._kept.oldest_round)
        self._moved()
        if snapshot is not None:
            await self.save(snapshot)

    def _moved(self) -> None:
        """The tip moved: balance the residual, tell everybody."""
        self._authoring.balance()
        self.last_seal_s = self._state.now_s()
        self._state.stir()

    async def save(self, snapshot: Kept) -> None:
        """Write a checkpoint; a disk that fails costs a warning, never the run."""
        state, manifest = self._state, snapshot.manifest
        checkpoint = Checkpoint(
            run_id=manifest.run_id,
            round=manifest.round,
            chain=manifest.chain,
            weight=manifest.weight,
            links=b"",
            model=named(state, snapshot.model),
        )
        try:
            await state.doors.compute.run(lambda: state.doors.store.save_checkpoint(checkpoint), lane="fold")
        except StoreError as error:
            state.warn("store", f"{error}; training goes on in memory")

    # -- snapshots of others ----------------------------------------------------------------------------------------

    async def _take_snapshot(self, peer: PeerId, shard: ShardReport) -> bool:
        """Too far behind, or nothing in common: start from a sealed model of theirs, pulled from all who hold it."""
        state, every = self._state, self._state.config.run.snapshot_every_rounds
        links = await self._links(peer, max(0, shard.tip_round - LINKS_PER_REPLY_MAX), shard.tip_round)
        for link in reversed(links):
            if link.round % every == 0 or link is links[-1]:
                manifest = await self._pull.manifest(self._holders(peer), link)
                if manifest is not None:
                    break
        else:
            return False
        if self._state.ledger.has_chain(link.round, link.chain):
            return False  # no newer than where I stand
        model = await self._pull.model(peer, manifest)
        ledger = state.ledger
        if (links[-1].weight, links[-1].chain) <= (ledger.tip.weight, ledger.tip.chain):
            return False
        lost = ledger.tip.round - (ledger.fork_round(links) or 0)
        taken = await state.doors.compute.run(lambda: snapshots.take(state.run_id, link, model), lane="fold")
        ledger.install([known for known in links if known.round <= link.round])
        state.replica.sealed = model
        state.model_hash = snapshots.hash_of(model)
        self._kept.drop_above(-1)
        self._kept.keep(taken)
        if lost:
            state.warn(
                "switched", f"started anew from round {link.round} of a heavier chain; {lost} rounds of mine lost"
            )
        self._moved()
        return True


def named(state: State, model: Vector) -> dict[str, object]:
    """The flat model as arrays by parameter name, in their own shapes."""
    blueprint = state.blueprint
    return {p.name: model[blueprint.parameter_slices[p.name]].reshape(blueprint.shape(p)) for p in blueprint.parameters}


def _decoded(state: State, entries: Sequence[Entry]) -> list[Weighted]:
    return [weighted(state.blueprint, entry) for entry in entries]


def _beats(shard: ShardReport, tip: Link) -> bool:
    return (shard.tip_weight, shard.tip_chain) > (tip.weight, tip.chain)

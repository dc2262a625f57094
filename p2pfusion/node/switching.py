"""Leaving my chain for a better one: a switch at a fork, or a fresh start from a snapshot of theirs.

Either way what my side had sealed since the fork is owed a graft, so the model of that side is kept (`grafting`).
Called by the chain task alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import LINKS_KEPT_MAX, LINKS_PER_REPLY_MAX
from p2pfusion.errors import WireError
from p2pfusion.node import snapshots
from p2pfusion.node.decoding import counting_of, folded
from p2pfusion.node.gathering import Gathering, Gone
from p2pfusion.node.grafting import Grafting
from p2pfusion.node.pull import Pull
from p2pfusion.node.snapshots import Kept, Snapshots
from p2pfusion.node.state import State
from p2pfusion.swarm.grafts import Loss
from p2pfusion.swarm.ledger import Counting
from p2pfusion.wire.messages import Link, PeerId, ShardReport

FORK_SEARCH_ROUNDS = 200
"""How far back a fork is looked for at first; then four times as far, until nothing older is kept."""


class Switching:
    """What it takes to change chains."""

    def __init__(self, state: State, pull: Pull, gathering: Gathering, kept: Snapshots, grafting: Grafting) -> None:
        self._state = state
        self._pull = pull
        self._gathering = gathering
        self._kept = kept
        self._grafting = grafting

    async def search(self, peer: PeerId, shard: ShardReport) -> tuple[int | None, tuple[Link, ...]]:
        """The newest round their chain and mine agree on, and their links from some round before it on."""
        ledger, depth = self._state.ledger, FORK_SEARCH_ROUNDS
        newest = min(ledger.tip.round, shard.tip_round)
        while True:
            first = max(0, newest - depth)
            links = await self._gathering.links(peer, first, shard.tip_round)
            fork = ledger.fork_round(links)
            if fork is not None or first <= ledger.links[0].round or depth >= LINKS_KEPT_MAX:
                return fork, links
            depth *= 4

    async def leave(self, peer: PeerId, fork: int | None, links: Sequence[Link]) -> bool:
        """Adopt their chain if it beats mine: from the fork on when what that takes is still here, else by snapshot."""
        if not self._is_heavier(links):
            return False
        if fork is not None and self._can_refold(fork):
            with suppress(Gone):  # I could, but they have let go of what their links count: a snapshot stands for it
                return await self._switch(peer, fork, [link for link in links if link.round > fork])
        return await self.take_snapshot(peer, links)

    def _can_refold(self, fork: int) -> bool:
        """Whether a snapshot at or before the fork and every payload since are still here."""
        base = self._kept.at_or_before(fork)
        since = range(base.manifest.round + 1, fork + 1) if base else ()
        return base is not None and all(self._state.ledger.sealed_entries(r) is not None for r in since)

    def _is_heavier(self, links: Sequence[Link]) -> bool:
        return bool(links) and self._state.ledger.is_beaten_by(links[-1].weight, links[-1].chain)

    async def _switch(self, peer: PeerId, fork: int, links: Sequence[Link]) -> bool:
        """Two chains that fork: adopt theirs when it still beats mine once everything of it is here."""
        ledger = self._state.ledger
        for link in links:
            self._gathering.want(peer, link)
        try:
            rounds = [await self._gathering.gather(peer, link) for link in links]
        finally:
            self._gathering.unwant(links)
        if ledger.replay(fork, rounds) != list(links):
            raise WireError(f"links after round {fork} that their contributions do not give")
        base = self._kept.at_or_before(fork)
        if base is None or not self._is_heavier(links):
            return False
        mine = [self._sealed(round_) for round_ in range(base.manifest.round + 1, fork + 1)]
        theirs = [counting_of(entries, link.graft) for entries, link in zip(rounds, links, strict=True)]
        model, model_hash, passed = await self._refold(base, [*mine, *theirs], links)
        if not all(ledger.holds(link) for link in links):
            raise WireError("what the other chain counts was taken away by the run's end")
        self._moved(fork, ledger.switch(fork, links), model, model_hash)
        self._kept.drop_above(fork)
        for link, snapshot in passed:
            self._kept.keep(snapshots.counting(snapshot, ledger.grafts.until(link.round)), self._state.now_s())
        return True

    def _sealed(self, round_: int) -> Counting:
        entries, link = self._state.ledger.sealed_entries(round_), self._state.ledger.link_at(round_)
        if entries is None or link is None:
            raise WireError("a fork older than what is kept")
        return counting_of(entries, link.graft)

    async def _refold(
        self, base: Kept, rounds: Sequence[Counting], links: Sequence[Link]
    ) -> tuple[Vector, bytes, list[tuple[Link, Kept]]]:
        """The model from a snapshot on, its hash, and the snapshots passed on the way."""
        state, every = self._state, self._state.config.run.snapshot_every_rounds
        by_round = {link.round: link for link in links}

        def work() -> tuple[Vector, bytes, list[tuple[Link, Kept]]]:
            model, passed = base.model, []
            for round_, counting in enumerate(rounds, base.manifest.round + 1):
                model = folded(state.blueprint, model, counting)
                if round_ % every == 0 and (link := by_round.get(round_)) is not None:
                    passed.append((link, snapshots.take(state.run_id, link, model)))
            return model, snapshots.hash_of(model), passed

        return await state.doors.compute.run(work, lane="fold")

    async def take_snapshot(self, peer: PeerId, links: Sequence[Link]) -> bool:
        """Start from the newest sealed model of theirs that is kept, pulled from all who hold it."""
        state, ledger, every = self._state, self._state.ledger, self._state.config.run.snapshot_every_rounds
        recent = [link for link in links[-LINKS_PER_REPLY_MAX:] if link.round % every == 0 or link is links[-1]]
        for link in reversed(recent):
            manifest = await self._pull.manifest(self._gathering.holders(peer), link)
            if manifest is not None:
                break
        else:
            return False
        if ledger.has_chain(link.round, link.chain):
            return False  # no newer than where I stand
        model, grafts = await self._pull.model(peer, manifest)
        if not self._is_heavier(links):
            return False
        taken, model_hash = await state.doors.compute.run(
            lambda: (snapshots.take(state.run_id, link, model), snapshots.hash_of(model)), lane="fold"
        )
        known = [one for one in links if one.round <= link.round]
        fork = ledger.fork_round(known) or 0
        lost = ledger.tip.round - fork
        loss = ledger.install(known, grafts)
        if lost and loss is None:
            state.warn(
                "switched", f"started anew from round {link.round} of a heavier chain; {lost} rounds of mine lost"
            )
        self._moved(fork, loss, model, model_hash)
        self._kept.drop_above(-1)
        self._kept.keep(snapshots.counting(taken, grafts), state.now_s())
        return True

    def _moved(self, fork: int, loss: Loss | None, model: Vector, model_hash: bytes) -> None:
        """The other chain is mine now; the model I leave is kept for as long as a graft is owed for it."""
        state = self._state
        if loss is not None:
            self._grafting.remember(loss, state.replica.sealed)
            state.warn(
                "switched",
                f"two chains met: the heavier one is mine now, {len(loss.covers)} contributions that mine had sealed "
                f"since round {fork} come back as a graft",
            )
        state.replica.sealed = model
        state.model_hash = model_hash

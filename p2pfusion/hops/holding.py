"""The shards that a device holds: a node for each, over the device's transport and executor.

A shard's node is the same `Node` as everywhere: its ledger, its gossip among the shard's holders, its snapshots for who
comes later. It trains while owners have seats there and observes otherwise, so a backup is a holder without owners.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from p2pfusion.algorithms.base import Algorithm
from p2pfusion.config import NodeConfig
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import LocalError
from p2pfusion.hops.sharing import ShardDiscovery, Shared
from p2pfusion.hops.site import Site
from p2pfusion.node import Node
from p2pfusion.node.events import Event, WarningEvent
from p2pfusion.wire.hops import HeldShard


class Holding:
    """By shard. Nodes run in the given group until `leave`."""

    def __init__(
        self, site: Site, took: Callable[[int, Event], None], group: asyncio.TaskGroup,
        is_learning: Callable[[int], bool],
    ) -> None:  # fmt: skip
        """`took` is called with every event of a shard's node; `is_learning` says whether more of it is to come."""
        self.nodes: dict[int, Node] = {}
        self._entered: dict[int, Node] = {}
        """Those whose address is served already."""
        self._site, self._took, self._group, self._is_learning = site, took, group, is_learning
        self._shared = Shared(site.doors.compute)
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._hashes: dict[int, tuple[bytes, bytes]] = {}
        """By shard: SHA-256 of the model at the chain that it was made of."""

    def start(self, shard: int, algorithm: Algorithm, observes: Callable[[], bool], config: NodeConfig) -> None:
        """Hold this shard from now on, if it is not held already."""
        if shard in self.nodes or self._site.is_leaving:
            return
        doors, site = self._site.doors, self._site
        self.nodes[shard] = node = Node(
            replace(config, cadence=replace(config.cadence, adapt_steps=False)),
            algorithm,
            transport=site.board.line(shard),
            discovery=ShardDiscovery(site.here, site.bell(f"shard {shard}"), shard),
            compute=self._shared,
            store=doors.store(shard),
            rng=random.Random(doors.rng.getrandbits(128)),
            observes=observes,
        )
        self._lives[shard] = self._group.create_task(self._live(shard, node))
        site.stir()

    def release(self, shard: int) -> None:
        """Leave this shard; others hold it."""
        self.nodes[shard].stop()

    def stir(self, shards: range) -> None:
        """Whether these shards are trained here changed."""
        for shard in shards:
            if (node := self.nodes.get(shard)) is not None:
                node.stir()

    async def _live(self, shard: int, node: Node) -> None:
        try:
            async with node:
                self._entered[shard] = node
                self._site.stir()
                async for event in node.events():
                    self._took(shard, event)
                    self._site.stir()
        except LocalError as error:
            if shard == 0:
                return  # the owner's: the device ends with it
            self._took(shard, WarningEvent("shard", f"shard {shard} is given up: {error}"))
            self._forget(shard)
        else:
            if shard and not self._site.is_leaving:  # it was let go
                self._forget(shard)
        finally:
            self._site.stir()

    def _forget(self, shard: int) -> None:
        self._entered.pop(shard, None)
        del self.nodes[shard], self._lives[shard]

    def held(self) -> tuple[HeldShard, ...]:
        """What I hold, ascending."""
        return tuple(self._line(shard, node) for shard, node in sorted(self._entered.items()))

    def _line(self, shard: int, node: Node) -> HeldShard:
        ledger, known = node.state.ledger, self._hashes.get(shard)
        if known is None or known[0] != ledger.tip.chain:
            known = ledger.tip.chain, bytes.fromhex(model_sha256(node.state.replica.sealed))
            self._hashes[shard] = known
        return HeldShard(
            shard=shard,
            tip_round=ledger.tip.round,
            chain=ledger.tip.chain,
            model_sha256=known[1],
            is_settled=ledger.newest <= ledger.tip.round and not self._is_learning(shard),
        )

    async def leave(self) -> None:
        """Leave all shards, each with what it has saved and said."""
        for node in self.nodes.values():
            node.stop()
        await asyncio.gather(*self._lives.values())

    def abandon(self) -> None:
        """Drop everything at once."""
        for life in self._lives.values():
            life.cancel()

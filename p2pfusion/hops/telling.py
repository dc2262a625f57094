"""What a device tells the world: who comes and goes, one report a round for all shards it holds, how its run ended.

A node per shard has its own rounds and bytes; a person has one device. An owner's round is that of its ends, a relay's
that of the first shard it trains: the report is that node's, with everything the device sent and received since the
last one and all blocks that it trains.

Decides nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from blake3 import blake3

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.core.submodel import SubModel
from p2pfusion.hops.ending import shards_of
from p2pfusion.hops.holding import Holding
from p2pfusion.hops.site import Site
from p2pfusion.node.events import Done, Event, EventLog, PeerEvent, WarningEvent

WARNINGS_MAX = 16
"""Different ones of one device: more would be noise."""
_OTHER = "is in this swarm with another model or --seed: give all devices the same task, or another --swarm"


class Telling:
    """Of one device."""

    def __init__(self, site: Site, holding: Holding) -> None:
        self.events = EventLog()
        self._site, self._holding = site, holding
        self._told = Traffic()
        self._known: dict[bytes, str] = {}
        self._warned: dict[str, None] = {}

    def take(self, shard: int, event: Event, trained: list[int]) -> None:
        """An event of a shard's node; `trained`: the shards that are trained here, ascending."""
        if isinstance(event, WarningEvent):
            self.events.add(event)
        elif isinstance(event, RoundReport) and trained[:1] == [shard]:
            self.events.add(self._of_device(event, trained))

    def _of_device(self, report: RoundReport, trained: list[int]) -> RoundReport:
        total = self.traffic()
        since, self._told = total - self._told, total
        blueprint, shards = self._site.split.blueprint, self._site.split.shards
        held = frozenset(block for shard in trained for block in shards.blocks(shard))
        sub_model = SubModel(tuple(block for block in blueprint.blocks if block in held))
        return replace(
            report,
            sub_model=sub_model,
            share=sub_model.share(blueprint),
            bytes_sent=since.sent,
            bytes_received=since.received,
            traffic=since,
            peers=len(self._known),
        )

    def traffic(self) -> Traffic:
        """Of all shards' nodes and of what travels between hops."""
        total = self._site.board.traffic
        for node in self._holding.nodes.values():
            total = total + node.state.accounts.total()
        return total

    def warn(self, text: str) -> None:
        """Tell this once."""
        if text not in self._warned and len(self._warned) < WARNINGS_MAX:
            self._warned[text] = None
            self.events.add(WarningEvent("chain", text))

    def look(self) -> None:
        """Tell who came and who is gone."""
        if self._site.directory.stranger is not None:
            self.warn(f"{self._site.directory.stranger} {_OTHER}")
        here = {offer.device: offer.name for offer in self._site.here()}
        left = {offer.device for offer in self._site.directory.left()}
        for device, name in here.items():
            if device not in self._known:
                self.events.add(PeerEvent(name, device.hex(), "alive"))
        for device, name in self._known.items():
            if device not in here:
                self.events.add(PeerEvent(name, device.hex(), "left" if device in left else "dead"))
        self._known = here

    def done(self, done: Done, accuracy: float | None) -> Done:
        """The end of the run as this device knows it: the whole network, as its holders gossip it."""
        shards = shards_of(self._site.offers(), self._holding.held())
        total, count = self.traffic(), self._site.split.shards.count
        is_whole = len(shards) == count
        chains = b"".join(shards[shard].chain for shard in sorted(shards))
        hashes = b"".join(shards[shard].model_sha256 for shard in sorted(shards))
        return replace(
            done,
            accuracy=accuracy,
            chain=blake3(chains).hexdigest() if is_whole else "",
            model_sha256=hashlib.sha256(hashes).hexdigest() if is_whole else "",
            bytes_sent=total.sent,
            bytes_received=total.received,
            traffic=total,
        )

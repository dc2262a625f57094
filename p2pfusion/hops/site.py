"""What the parts of one device share: who it is, what network is trained, its doors, whom it knows.

Owned by the loop thread. It decides nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pfusion.config import NodeConfig
from p2pfusion.hops.directory import Directory
from p2pfusion.hops.sending import Sender
from p2pfusion.hops.split import Split
from p2pfusion.hops.switchboard import Switchboard
from p2pfusion.node.state import Bell
from p2pfusion.seams import Compute, Discovery, Store, Transport
from p2pfusion.wire.hops import Offer


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """One device: what it gives to relaying (0 bytes: it is no relay), how tensors travel, whom to call at first.

    `batch_us`: what all middle blocks take here for one batch, microseconds; 0: not measured, as fast as others.
    `resumed`: shards to hold at once, because the disk has them. `lanes`: chains beside each other; None: as pays.
    `micro_batches`: into how many an owner cuts a batch. `keeps_all`: hold every shard's ledger, whoever trains it.
    """

    node: NodeConfig = field(default_factory=NodeConfig)
    memory_bytes: int = 0
    batch_us: int = 0
    codec: str = "fp32"
    resumed: tuple[int, ...] = ()
    lanes: int | None = None
    micro_batches: int = 1
    keeps_all: bool = False


@dataclass(frozen=True, kw_only=True)
class DeviceDoors:
    """As `node.state.Doors`, with a store for each shard."""

    transport: Transport
    discovery: Discovery
    compute: Compute
    store: Callable[[int], Store]
    rng: random.Random


@dataclass(kw_only=True)
class Site:
    """One device, as its parts see it."""

    me: bytes
    config: DeviceConfig
    split: Split
    doors: DeviceDoors
    board: Switchboard
    sender: Sender
    directory: Directory
    addresses: tuple[str, ...]
    is_leaving: bool = False
    warn: Callable[[str], None] = lambda text: None
    """Tell a person what stands in the way, once."""
    bells: dict[str, Bell] = field(default_factory=dict)
    """One for each task that waits for news of other devices."""

    @property
    def address(self) -> str:
        """Where others reach me."""
        return self.addresses[0]

    def here(self) -> tuple[Offer, ...]:
        """Offers of all other devices that are here, ascending."""
        return self.directory.here(self.now_s())

    def offers(self) -> tuple[Offer, ...]:
        """Those, and the last ones of the devices that left."""
        return (*self.here(), *self.directory.left())

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def is_quiet(self) -> bool:
        """Nobody new has come for a while: those who start together have met."""
        return self.now_s() - self.directory.changed_s >= self.config.node.gossip.quiet_s

    def bell(self, name: str) -> Bell:
        """The one of that name."""
        return self.bells.setdefault(name, Bell())

    def stir(self) -> None:
        """Something changed: every task looks again."""
        for bell in self.bells.values():
            bell.ring()

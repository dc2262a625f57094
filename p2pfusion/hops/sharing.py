"""What the nodes of one device share: its executor, and what it knows of who holds which shard.

A node closes its doors when it leaves; here that closes nothing that others still use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from p2pfusion.node.state import Bell
from p2pfusion.seams import Compute
from p2pfusion.wire.hops import Offer

T = TypeVar("T")
LOOK_AGAIN_S = 1.0
"""Least often a shard's node is told of new holders."""


class Shared:
    """`seams.Compute` of a node that is not alone on its device."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        """See `seams.Compute.run`."""
        return await self._compute.run(work, cost_s=cost_s, lane=lane)

    async def close(self) -> None:
        """The device closes it."""


class ShardDiscovery:
    """`seams.Discovery` of a shard's node: whoever offers the shard holds it."""

    def __init__(self, here: Callable[[], tuple[Offer, ...]], bell: Bell, shard: int) -> None:
        self._here, self._bell, self._shard = here, bell, shard

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        """The device's offers do."""

    async def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        """See `seams.Discovery.found`."""
        given: dict[bytes, tuple[str, ...]] = {}
        while True:
            for offer in self._here():
                is_holder = any(one.shard == self._shard for one in offer.held)
                if is_holder and given.get(offer.device) != offer.addresses:
                    given[offer.device] = offer.addresses
                    yield offer.addresses
            await self._bell.wait(LOOK_AGAIN_S)

    async def close(self) -> None:
        """Nothing to close."""

"""How many bytes of which kind went to and came from whom. It counts; it knows neither calls nor what bodies mean.

Totals are exact. Per peer there is a bounded table: what does not fit, or is nobody's for sure (a call to an address
whose owner is not known yet), counts for `UNKNOWN`. Who calls is the caller's own claim: good enough for statistics.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2pfusion.algorithms.base import Direction, Traffic
from p2pfusion.config import PEERS_MAX
from p2pfusion.wire.messages import PeerId
from p2pfusion.wire.routes import Kind

UNKNOWN: PeerId = b""
"""Stands for everybody who has no line of their own."""


class Accounts:
    """Bytes and calls by kind and direction: in total and for each of at most `PEERS_MAX` peers, all only growing.

    Between steps of the loop, that is: a body and what travelled inside it are counted in one step.
    """

    def __init__(self) -> None:
        self._total: dict[str, int] = {}
        self._peers: dict[PeerId, dict[str, int]] = {}

    def add(self, direction: Direction, kind: Kind, size_bytes: int, peer: PeerId = UNKNOWN) -> None:
        """A body moved."""
        self._count(f"{kind}_{direction}", size_bytes, peer)

    def call(self, direction: Direction, peer: PeerId = UNKNOWN) -> None:
        """I called (`sent`), or was called (`received`)."""
        self._count(f"calls_{direction}", 1, peer)

    def inlined(self, direction: Direction, size_bytes: int, peer: PeerId = UNKNOWN) -> None:
        """So many bytes of a body counted as gossip, in this step of the loop, were segments that travelled inside.

        At most as many as the body has, as it travelled.
        """
        self._count(f"payload_{direction}", size_bytes, peer)
        self._count(f"gossip_{direction}", -size_bytes, peer)

    def total(self) -> Traffic:
        """Everything so far."""
        return Traffic(**self._total)

    def by_peer(self) -> Mapping[PeerId, Traffic]:
        """The same per peer, sorted by id; what is nobody's in particular under `UNKNOWN`."""
        return {peer: Traffic(**self._peers[peer]) for peer in sorted(self._peers)}

    def _count(self, name: str, number: int, peer: PeerId) -> None:
        self._total[name] = self._total.get(name, 0) + number
        line = self._peers.get(peer)
        if line is None:
            # One place is kept for whoever has none.
            known = peer == UNKNOWN or len(self._peers) - (UNKNOWN in self._peers) < PEERS_MAX
            line = self._peers.setdefault(peer if known else UNKNOWN, {})
        line[name] = line.get(name, 0) + number

"""Calling peers: which address of whom, under which deadline, counted. It decides nothing about what is said."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from p2pfusion.config import PEERS_MAX, GossipConfig
from p2pfusion.errors import RemoteError, Unreachable
from p2pfusion.node.state import State
from p2pfusion.node.traffic import UNKNOWN
from p2pfusion.seams import Reply, Request
from p2pfusion.wire import routes
from p2pfusion.wire.messages import PeerId

STRANGERS_MAX = 256
"""Addresses not yet known to belong to a member; more are ignored until some answer or fail."""
PATIENCE_SHARES = (0.2, 0.4, 1.0)
"""Shares of the call deadline that successive tries of a small request get: a lost one costs little."""
BEAT_SHARE = 0.8
"""Share of a pause after which the next beat may end it: beats are up to a tenth early, and must not just miss it."""
RETRY_S = 1.0
RETRY_MAX_S = 60.0
STRANGER_TRIES_MAX = 8
"""Calls to an address nobody answers at before it is forgotten; discovery brings it back when it returns."""


class Calls:
    """Sends requests to members by id, remembering which of their addresses worked."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._good: dict[PeerId, str] = {}

    async def to_address(
        self,
        address: str,
        request: Request,
        deadline_s: float,
        into: memoryview | None = None,
        *,
        owner: PeerId = UNKNOWN,
        inlined_bytes: int = 0,
    ) -> Reply:
        """One call, accounted to the `owner` of the address; of the body, `inlined_bytes` are segments.

        Raises `RemoteError`.
        """
        state, path = self._state, request.path
        state.accounts.call("sent", owner)
        state.accounts.add("sent", routes.kind(path), memoryview(request.body).nbytes - inlined_bytes, owner)
        state.accounts.add("sent", "payload", inlined_bytes, owner)
        request = replace(request, sender=state.me)
        reply = await state.doors.transport.call(address, request, deadline_s=deadline_s, into=into)
        state.accounts.add("received", routes.kind(path, reply.status), memoryview(reply.body).nbytes, owner)
        return reply

    async def to_peer(
        self,
        peer: PeerId,
        request: Request,
        deadline_s: float,
        into: memoryview | None = None,
        *,
        inlined_bytes: int = 0,
    ) -> Reply:
        """Call a member at the address that worked last, else at each it announced. Raises `RemoteError`."""
        report = self._state.membership.report_of(peer)
        addresses = list(report.addresses) if report else []
        good = self._good.get(peer)
        if good in addresses:
            addresses.remove(good)
            addresses.insert(0, good)
        failure: RemoteError = Unreachable(f"peer {peer.hex()[:8]} has no address")
        for address in addresses:
            try:
                reply = await self.to_address(
                    address, request, deadline_s, into, owner=peer, inlined_bytes=inlined_bytes
                )
            except RemoteError as error:
                failure = error
                continue
            if peer in self._good or len(self._good) < PEERS_MAX:
                self._good[peer] = address
            return reply
        raise failure

    def home(self, peer: PeerId) -> str | None:
        """Where this peer surely lives: where it answered last, or the only address it gave."""
        report = self._state.membership.report_of(peer)
        addresses = report.addresses if report else ()
        return self._good.get(peer, addresses[0] if len(addresses) == 1 else None)

    async def to_any(self, peers: Sequence[PeerId], request: Request) -> Reply:
        """Ask the first peer; if it is silent, the next ones in turn, each given longer. Raises `RemoteError`."""
        deadline_s = self._state.config.gossip.call_deadline_s
        failure: RemoteError = Unreachable("nobody to ask")
        for turn, share in enumerate(PATIENCE_SHARES):
            try:
                return await self.to_peer(peers[turn % len(peers)], request, deadline_s * share)
            except RemoteError as error:
                failure = error
        raise failure


class Strangers:
    """Addresses from discovery or the user whose owners are not known yet: tried with growing pauses, boundedly."""

    def __init__(self, keep: Sequence[str], ring: Callable[[], None] = lambda: None) -> None:
        """`keep` are never given up; `ring` is called when there is somebody new to try."""
        self._ring = ring
        self._keep = frozenset(keep)
        self._due_s: dict[str, float] = dict.fromkeys(sorted(self._keep), 0.0)
        self._tries: dict[str, int] = {}

    def add(self, addresses: Sequence[str]) -> None:
        """Somebody seems to be there: try at once."""
        for address in addresses:
            if address in self._due_s or len(self._due_s) < STRANGERS_MAX:
                self._due_s[address] = 0.0
                self._tries[address] = 0
        self._ring()

    def due(self, now_s: float) -> list[str]:
        return [address for address, due_s in sorted(self._due_s.items()) if due_s <= now_s]

    def next_s(self) -> float:
        """When the next is due; never, when there is none."""
        return min(self._due_s.values(), default=inf)

    def called(self, address: str, now_s: float) -> None:
        """About to be tried; again only after a pause that doubles. The user's own addresses are never given up."""
        tries = self._tries[address] = self._tries.get(address, 0) + 1
        self._due_s[address] = now_s + min(RETRY_S * 2 ** min(tries - 1, 10), RETRY_MAX_S)
        if tries >= STRANGER_TRIES_MAX and address not in self._keep:
            self.forget(address)

    def postpone(self, address: str, until_s: float) -> None:
        """It is being called already."""
        self._due_s[address] = until_s

    def forget(self, address: str) -> None:
        """Its owner is a member now, or myself."""
        self._due_s.pop(address, None)
        self._tries.pop(address, None)


class Absent:
    """When to call the dead again: one at a time, with pauses that double up to the longest gossip interval.

    So much is kept up as long as anybody is remembered as dead: a partition may heal after hours.
    """

    def __init__(self, gossip: GossipConfig) -> None:
        self._gossip = gossip
        self._pause_s = gossip.gossip_interval_s
        self._due_s = 0.0
        self._dead: frozenset[PeerId] = frozenset()

    def due(self, dead: Sequence[PeerId], now_s: float, rng: random.Random) -> list[PeerId]:
        """Whom of the dead to call now: one, or nobody. After a new death the pauses are short again."""
        present = frozenset(dead)
        if present - self._dead:
            self._pause_s, self._due_s = self._gossip.gossip_interval_s, now_s
        self._dead = present
        if not dead or now_s < self._due_s:
            return []
        self._due_s = now_s + BEAT_SHARE * self._pause_s
        self._pause_s = min(2 * self._pause_s, self._gossip.gossip_interval_max_s)
        return [rng.choice(dead)]

"""Pulling what others hold and we lack: manifests first, then segments, from several holders at once.

A task of the node. `swarm.gossip.Wanted` says what to fetch from whom; every byte passes the gate before it counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from itertools import chain
from statistics import median

from p2pfusion.errors import RemoteError, Unreachable, WireError
from p2pfusion.node.calls import Calls
from p2pfusion.node.gossiping import Gossiping
from p2pfusion.node.state import State
from p2pfusion.seams import Reply, Request
from p2pfusion.swarm.gate import judge_segment
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id, decode_contribution
from p2pfusion.wire.messages import ContributionId, PeerId

MANIFEST = -1
"""Stands for the manifest where a segment's index would stand."""
DURATIONS_KEPT_MAX = 64
"""Durations remembered, for the same reason as the waits of `swarm.cadence`."""
HEDGE_MIN_S = 0.2
"""Least time one request is waited for alone: a busy computer answers a small one within it."""
HOLDERS_ASKED_MAX = 4
"""Requests for one segment under way at once; each further one after twice the pause."""


class Fetching:
    """Keeps at most `fetches_in_flight_max` requests going while anything is missing.

    A request that takes much longer than its like is not waited for: another holder is asked beside it, or the same
    one again when there is no other.
    """

    def __init__(self, state: State, calls: Calls, gossiping: Gossiping, group: asyncio.TaskGroup) -> None:
        self._state = state
        self._calls = calls
        self._gossiping = gossiping
        self._group = group
        self._in_flight: dict[tuple[ContributionId, int], list[tuple[PeerId, float]]] = {}
        self._took_s: deque[float] = deque(maxlen=DURATIONS_KEPT_MAX)
        self._alone_s: float | None = HEDGE_MIN_S
        """What these durations say; None when another came since. The task wakes far more often than one comes."""
        self._orphan_since_s: dict[ContributionId, float] = {}

    async def run(self) -> None:
        while True:
            rang = await self._state.bells["fetch"].wait(self._hedge_s())
            self._launch()
            if not rang:
                self._drop_orphans()

    def _hedge_s(self) -> float:
        """How long a request is waited for alone: the median of the last ones plus four times their spread."""
        if self._alone_s is None:
            middle = median(self._took_s)
            self._alone_s = max(HEDGE_MIN_S, middle + 4 * median(abs(took_s - middle) for took_s in self._took_s))
        return self._alone_s

    def _launch(self) -> None:
        state, now_s, hedge_s = self._state, self._state.now_s(), self._hedge_s()
        busy = Counter(holder for asked in self._in_flight.values() for holder, _ in asked)
        room = state.config.gossip.fetches_in_flight_max - busy.total()
        if room <= 0:
            return
        manifests = [(id_, MANIFEST, who) for id_, who in state.wanted.unknown(state.ledger)]
        for id_, index, who in chain(manifests, state.wanted.segments(state.ledger)):
            if room <= 0:
                return
            asked = self._in_flight.get((id_, index), [])
            pause_s = hedge_s * 2 ** max(0, len(asked) - 1)
            if len(asked) < HOLDERS_ASKED_MAX and all(now_s - at_s >= pause_s for _, at_s in asked):
                room -= 1
                others = [holder for holder in who if all(holder != one for one, _ in asked)] or who
                least = min(busy[holder] for holder in others)
                holder = state.doors.rng.choice([h for h in others if busy[h] == least])
                busy[holder] += 1
                self._in_flight.setdefault((id_, index), []).append((holder, now_s))
                self._group.create_task(self._fetch(id_, index, holder, now_s))

    async def _fetch(self, id_: ContributionId, index: int, holder: PeerId, begin_s: float) -> None:
        try:
            if index == MANIFEST:
                await self._fetch_manifest(id_, holder)
            else:
                await self._fetch_segment(id_, index, holder)
            self._took_s.append(self._state.now_s() - begin_s)
            self._alone_s = None
        except RemoteError as error:
            self._state.wanted.failed(id_, holder, is_final=isinstance(error, WireError))
        finally:
            asked = self._in_flight[id_, index]
            asked.remove((holder, begin_s))
            if not asked:
                del self._in_flight[id_, index]
            self._state.bells["fetch"].ring()

    async def _fetch_manifest(self, id_: ContributionId, holder: PeerId) -> None:
        deadline_s = self._state.config.gossip.call_deadline_s
        reply = await self._calls.to_peer(holder, Request("GET", f"/v1/contributions/{id_.hex()}"), deadline_s)
        if reply.status != 200:
            raise _no(reply)
        manifest = decode_contribution(reply.body)
        if contribution_id(manifest) != id_:
            raise WireError("manifest of another contribution")
        self._gossiping.admit(id_, manifest)

    async def _fetch_segment(self, id_: ContributionId, index: int, holder: PeerId) -> None:
        state = self._state
        entry = state.ledger.entries.get(id_)
        if entry is None or entry.segments[index] is not None:
            return
        data = bytearray(entry.manifest.segments[index].size)
        request = Request("GET", f"/v1/contributions/{id_.hex()}/{index}")
        deadline_s = state.config.gossip.deadline_s(len(data))
        reply = await self._calls.to_peer(holder, request, deadline_s, memoryview(data))
        if reply.status != 200:
            raise _no(reply)
        if (reason := judge_segment(entry.manifest, index, data)) is not None:
            raise WireError(f"segment refused: {reason}")
        if state.ledger.put(entry, index, bytes(data)):
            state.completed(entry)

    def _drop_orphans(self) -> None:
        """An incomplete contribution is given up when no live holder offered what is missing for one patience."""
        state, now_s = self._state, self._state.now_s()
        offered = state.wanted.offered(state.ledger)
        orphans = [e for e in state.ledger.entries.values() if self._is_orphan(e, offered)]
        self._orphan_since_s = {e.id: self._orphan_since_s.get(e.id, now_s) for e in orphans}
        for entry in orphans:
            if now_s - self._orphan_since_s[entry.id] >= max(state.cadence.patience_s, state.config.gossip.suspicion_s):
                state.ledger.drop(entry.id)

    def _is_orphan(self, entry: Entry, offered: frozenset[ContributionId]) -> bool:
        return not entry.is_complete and entry.id not in offered and entry.id not in self._state.needed


def _no(reply: Reply) -> RemoteError:
    """What an answer without the data means: not now, or not at all."""
    kind = Unreachable if reply.status in (408, 429, 503) else WireError
    return kind(f"status {reply.status}")

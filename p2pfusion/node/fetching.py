"""Pulling what others hold and we lack: manifests first, then segments, from several holders at once.

A task of the node. `swarm.gossip.Wanted` says what to fetch from whom, `swarm.haste` how much at once and how long one
request is waited for alone; every byte passes the gate before it counts. Segments land where they stay: they are copied
nowhere between the socket and the decoder, and large ones are judged beside the loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from p2pfusion.config import PEERS_MAX
from p2pfusion.errors import DeadlineExceeded, RemoteError, Unreachable, WireError
from p2pfusion.node.calls import Calls
from p2pfusion.node.gossiping import Gossiping
from p2pfusion.node.judging import Judging
from p2pfusion.node.state import State
from p2pfusion.seams import Reply, Request
from p2pfusion.swarm.haste import HEDGE_MIN_S, LARGE_BYTES, REST_S, RESTS_MAX, Haste
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id, decode_contribution
from p2pfusion.wire.messages import ContributionId, PeerId

MANIFEST = -1
"""Stands for the manifest where a segment's index would stand."""
HOLDERS_ASKED_MAX = 4
"""Requests for one segment under way at once; each further one after twice the pause."""
ORPHANS_EVERY_S = 0.2
"""How often what nobody offers any more is looked for: it goes through all that is missing."""

Key = tuple[ContributionId, int]


class Busy(Unreachable):
    """The holder has it, but not now."""


@dataclass(slots=True, eq=False)
class Asked:
    """One request under way."""

    holder: PeerId
    at_s: float
    size_bytes: int
    load_bytes: int
    """The most that was under way while it was, itself included: all of it shares the link."""
    task: asyncio.Task[None] | None = None


class Fetching:
    """Keeps at most `fetches_in_flight_max` requests, of at most `fetch_bytes_in_flight_max`, going while anything is
    missing.

    A request that takes much longer than its like is not waited for: another holder is asked beside it, or the same
    one again when there is no other. Whoever loses that race is cut off.
    """

    def __init__(self, state: State, calls: Calls, gossiping: Gossiping, group: asyncio.TaskGroup) -> None:
        self._state = state
        self._calls = calls
        self._gossiping = gossiping
        self._group = group
        self._in_flight: dict[Key, list[Asked]] = {}
        self._judging = Judging(state.doors.compute, state.blueprint, group)
        self._haste = Haste(state.config.gossip, state.config.limit_bytes_per_s)
        self._rests: dict[PeerId, tuple[float, int]] = {}
        """Who said it is busy: until when it is left alone, and how often in a row. At most `PEERS_MAX`."""
        self._orphan_since_s: dict[ContributionId, float] = {}

    async def run(self) -> None:
        due_s = self._state.now_s() + ORPHANS_EVERY_S
        while True:
            await self._state.bells["fetch"].wait(HEDGE_MIN_S)
            self._launch()
            if (now_s := self._state.now_s()) >= due_s:  # also when the bell never rests
                self._drop_orphans()
                due_s = now_s + ORPHANS_EVERY_S

    def _launch(self) -> None:
        """Ask for what is missing while there is room for it.

        Late requests leave the window, for what they wait for may never come. What takes their room goes to holders
        that are not late with anything: when all are, the link is slow, and more would make it slower.
        """
        state, now_s = self._state, self._state.now_s()
        under_way = [asked for group in self._in_flight.values() for asked in group]
        busy = Counter(asked.holder for asked in under_way)
        room = state.config.gossip.fetches_in_flight_max - len(under_way)
        if room <= 0:
            return
        late = [asked for asked in under_way if self._is_late(asked, now_s)]
        stuck = frozenset(asked.holder for asked in late)
        late_bytes = sum(asked.size_bytes for asked in late)
        under_way_bytes = sum(asked.size_bytes for asked in under_way)
        manifests = [(id_, MANIFEST, who) for id_, who in state.wanted.unknown(state.ledger)]
        for id_, index, who in chain(manifests, state.wanted.segments(state.ledger)):
            size_bytes = 0 if index == MANIFEST else state.ledger.entries[id_].manifest.segments[index].size
            if room <= 0 or not self._haste.fits(under_way_bytes - late_bytes, size_bytes):
                return
            if late_bytes > 0 and not self._haste.fits(under_way_bytes, size_bytes):
                who = [holder for holder in who if holder not in stuck]
            asked = self._in_flight.get((id_, index), [])
            if self._is_waited_for(asked, now_s) or not (able := self._able(who, asked, now_s)):
                continue
            least = min(busy[holder] for holder in able)
            holder = state.doors.rng.choice([holder for holder in able if busy[holder] == least])
            busy[holder] += 1
            room -= 1
            under_way_bytes += size_bytes
            new = Asked(holder, now_s, size_bytes, under_way_bytes)
            under_way.append(new)
            for one in under_way:
                one.load_bytes = max(one.load_bytes, under_way_bytes)
            self._ask(id_, index, new)

    def _is_waited_for(self, asked: Sequence[Asked], now_s: float) -> bool:
        """Whether what is under way for one thing is enough for now."""
        if len(asked) >= HOLDERS_ASKED_MAX:
            return True
        turn = 2 ** max(0, len(asked) - 1)
        return not all(self._is_late(one, now_s, turn) for one in asked)

    def _is_late(self, asked: Asked, now_s: float, turn: int = 1) -> bool:
        """Whether it took `turn` times as long as one request is waited for alone."""
        age_s = now_s - asked.at_s
        return age_s >= HEDGE_MIN_S and age_s >= turn * self._haste.alone_s(asked.load_bytes)

    def _able(self, who: Sequence[PeerId], asked: Sequence[Asked], now_s: float) -> Sequence[PeerId]:
        """Whom of the holders to ask: none that rests, and who is asked already only when there is nobody else."""
        awake = [holder for holder in who if holder not in self._rests or self._rests[holder][0] <= now_s]
        return [holder for holder in awake if all(holder != one.holder for one in asked)] or awake

    def _ask(self, id_: ContributionId, index: int, asked: Asked) -> None:
        group = self._in_flight.setdefault((id_, index), [])
        group.append(asked)
        asked.task = self._group.create_task(self._fetch(id_, index, asked, is_alone=len(group) == 1))

    async def _fetch(self, id_: ContributionId, index: int, asked: Asked, *, is_alone: bool) -> None:
        try:
            if index == MANIFEST:
                await self._fetch_manifest(id_, asked)
            else:
                await self._fetch_segment(id_, index, asked, is_alone=is_alone)
            self._rests.pop(asked.holder, None)
        except Busy:
            self._rest(id_, asked.holder)
        except RemoteError as error:
            if isinstance(error, DeadlineExceeded):
                self._haste.exceeded(asked.size_bytes, asked.at_s, self._state.now_s())
            self._state.wanted.failed(id_, asked.holder, is_final=isinstance(error, WireError))
        finally:
            self._ended(id_, index, asked)
            self._state.bells["fetch"].ring()

    def _ended(self, id_: ContributionId, index: int, asked: Asked) -> None:
        group = self._in_flight.get((id_, index), [])
        if asked in group:  # not cut off by another
            group.remove(asked)
        if not group:
            self._in_flight.pop((id_, index), None)

    def _cut_off(self, id_: ContributionId, index: int, winner: Asked) -> None:
        """Large requests for what is here now end at once; a small one is over sooner than a new connection is made."""
        for other in [one for one in self._in_flight[id_, index] if one is not winner]:
            if other.task is not None and other.size_bytes > LARGE_BYTES:
                other.task.cancel()
                self._ended(id_, index, other)  # a task that has not begun yet never comes to its own end

    def _rest(self, id_: ContributionId, holder: PeerId) -> None:
        """It has no place for us now; others may have what it holds."""
        now_s, (until_s, times) = self._state.now_s(), self._rests.get(holder, (0.0, 0))
        if until_s > now_s:
            return  # several requests were refused at once
        if times >= RESTS_MAX:
            del self._rests[holder]
            self._state.wanted.failed(id_, holder, is_final=True)
            return
        if holder not in self._rests and len(self._rests) >= PEERS_MAX:
            del self._rests[next(iter(self._rests))]
        self._rests[holder] = (now_s + REST_S * self._state.doors.rng.uniform(0.5, 1.5), times + 1)

    async def _fetch_manifest(self, id_: ContributionId, asked: Asked) -> None:
        deadline_s = self._state.config.gossip.call_deadline_s
        reply = await self._calls.to_peer(asked.holder, Request("GET", f"/v1/contributions/{id_.hex()}"), deadline_s)
        if reply.status != 200:
            raise _no(reply)
        manifest = decode_contribution(reply.body)
        if contribution_id(manifest) != id_:
            raise WireError("manifest of another contribution")
        self._haste.came(0, 0, self._state.now_s() - asked.at_s)
        if id_ not in self._state.ledger.entries:  # else another request was faster, and it is passed on already
            self._gossiping.admit(id_, manifest)

    async def _fetch_segment(self, id_: ContributionId, index: int, asked: Asked, *, is_alone: bool) -> None:
        """Straight into the entry's own memory, unless another request may still write there."""
        state = self._state
        entry = state.ledger.entries.get(id_)
        if entry is None or entry.segments[index] is not None:
            return
        data = entry.room(index) if is_alone else memoryview(bytearray(asked.size_bytes))
        request = Request("GET", f"/v1/contributions/{id_.hex()}/{index}")
        deadline_s = self._haste.deadline_s(asked.size_bytes, asked.load_bytes)
        reply = await self._calls.to_peer(asked.holder, request, deadline_s, data)
        if reply.status != 200:
            raise _no(reply)
        self._haste.came(asked.size_bytes, asked.load_bytes, state.now_s() - asked.at_s)
        state.thrift.link.carried(asked.at_s, state.now_s(), asked.size_bytes)
        if (reason := await self._judging.reason(entry.manifest, index, data)) is not None:
            raise WireError(f"segment refused: {reason}")
        if state.ledger.put(entry, index, data.toreadonly()):
            state.completed(entry)
        self._cut_off(id_, index, asked)

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
    if reply.status in (429, 503):
        return Busy(f"status {reply.status}")
    return (Unreachable if reply.status == 408 else WireError)(f"status {reply.status}")

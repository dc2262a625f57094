"""Finding out who is silent: pings of members, pings on behalf of others, and how late my own loop runs.

A task of the node. Whom to probe and what silence means `swarm.probing` and `swarm.membership` decide; this module
makes the calls, measures the loop and answers `POST /v1/probe`. All clocks of suspicion run here and nowhere else, so
that a loop that stood still is noticed before anybody is judged.
"""

from __future__ import annotations

import asyncio

from p2pfusion.errors import RemoteError
from p2pfusion.node.calls import Calls
from p2pfusion.node.state import State
from p2pfusion.seams import Body, Reply, Request
from p2pfusion.swarm.probing import LAG_S, Action, Ask, Ping
from p2pfusion.wire.codec import decode_probe, encode_probe
from p2pfusion.wire.messages import PeerId

TICK_S = 0.25
"""The loop is measured this often; a suspect dies at most this late."""
PROBES_SERVED_MAX = 16
"""Pings on behalf of others at once; one more is answered 503. Three times that many members suspect at one moment."""
NACK_SHARE = 0.8
"""Share of the probe timeout after which a helper says no, so that its no arrives in time (memberlist's figure)."""

ALIVE = Reply(204)
SILENT = Reply(504, b"silent")
"""The target did not answer; to the one who asks that is good news of its own ears."""
BUSY = Reply(503, b"busy")
NOT_FOUND = Reply(404, b"unknown")


def ping(target: PeerId) -> Request:
    """A ping for this peer and no other: a new one at its old address must not answer for it."""
    return Request("GET", "/v1/ping", query=f"peer={target.hex()}")


class Probing:
    """One node's probes."""

    def __init__(self, state: State, calls: Calls, group: asyncio.TaskGroup) -> None:
        self._state = state
        self._calls = calls
        self._group = group

    async def run(self) -> None:
        """Probe for ever."""
        state, prober, membership = self._state, self._state.prober, self._state.membership
        prober.begin(state.now_s())
        while True:
            begun_s = state.now_s()
            wake_s = min(max(prober.due_s, begun_s), begun_s + TICK_S)
            await asyncio.sleep(wake_s - begun_s)
            now_s = state.now_s()
            if (lag_s := now_s - wake_s) >= LAG_S:
                prober.lagged(lag_s)
                membership.stood_still(lag_s, now_s)
            if now_s >= prober.due_s:
                for action in prober.tick(membership.live(), now_s):
                    self._act(action)
            state.tell(membership.tick(now_s))

    def _act(self, action: Action) -> None:
        if isinstance(action, Ping):
            self._group.create_task(self._ping(action))
        elif isinstance(action, Ask):
            for helper in action.helpers:
                self._group.create_task(self._ask(action, helper))
        else:
            self._state.tell(self._state.membership.accuse(action.target, self._state.now_s()))

    async def _ping(self, action: Ping) -> None:
        state = self._state
        if await self._answers(action.target, action.deadline_s):
            state.tell(state.membership.heard(action.target, state.now_s()))
            state.prober.acked(action.target)

    async def _ask(self, action: Ask, helper: PeerId) -> None:
        state = self._state
        request = Request("POST", "/v1/probe", encode_probe(state.run_id, action.target))
        try:
            reply = await self._calls.to_peer(helper, request, action.deadline_s)
        except RemoteError:
            return
        if reply.status == ALIVE.status:
            state.prober.acked(action.target)
        else:
            state.prober.nacked(action.target)

    async def _answers(self, target: PeerId, deadline_s: float) -> bool:
        try:
            async with asyncio.timeout(deadline_s):  # all addresses together
                reply = await self._calls.to_peer(target, ping(target), deadline_s)
        except (RemoteError, TimeoutError):
            return False
        return reply.status == ALIVE.status


class Helping:
    """Probes on behalf of others: of members only, so that nobody can make us call strangers."""

    def __init__(self, state: State, calls: Calls) -> None:
        self._state = state
        self._calls = calls
        self._serving = 0

    async def answer(self, body: Body) -> Reply:
        """204: the named member answered me; 504: it did not; 404: it is no member; 503: later. Raises `WireError`."""
        state = self._state
        run_id, target = decode_probe(body)
        if run_id != state.run_id or target not in state.membership.live():
            return NOT_FOUND
        if self._serving >= PROBES_SERVED_MAX:
            return BUSY
        deadline_s = NACK_SHARE * state.config.gossip.probe_timeout_s
        self._serving += 1
        try:
            async with asyncio.timeout(deadline_s):
                reply = await self._calls.to_peer(target, ping(target), deadline_s)
        except (RemoteError, TimeoutError):
            return SILENT
        finally:
            self._serving -= 1
        if reply.status != ALIVE.status:
            return SILENT
        state.tell(state.membership.heard(target, state.now_s()))
        return ALIVE

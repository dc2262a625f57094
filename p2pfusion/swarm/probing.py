"""Whom to probe, when, and what to make of silence: SWIM's probes with Lifeguard's awareness of one's own health.

A period: ping the next member of a shuffled order, ping again at half the timeout (one lost packet is no evidence),
at the timeout ask `indirect_probes` others to ping for me, at the end of the period accuse. A period and its timeout
are stretched by awareness + 1. Awareness rises when helpers who should at least have said no were silent too, when I
had to refute, and when my own loop ran late; it falls with every answer (Lifeguard, arXiv 1707.00788, section IV.A).

A step machine: moments and answers come in, `Ping`, `Ask` and `Accuse` go out. It knows no network and no statuses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from p2pfusion.config import GossipConfig
from p2pfusion.wire.messages import PeerId

LAG_S = 0.25
"""A loop that is this late was standing still: garbage collection and saturated cores stay below, on any laptop."""
RESTARTS_MAX = 3
"""A probe during which my loop stood still proves nothing and begins anew, so often: who always lags must end it."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask `target` itself; an answer after `deadline_s` is not waited for."""

    target: PeerId
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the helpers to ping `target`."""

    target: PeerId
    helpers: tuple[PeerId, ...]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Accuse:
    """Neither `target` nor anybody asked for it has answered."""

    target: PeerId


Action = Ping | Ask | Accuse


@dataclass(slots=True)
class _Probe:
    target: PeerId
    ask_s: float
    end_s: float
    pings: int = 1
    helpers: tuple[PeerId, ...] | None = None
    """Who was asked; None before anybody was."""
    silent: int = 0
    """Helpers that have not answered at all."""


class Prober:
    """One probe at a time. `due_s` is when the next step is."""

    def __init__(self, gossip: GossipConfig, rng: random.Random) -> None:
        self._gossip = gossip
        self._rng = rng
        self._order: list[PeerId] = []
        self._probe: _Probe | None = None
        self._restarts = 0
        self.awareness = 0
        """My own health: 0 is well, `awareness_max` worst."""
        self.due_s = 0.0

    def begin(self, now_s: float) -> None:
        """The first probe comes at random, so that nodes started together do not all ask at one moment."""
        self.due_s = now_s + self._rng.uniform(0.0, self._gossip.probe_interval_s)

    def tick(self, members: Sequence[PeerId], now_s: float) -> list[Action]:
        """What is due now. `members` are those alive or suspect, besides me."""
        probe = self._probe
        if now_s < self.due_s:
            return []
        if probe is None or probe.target not in members:
            return self._begin(members, now_s)
        if probe.pings == 0:  # my loop stood still: once more from the start
            return self._ping(probe.target, now_s)
        if probe.pings == 1:
            probe.pings, self.due_s = 2, probe.ask_s
            return [Ping(probe.target, probe.end_s - now_s)]
        if probe.helpers is None:
            others = [member for member in members if member != probe.target]
            probe.helpers = tuple(self._rng.sample(others, min(self._gossip.indirect_probes, len(others))))
            probe.silent, self.due_s = len(probe.helpers), probe.end_s
            return [Ask(probe.target, probe.helpers, probe.end_s - now_s)] if probe.helpers else []
        self._change(probe.silent if probe.helpers else 1)
        self._restarts = 0
        return [Accuse(probe.target), *self._begin(members, now_s)]

    def acked(self, target: PeerId) -> None:
        """The target lives: it answered me or somebody I asked, or it called me."""
        if self._probe is not None and self._probe.target == target:
            self.due_s, self._probe, self._restarts = self._probe.end_s, None, 0
            self._change(-1)

    def nacked(self, target: PeerId) -> None:
        """A helper says that the target is silent: then at least the helper and I hear each other."""
        if self._probe is not None and self._probe.target == target:
            self._probe.silent = max(self._probe.silent - 1, 0)

    def missed(self, peer: PeerId) -> None:
        """A call to this peer, about something else, failed: it is probed next, if its turn is still to come."""
        if peer in self._order:
            self._order.remove(peer)
            self._order.append(peer)

    def refuted(self) -> None:
        """I had to contradict a rumour about me: I answer late."""
        self._change(1)

    def lagged(self, lag_s: float) -> None:
        """My loop ran late by this much; below `LAG_S` that is nothing."""
        if lag_s < LAG_S:
            return
        self._change(1)
        probe = self._probe
        if probe is not None and self._restarts < RESTARTS_MAX:
            self._restarts += 1
            probe.pings, self.due_s = 0, 0.0
        elif probe is not None:
            probe.ask_s, probe.end_s, self.due_s = probe.ask_s + lag_s, probe.end_s + lag_s, self.due_s + lag_s

    def _begin(self, members: Sequence[PeerId], now_s: float) -> list[Action]:
        """The next of the order; when it is used up, a new one, so that everybody has a turn (SWIM, section 4.3)."""
        target = self._next(members)
        if target is None:
            self._probe, self.due_s = None, now_s + self._gossip.probe_interval_s
            return []
        return self._ping(target, now_s)

    def _ping(self, target: PeerId, now_s: float) -> list[Action]:
        gossip, times = self._gossip, self.awareness + 1
        timeout_s, end_s = gossip.probe_timeout_s * times, now_s + gossip.probe_interval_s * times
        self._probe, self.due_s = _Probe(target, now_s + timeout_s, end_s), now_s + timeout_s / 2
        return [Ping(target, end_s - now_s)]

    def _next(self, members: Sequence[PeerId]) -> PeerId | None:
        present = frozenset(members)
        for _ in range(2):
            while self._order:
                if (target := self._order.pop()) in present:
                    return target
            self._order = list(members)
            self._rng.shuffle(self._order)
        return None

    def _change(self, by: int) -> None:
        self.awareness = min(max(self.awareness + by, 0), self._gossip.awareness_max)

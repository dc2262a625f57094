"""A round of a chain of hops, played task by task: who waits for whom, where the formulas only know who is slowest.

With enough owners the slowest relay is always busy, and `chain_times` is right. Few owners meet at relays: a batch on
its way back finds another being taken forward, and both are later for it. This plays what devices do (`hops.relaying`):
each owner has one batch under way; a relay takes what comes, the way back before the way forward, hands on before its
optimiser steps, and steps when nothing else waits, or before the copy's next batch. An owner's micro-batches go one by
one through its own stages and over every link, which other owners' batches do not slow down.

Pure; no clock is read. Source: PAPERS.md 3.1 (what happens), ours: playing it.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise

from p2pfusion.core.chain_times import ChainTimes

TASKS_MAX = 200_000
"""Passes through relays in one round: a second of Python. A chain with more of them is full, and the formulas hold."""
_EPSILON_S = 1e-12
_BACK, _FORWARD, _STEP = 0, 1, 2
_LAST, _HOME, _DONE = 3, 4, 5
"""At an owner: before its last stage, before its first stage's way back, and behind it."""


def round_s(times: ChainTimes, batches: int, micro_batches: int = 1) -> float:
    """Seconds of a round in which every owner takes so many batches, at least 1, from its first to its last step.

    Beyond `TASKS_MAX` passes by the formula, `ChainTimes.all_s`, which knows no micro-batches.
    """
    tasks = 2 * batches * micro_batches * len(times.owners) * len(times.relays)
    if tasks > TASKS_MAX or times.mode == "paper":
        return times.all_s(batches)
    return _Play(times, batches, micro_batches).run()


@dataclass(slots=True)
class _Station:
    """One relay: what waits (by order and time of coming), until when it is busy, whose step is due."""

    waiting: list[tuple[int, int, int]] = field(default_factory=list)
    free_s: float = 0.0
    due: dict[int, None] = field(default_factory=dict)
    came_back: Counter[int] = field(default_factory=Counter)
    """By owner: micro-batches of its batch under way."""


class _Play:
    """Events in the order of time: (when, number, place, owner, what), place -1 being the owner's own."""

    def __init__(self, times: ChainTimes, batches: int, micro_batches: int) -> None:
        self._times, self._stations = times, [_Station() for _ in times.relays]
        self._hops = [max(a.out_s, b.in_s) for a, b in pairwise(times.relays)]
        self._parts, self._home = micro_batches, Counter[int]()
        self._free_s: dict[tuple[int, str], float] = defaultdict(float)
        self._left = [batches] * len(times.owners)
        self._numbers: Iterator[int] = count()
        self._events: list[tuple[float, int, int, int, int]] = []

    def run(self) -> float:
        """Seconds until the last owner has made its last step."""
        end_s = 0.0
        for owner in range(len(self._left)):
            self._begin(0.0, owner)
        while self._events:
            now_s, _, place, owner, what = heapq.heappop(self._events)
            if what == _DONE:
                self._home[owner] += 1
                if self._home[owner] % self._parts:
                    continue
                end_s, self._left[owner] = now_s, self._left[owner] - 1
                if self._left[owner]:
                    self._begin(now_s, owner)
            elif place < 0:
                self._own(now_s, owner, what)
            else:
                if what in (_BACK, _FORWARD):
                    heapq.heappush(self._stations[place].waiting, (what, next(self._numbers), owner))
                self._work(now_s, place)
        return end_s

    def _at(self, when_s: float, place: int, owner: int, what: int) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), place, owner, what))

    def _begin(self, now_s: float, owner: int) -> None:
        own = self._times.owners[owner]
        for _ in range(self._parts):
            made_s = self._after(now_s, own.first_forward_s, owner, "own")
            self._at(self._after(made_s, own.to_chain_s, owner, "to chain"), 0, owner, _FORWARD)

    def _own(self, now_s: float, owner: int, what: int) -> None:
        own, last = self._times.owners[owner], len(self._stations) - 1
        if what == _LAST:
            done_s = self._after(now_s, own.last_forward_s + own.last_backward_s, owner, "own")
            self._at(self._after(done_s, own.from_chain_s, owner, "back to chain"), last, owner, _BACK)
        else:
            self._at(self._after(now_s, own.first_backward_s, owner, "own"), -1, owner, _DONE)

    def _after(self, now_s: float, takes_s: float, owner: int, what: str) -> float:
        """When one micro-batch is through something that the owner's micro-batches pass one by one."""
        free_s = self._free_s[owner, what] = max(now_s, self._free_s[owner, what]) + takes_s / self._parts
        return free_s

    def _work(self, now_s: float, place: int) -> None:
        """Begin what comes first, if the relay is free; what follows is told when it is done."""
        station, relay = self._stations[place], self._times.relays[place]
        if station.free_s > now_s + _EPSILON_S:
            return
        if station.waiting:
            what, _, owner = heapq.heappop(station.waiting)
            step_s = relay.step_s if owner in station.due else 0.0
            station.due.pop(owner, None)
            pass_s = relay.forward_s if what == _FORWARD else relay.backward_s - relay.step_s
            done_s = now_s + step_s + pass_s / self._parts
            if what == _BACK:
                station.came_back[owner] += 1
                if station.came_back[owner] % self._parts == 0:
                    station.due[owner] = None
            self._pass_on(done_s, place, owner, what)
        elif station.due:
            owner = next(iter(station.due))
            del station.due[owner]
            done_s = now_s + relay.step_s
        else:
            return
        station.free_s = done_s
        self._at(done_s, place, owner, _STEP)

    def _pass_on(self, now_s: float, place: int, owner: int, what: int) -> None:
        own, last = self._times.owners[owner], len(self._stations) - 1
        if what == _FORWARD and place < last:
            self._at(self._after(now_s, self._hops[place], owner, f"{place} on"), place + 1, owner, _FORWARD)
        elif what == _FORWARD:
            self._at(self._after(now_s, own.from_chain_s, owner, "from chain"), -1, owner, _LAST)
        elif place:
            self._at(self._after(now_s, self._hops[place - 1], owner, f"{place} back"), place - 1, owner, _BACK)
        else:
            self._at(self._after(now_s, own.to_chain_s, owner, "home"), -1, owner, _HOME)

"""A swarm as arithmetic: devices that train, publish, wait and go on, with the real `Cadence`, and nothing else.

No node, no network, no model: one heap of moments. It shows what quorum, patience and pace do to each other.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pfusion.config import CadenceConfig
from p2pfusion.swarm.cadence import Cadence
from p2pfusion.wire.messages import PeerId
from tests.swarm.made import peer

OUTRUN_ROUNDS = 2


@dataclass
class Round:
    """One round of one device: when it began, was published and left."""

    number: int
    steps: int
    begin_s: float
    published_s: float
    left_s: float = 0.0


@dataclass
class Device:
    """`step_s` may be changed while the swarm runs."""

    id: PeerId
    step_s: float
    cadence: Cadence
    rest_s: float = 0.0
    newest: int = 1
    last: int = 0
    arrived: dict[int, dict[PeerId, None]] = field(default_factory=dict)
    waits_for: int | None = None
    rounds: list[Round] = field(default_factory=list)

    def steps(self) -> list[int]:
        return [done.steps for done in self.rounds]

    def took_s(self, last: int = 10) -> float:
        """Mean time of its last rounds, beginning to publication."""
        ended = self.rounds[-last:]
        return sum(done.published_s - done.begin_s for done in ended) / len(ended)


class Swarm:
    """Devices of these seconds per step, all starting at 0."""

    def __init__(
        self,
        steps_s: list[float],
        *,
        config: CadenceConfig | None = None,
        wanted: int = 20,
        jitter: float = 0.0,
        latency_s: float = 0.005,
        seed: int = 0,
    ) -> None:
        config = config or CadenceConfig(round_min_s=0.0)
        self.wanted, self.jitter, self.latency_s = wanted, jitter, latency_s
        self.devices = [Device(peer(n), step_s, Cadence(config)) for n, step_s in enumerate(steps_s, 1)]
        self.now_s = 0.0
        self._rng = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for device in self.devices:
            self._begin(device)

    def run(self, until_s: float) -> Swarm:
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, act = heapq.heappop(self._heap)
            act()
        self.now_s = until_s
        return self

    def leave(self, devices: list[Device]) -> None:
        """They are gone without a word, and everybody knows at once."""
        self.devices = [device for device in self.devices if device not in devices]

    def _at(self, moment_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (moment_s, self._count, act))

    def _others(self, device: Device) -> list[PeerId]:
        return [other.id for other in self.devices if other is not device]

    def _begin(self, device: Device) -> None:
        device.cadence.pace.expect(self._others(device))
        steps, begin_s = device.cadence.pace.steps(self.wanted), self.now_s
        train_s = steps * device.step_s * self._rng.uniform(1 - self.jitter, 1 + self.jitter)
        self._at(begin_s + train_s + device.rest_s, lambda: self._publish(device, steps, begin_s, train_s))

    def _publish(self, device: Device, steps: int, begin_s: float, train_s: float) -> None:
        if device not in self.devices:
            return
        round_ = device.last = device.newest = max(device.last + 1, device.newest)
        device.cadence.pace.trained(steps, train_s, device.rest_s)
        device.rounds.append(Round(round_, steps, begin_s, self.now_s))
        arrived = device.arrived.setdefault(round_, {})
        device.cadence.published(round_, self._others(device), arrived, self.now_s)
        arrived[device.id] = None
        for other in self.devices:
            if other is not device:
                delay_s = self.latency_s * self._rng.uniform(0.5, 1.5)
                self._at(self.now_s + delay_s, lambda to=other: self._arrive(to, round_, device.id, steps))
        device.waits_for = round_
        self._look(device)

    def _arrive(self, device: Device, round_: int, author: PeerId, steps: int) -> None:
        device.newest = max(device.newest, round_)
        device.arrived.setdefault(round_, {})[author] = None
        device.cadence.arrived(round_, author, self.now_s, samples=32 * steps)
        self._look(device)

    def _look(self, device: Device) -> None:
        """Begin the next round if this one is ready, else look again when patience ends at the latest."""
        round_ = device.waits_for
        if round_ is None or device not in self.devices:
            return
        arrived, everybody = device.arrived[round_], [other.id for other in self.devices]
        is_ready = device.cadence.is_ready(round_, arrived, everybody, self.now_s)
        if is_ready or device.newest >= round_ + OUTRUN_ROUNDS:
            device.waits_for = None
            device.rounds[-1].left_s = self.now_s
            self._begin(device)
        else:
            due_s = device.cadence.ready_at_s(round_, arrived, everybody)
            self._at(max(due_s, self.now_s + 1e-6), lambda: self._look(device))

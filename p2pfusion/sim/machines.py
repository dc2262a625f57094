"""One simulated computer: it outlives the nodes that run on it, and everything that can happen to it happens here.

A crash ends the running node without a word and lets nothing more in or out; a restart makes a new node at the same
address, with the disk or a new one. Sleeping and stalling shut the gate that the node's tasks stand behind. The node
itself never knows of any of it. Which nodes there are, and when what happens, `sim.world` says.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import numpy as np

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.errors import LocalError
from p2pfusion.node import Event, Node, WarningEvent
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.gates import Gate
from p2pfusion.sim.loop import VirtualLoop
from p2pfusion.sim.network import Network, SimTransport
from p2pfusion.sim.scenario import Outcome
from p2pfusion.store.memory import MemoryStore

Make = Callable[["Machine"], Node]
"""The next node of a machine."""
Follow = Callable[["Machine", Node], Awaitable[None]]
"""Lets a node live, from its start to its end."""


class Machine:
    """Computer number `index`, host `index + 1`. `node` is the one that runs on it, or ran last."""

    def __init__(self, index: int, network: Network, registry: Registry, speed: float) -> None:
        self.index = index
        self.name = f"node-{index}"
        self.node: Node | None = None
        self.lives = 0
        self.is_running = False
        self.store = MemoryStore()
        self.compute = SimCompute(speed=speed)
        self.discovery = SimDiscovery(registry)
        self.events: list[tuple[float, Event]] = []
        """What its nodes told, and when: reports and warnings."""
        self.born_s = math.inf
        """When the last node started."""
        self.died_s = math.inf
        """When the last node ended; infinite while it runs."""
        network.host(index + 1)  # it is there, and can fail, before anything runs on it
        self._network = network
        self._registry = registry
        self._speed = speed
        self._gate = Gate()
        self._life: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._restart_disk: bool | None = None
        self._is_over = False
        self._troubles = 0
        self._calm_since_s = 0.0

    @property
    def is_done(self) -> bool:
        """Its node reached its own end."""
        return self.node is not None and not self.is_running and self.node.done is not None

    @property
    def transport(self) -> SimTransport:
        """A new one for a new node."""
        return SimTransport(self._network, self.index + 1)

    def calm_s(self, now_s: float) -> float:
        """For how long it has been up, awake, its links open; 0 while it is not."""
        return now_s - self._calm_since_s if self.is_running and not self._troubles else 0.0

    # -- its lives ----------------------------------------------------------------------------------------------------

    async def live(self, make: Make, follow: Follow, ended: Callable[[], None]) -> None:
        """Node after node, until one reaches its end or nobody starts another; `ended` is called after each."""
        while not self._is_over:
            self.node, self.lives = make(self), self.lives + 1
            self.is_running, self.born_s, self.died_s = True, _loop().time(), math.inf
            self._calm_since_s = self.born_s
            async with asyncio.TaskGroup() as group:
                self._life = group.create_task(self._run(follow, self.node), context=self._gate.context())
            self.is_running, self._life = False, None
            ended()
            if self.is_done:
                return
            await self._await_restart()

    async def _run(self, follow: Follow, node: Node) -> None:
        try:
            await follow(self, node)
        finally:
            self.died_s = min(self.died_s, _loop().time())

    async def _await_restart(self) -> None:
        while self._restart_disk is None and not self._is_over:
            await self._news.wait()
            self._news.clear()
        if not self._restart_disk:
            self.store = MemoryStore()
        self._restart_disk = None
        self.compute, self.discovery = SimCompute(speed=self._speed), SimDiscovery(self._registry)
        self._network.revive(self.index + 1)

    def give_up(self) -> None:
        """No node starts here again; one that runs is ended as by a crash."""
        self._is_over = True
        self.crash()
        self._news.set()

    def outcome(self) -> Outcome:
        """What came of it."""
        reports = [(at_s, event) for at_s, event in self.events if isinstance(event, RoundReport)]
        return Outcome(
            name=self.name,
            done=self.node.done if self.node is not None and self.is_done else None,
            reports=tuple(report for _, report in reports),
            reported_s=tuple(at_s for at_s, _ in reports),
            warnings=tuple(event for _, event in self.events if isinstance(event, WarningEvent)),
            model=self.node.model() if self.node is not None else np.zeros(0, np.float32),
            lives=self.lives,
        )

    # -- what happens to it -------------------------------------------------------------------------------------------

    def crash(self) -> bool:
        """The plug is pulled; False when nothing runs."""
        if not self.is_running or self._life is None or self._life.cancelling():
            return False
        self._network.crash(self.index + 1)
        self.discovery.crash()
        self.died_s = _loop().time()
        self._open()
        self._life.cancel()
        return True

    def restart(self, *, disk: bool) -> bool:
        """Start a node again; False when one runs, or when the last one reached its end."""
        is_dying = self._life is not None and self._life.cancelling() > 0
        if self.lives == 0 or self.is_done or self._is_over or (self.is_running and not is_dying):
            return False
        self._restart_disk = disk
        self._news.set()
        return True

    def sleep(self) -> None:
        """The lid closes."""
        self._network.deafen(self.index + 1, True)
        self.stall()

    def wake(self) -> None:
        """The lid opens."""
        self._network.deafen(self.index + 1, False)
        self.resume()

    def stall(self) -> None:
        """Nothing of its node runs."""
        self.trouble(1)
        if self.is_running:
            _loop().shut(self._gate)

    def resume(self) -> None:
        """All runs on, and what has come meanwhile is seen to."""
        self.trouble(-1)
        self._open()

    def clog(self, bytes_max: int | None) -> None:
        """Only small bodies pass, or all again."""
        self._network.clog(self.index + 1, bytes_max)
        self.trouble(1 if bytes_max is not None else -1)

    def set_speed(self, speed: float) -> None:
        """Work that begins from now on takes its cost divided by this."""
        self._speed = self.compute.speed = speed

    def trouble(self, change: int) -> None:
        """One thing more or less is wrong with it or its links."""
        self._troubles += change
        self._calm_since_s = max(self._calm_since_s, _loop().time())

    def _open(self) -> None:
        if self._gate.is_shut:
            _loop().reopen(self._gate)


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise LocalError("simulated machines run on a VirtualLoop (p2pfusion.sim.loop)")
    return loop

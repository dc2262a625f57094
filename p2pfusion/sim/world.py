"""A whole swarm in virtual time: the very same `Node`, over simulated doors, reproducible from one seed.

`simulate` makes the hosts, gives each a node, lets the scenario's faults happen and collects what the nodes report. The
trace hash covers every packet and every event with its virtual time: equal hashes mean equal histories.

It knows no data set and no algorithm: the caller gives a learner per node. How many threads torch uses is the caller's
affair too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

from blake3 import blake3

from p2pfusion.algorithms.base import Algorithm, RoundReport
from p2pfusion.config import NodeConfig
from p2pfusion.errors import LocalError
from p2pfusion.node import Event, Node, WarningEvent
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.links import Fate, LinkModel, Packet
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import Network, SimTransport
from p2pfusion.sim.scenario import NODES_MAX, Outcome, Result, Scenario
from p2pfusion.store.memory import MemoryStore

__all__ = ["NODES_MAX", "Learner", "LinkModel", "Outcome", "Result", "Scenario", "Watch", "World", "simulate"]

Learner = Callable[[int], Algorithm]
"""Node index -> what it learns; called once for each node, as it starts."""
Watch = Callable[["World"], None]
"""A checker: called after every event of a node and at every arrival of a packet; it may raise."""


def simulate(scenario: Scenario, learner: Learner, seed: int, watch: Watch | None = None) -> Result:
    """Run a scenario to its end in virtual time.

    Raises what a node or the watch raised, `TimeoutError` or `Deadlock` when the run does not end, with a line on every
    node, and `LocalError` when a node failed to answer a request (see the log).
    """
    world = World(scenario, learner, seed, watch)
    try:
        return run(world.run, until_s=scenario.until_s)
    except Exception as error:
        first = _first(error)
        for line in world.lines():
            first.add_note(line)
        if first is error:
            raise
        raise first from None


class World:
    """The swarm while it runs; checkers read `nodes`, which fills as nodes start."""

    def __init__(self, scenario: Scenario, learner: Learner, seed: int, watch: Watch | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.nodes: dict[int, Node] = {}
        self._learner = learner
        self._watch = watch
        self._trace = blake3()
        self._packets = 0
        self._registry = Registry()
        self._network = Network(self._rng("network"), scenario.link, trace=self._note_packet)
        self._network.blocked = self._is_cut
        self._cuts: list[int] = []
        self._objected = asyncio.Event()
        self._objection: Exception | None = None
        self._crashed = [asyncio.Event() for _ in range(scenario.nodes)]

    def lines(self) -> list[str]:
        """A line on every node that has started, for people."""
        return [f"node {index}: {node!r}" for index, node in self.nodes.items()]

    async def run(self) -> Result:
        """The whole run, once."""
        starts_s = self.scenario.starts_s()
        async with self._network, asyncio.TaskGroup() as group:
            others = [group.create_task(task) for task in (self._faults(), self._end_when_objected())]
            lives = [group.create_task(self._live(index, start_s)) for index, start_s in enumerate(starts_s)]
            outcomes = [await life for life in lives]
            for task in others:
                task.cancel()
            ended_s = asyncio.get_running_loop().time()
        self._look()
        if self._objection is not None:
            raise self._objection
        return Result(
            scenario=self.scenario,
            seed=self.seed,
            outcomes=tuple(outcomes),
            trace_hash=self._trace.hexdigest(),
            packets=self._packets,
            virtual_s=ended_s,
        )

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(blake3(f"{self.seed} {purpose}".encode()).digest())

    def _node(self, index: int) -> Node:
        scenario = self.scenario
        config = NodeConfig(
            run=scenario.run,
            gossip=scenario.gossip,
            cadence=scenario.cadence,
            name=f"node-{index}",
            min_peers=scenario.min_peers or max(1, scenario.nodes - len(scenario.arrivals)),
            until_rounds=scenario.rounds,
            codec=scenario.codec,
        )
        return Node(
            config,
            self._learner(index),
            transport=SimTransport(self._network, index + 1),
            discovery=SimDiscovery(self._registry),
            compute=SimCompute(speed=scenario.speed(index)),
            store=MemoryStore(),
            rng=self._rng(f"node {index}"),
            rate=scenario.rate,
        )

    async def _live(self, index: int, start_s: float) -> Outcome:
        """One node from its start to its end or its crash."""
        await asyncio.sleep(start_s)
        node = self.nodes[index] = self._node(index)
        events: list[tuple[float, Event]] = []
        async with asyncio.TaskGroup() as group:
            life = group.create_task(self._follow(node, events))
            crash = group.create_task(self._crashed[index].wait())
            crash.add_done_callback(lambda done: None if done.cancelled() else life.cancel())
            life.add_done_callback(lambda _: crash.cancel())
        return Outcome(
            name=node.name,
            done=node.done,
            reports=tuple(event for _, event in events if isinstance(event, RoundReport)),
            reported_s=tuple(at_s for at_s, event in events if isinstance(event, RoundReport)),
            warnings=tuple(event for _, event in events if isinstance(event, WarningEvent)),
            model=node.model(),
        )

    async def _follow(self, node: Node, events: list[tuple[float, Event]]) -> None:
        loop = asyncio.get_running_loop()
        async with node:
            async for event in node.events():
                self._trace.update(f"{loop.time()!r} {node.name} {event!r}\n".encode())
                if isinstance(event, RoundReport | WarningEvent):
                    events.append((loop.time(), event))
                self._look()

    # -- who watches --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Let the checker look, until it objects. What it raises would be lost in the loop's callbacks."""
        if self._objection is None:
            try:
                self._check_handlers()
                if self._watch is not None:
                    self._watch(self)
            except Exception as error:
                self._objection = error
                self._objected.set()

    def _check_handlers(self) -> None:
        if self._network.handler_errors:
            raise LocalError("a request was answered 500, which is a bug: see the log")

    async def _end_when_objected(self) -> None:
        await self._objected.wait()
        if self._objection is not None:
            raise self._objection

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _faults(self) -> None:
        """Crashes and cuts at their times; of one moment, in the order of the scenario, crashes first."""
        todo: list[tuple[float, Callable[[], None]]] = []
        for at_s, index in self.scenario.crashes:
            todo.append((at_s, partial(self._crash, index)))
        for from_s, to_s, size in self.scenario.cuts:
            todo += [(from_s, partial(self._cuts.append, size)), (to_s, partial(self._cuts.remove, size))]
        loop = asyncio.get_running_loop()
        for at_s, act in sorted(todo, key=lambda item: item[0]):
            await asyncio.sleep(at_s - loop.time())
            act()

    def _crash(self, index: int) -> None:
        self._network.crash(index + 1)
        self._crashed[index].set()

    def _is_cut(self, source: int, target: int) -> bool:
        return any((source <= size) != (target <= size) for size in self._cuts)

    def _note_packet(self, moment_s: float, fate: Fate, packet: Packet) -> None:
        self._packets += 1
        ends = f"{packet.source} {packet.target}"
        self._trace.update(f"{moment_s!r} {fate} {packet.kind} {ends} {packet.path} {packet.size_bytes}\n".encode())
        if fate == "arrived":
            self._look()


def _first(error: BaseException) -> BaseException:
    """The first single exception of a group, itself if it is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""A whole swarm in virtual time: the very same `Node`, over simulated doors, reproducible from one seed.

`simulate` makes the machines, lets a node run on each, lets the scenario's faults happen and collects what the nodes
report. The trace hash covers every packet, event and fault with its virtual time: equal hashes mean equal histories.

A run ends when every machine's node has reached its own end or is away for good. A node is away for good when it has
crashed and no restart is to come, or when those who trained have ended and left it nobody to learn from.

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
from p2pfusion.errors import Unfinished
from p2pfusion.node import Event, Node, WarningEvent
from p2pfusion.sim.audience import Audience
from p2pfusion.sim.checkers import Checkers
from p2pfusion.sim.doors import Registry
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.history import History
from p2pfusion.sim.links import Fate, LinkModel, Packet
from p2pfusion.sim.loop import run
from p2pfusion.sim.machines import Machine
from p2pfusion.sim.network import Network
from p2pfusion.sim.scenario import NODES_MAX, Outcome, Result, Scenario
from p2pfusion.sim.tally import Tally
from p2pfusion.sim.timeline import timeline
from p2pfusion.sim.walls import Walls

__all__ = ["NODES_MAX", "Learner", "LinkModel", "Note", "Outcome", "Result", "Scenario", "Watch", "World", "simulate"]

Learner = Callable[[int], Algorithm]
"""Node index -> what it learns; called each time a node starts, so again for one that comes back."""
Watch = Callable[["World", int], None]
"""Called after every event of a node and at every arrival of a packet, with the node it concerns; it may raise."""
Note = Callable[[float, str, Event | Fault], None]
"""Called with the virtual time, the node's name and what it told, or what befell it."""


def simulate(
    scenario: Scenario,
    learner: Learner,
    seed: int,
    *,
    watch: Watch | None = None,
    note: Note | None = None,
    is_checked: bool = True,
) -> Result:
    """Run a scenario to its end in virtual time, `Checkers` looking on unless `is_checked` is False.

    Raises what a node or the watch raised, `InvariantViolation` from the checkers, `Unfinished` when the run has not
    ended at `until_s`, `Deadlock` when it never can, with a line on every node, and `LocalError` when a node failed to
    answer a request (see the log).
    """
    world = World(scenario, learner, seed, watch=watch, note=note, is_checked=is_checked)
    try:
        return run(world.run, until_s=scenario.until_s)
    except Exception as error:
        first = _first(error)
        if isinstance(first, TimeoutError) and world.is_out_of_time:
            first = Unfinished(world.why_unfinished())
        for line in world.lines():
            first.add_note(line)
        if first is error:
            raise
        raise first from None


class World:
    """The swarm while it runs: `machines`, `nodes` (which fills as they start) and `history` are there to be read."""

    def __init__(
        self,
        scenario: Scenario,
        learner: Learner,
        seed: int,
        *,
        watch: Watch | None = None,
        note: Note | None = None,
        observes: Callable[[int], bool] = lambda index: False,
        is_checked: bool = True,
    ) -> None:
        """`observes`: whether the node of that index has nothing to train at the moment."""
        self.scenario = scenario
        self.seed = seed
        self.nodes: dict[int, Node] = {}
        self._learner = learner
        self._observes = observes
        self._told = note
        self._trace = blake3()
        self._packets = 0
        self._timeline = timeline(scenario, seed)
        self._restarts_to_come = [0] * scenario.nodes
        for fault in self._timeline:
            if fault.kind == "restart":
                self._restarts_to_come[fault.index] += 1
        registry = Registry()
        self.network = Network(self._rng("network"), scenario.link, trace=self._note_packet)
        self._walls = Walls(scenario)
        self.network.blocked, self.network.held = self._walls.is_blocking, self._walls.is_holding
        self.machines = [Machine(i, self.network, registry, scenario.speed(i)) for i in range(scenario.nodes)]
        self.history = History(self)
        self._tally = Tally(self, self.history)
        checkers = [Checkers(self, self.history)] if is_checked else []
        eyes = partial(watch, self) if watch is not None else None
        self._audience = Audience(self, [self.history, self._tally, *checkers], eyes)
        self._now_s: Callable[[], float] = lambda: 0.0

    @property
    def now_s(self) -> float:
        """Virtual seconds since the run began; where it stood, after it ended."""
        return self._now_s()

    async def run(self) -> Result:
        """The whole run, once."""
        self._now_s = asyncio.get_running_loop().time
        starts_s = self.scenario.starts_s()
        async with self.network, asyncio.TaskGroup() as group:
            others = [group.create_task(task) for task in (self._befall(), self._audience.wait())]
            lives = [
                group.create_task(self._live(m, start_s)) for m, start_s in zip(self.machines, starts_s, strict=True)
            ]
            for life in lives:
                await life
            for task in others:
                task.cancel()
            ended_s = self.now_s
        self._audience.ended()
        return Result(
            scenario=self.scenario,
            seed=self.seed,
            outcomes=tuple(machine.outcome() for machine in self.machines),
            trace_hash=self._trace.hexdigest(),
            packets=self._packets,
            virtual_s=ended_s,
            stats=self._tally.statistics(),
        )

    # -- when it does not end -----------------------------------------------------------------------------------------

    @property
    def is_out_of_time(self) -> bool:
        """The run has come to its scenario's `until_s`."""
        return self.now_s >= self.scenario.until_s

    def lines(self) -> list[str]:
        """A line on every node that has started, for people."""
        return [f"node {index}: {node!r}" for index, node in sorted(self.nodes.items())]

    def why_unfinished(self) -> str:
        """Which limit was hit, and what kept the nodes from their end."""
        scenario = self.scenario
        running = [machine.node for machine in self.machines if machine.node is not None and machine.is_running]
        waiting = sum(node.state.role == "syncing" for node in running)
        newest = max((node.state.ledger.newest for node in running), default=0)
        tip = max((node.state.ledger.tip.round for node in running), default=0)
        text = f"the run was not over at Scenario.until_s = {scenario.until_s:g} virtual seconds"
        if running and waiting == len(running) and newest == 0:
            text += f": nobody met the {self._min_peers(is_first=True)} peers needed to begin"
            return text + (f" (link.loss = {scenario.link.loss:g})" if scenario.link.loss else "")
        return (
            f"{text}: {len(running)} of {scenario.nodes} nodes still run, {waiting} of them looking for the others; "
            f"round {newest} of {scenario.rounds} was reached, round {tip} agreed on"
        )

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _rng(self, purpose: str) -> random.Random:
        return random.Random(blake3(f"{self.seed} {purpose}".encode()).digest())

    def _min_peers(self, *, is_first: bool) -> int:
        """How many must have met before a node begins, itself counted: who comes later or again joins a swarm."""
        scenario = self.scenario
        if scenario.min_peers is not None:
            return scenario.min_peers
        return max(1, scenario.nodes - len(scenario.arrivals)) if is_first else min(2, scenario.nodes)

    def _make(self, machine: Machine) -> Node:
        scenario, index = self.scenario, machine.index
        config = NodeConfig(
            run=scenario.run,
            gossip=scenario.gossip,
            cadence=scenario.cadence,
            name=machine.name,
            min_peers=self._min_peers(is_first=machine.lives == 0 and scenario.starts_s()[index] == 0),
            until_rounds=scenario.rounds,
            codec=scenario.codec,
            codec_density=scenario.codec_density,
        )
        self.nodes[index] = node = Node(
            config,
            self._learner(index),
            transport=machine.transport,
            discovery=machine.discovery,
            compute=machine.compute,
            store=machine.store,
            rng=self._rng(f"node {index}" + (f" life {machine.lives}" if machine.lives else "")),
            rate=scenario.rate_of(index),
            observes=lambda: self._observes(index),
        )
        return node

    async def _live(self, machine: Machine, start_s: float) -> None:
        await asyncio.sleep(start_s)
        await machine.live(self._make, self._follow, self._part)

    async def _follow(self, machine: Machine, node: Node) -> None:
        """One node from its start to its end; whatever it tells is taken down."""
        async with node:
            async for event in node.events():
                self._record(node.name, event)
                if isinstance(event, RoundReport | WarningEvent):
                    machine.events.append((self.now_s, event))
                self._audience.told(machine.index, event)
                self._audience.look(machine.index)

    # -- who is away for good -----------------------------------------------------------------------------------------

    def _is_abandoned(self) -> bool:
        """Somebody has reached the end, and nobody is left to learn from."""
        return any(machine.is_done for machine in self.machines) and not any(
            machine.is_running and machine.node is not None and machine.node.state.role != "syncing"
            for machine in self.machines
        )

    def _part(self) -> None:
        """A node has ended: give up those who wait for what will not come."""
        is_abandoned = self._is_abandoned()
        for machine in self.machines:
            is_away = machine.lives > 0 and not machine.is_running and not self._restarts_to_come[machine.index]
            if not machine.is_done and (is_abandoned or is_away):
                machine.give_up()

    # -- the trace ----------------------------------------------------------------------------------------------------

    def _record(self, name: str, event: Event | Fault) -> None:
        self._trace.update(f"{self.now_s!r} {name} {event!r}\n".encode())
        if self._told is not None:
            self._told(self.now_s, name, event)

    def _note_packet(self, moment_s: float, fate: Fate, packet: Packet) -> None:
        self._packets += 1
        ends = f"{packet.source} {packet.target}"
        self._trace.update(f"{moment_s!r} {fate} {packet.kind} {ends} {packet.path} {packet.size_bytes}\n".encode())
        if fate == "arrived":
            self._audience.look(packet.target - 1)

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _befall(self) -> None:
        """Let everything happen at its moment."""
        for fault in self._timeline:
            await asyncio.sleep(fault.at_s - self.now_s)
            if fault.kind in ("cut", "heal"):
                self._record("network", fault)
                self._wall(fault)
            else:
                self._record(self.machines[fault.index].name, fault)
                self._audience.look(fault.index)
                self._hit(self.machines[fault.index], fault)
            self._audience.befell(fault)

    def _wall(self, fault: Fault) -> None:
        change = 1 if fault.kind == "cut" else -1
        if fault.kind == "cut":
            self._walls.rise(fault.index)
        else:
            self._walls.fall(fault.index)
            self.network.release()
        for node in self._walls.nodes_of(fault.index):
            self.machines[node].trouble(change)

    def _hit(self, machine: Machine, fault: Fault) -> None:
        match fault.kind:
            case "crash":
                machine.crash()
            case "restart":
                self._restarts_to_come[fault.index] -= 1
                if self._is_abandoned():
                    machine.give_up()
                else:
                    machine.restart(disk=fault.value > 0)
            case "sleep":
                machine.sleep()
            case "wake":
                machine.wake()
            case "stall":
                machine.stall()
            case "resume":
                machine.resume()
            case "clog":
                machine.clog(int(fault.value))
            case "unclog":
                machine.clog(None)
            case "speed":
                machine.set_speed(fault.value)


def _first(error: BaseException) -> BaseException:
    """The first single exception of a group, itself if it is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""What happens in one simulated run, and what came of it: plain data, checked where it is made.

Node `i` (from 0) runs on host `i + 1`. Times are virtual seconds since the run began. `sim.loading` reads scenarios
from TOML; `sim.faults` says what can go wrong. This module starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from p2pfusion.algorithms.base import RoundReport, Vector
from p2pfusion.config import CadenceConfig, GossipConfig, RunConfig
from p2pfusion.errors import ConfigError
from p2pfusion.node import Done, WarningEvent
from p2pfusion.sim.faults import Arrival, Churn, Clog, Crash, Lag, Partition, Sleep, SpeedChange
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.statistics import Statistics

NODES_MAX = 256
"""More would take hours on one core; later issues may find room."""
FAULTS_MAX = 4096
"""Faults of one sort that a scenario names."""

Learns = Literal["task", "light"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run. Raises `ConfigError` for what cannot happen."""

    name: str = "latency"
    nodes: int = 16
    rounds: int = 50
    rate: float = 0.5
    learns: Learns = "task"
    """`light`: the synthetic learner of `sim.light`, which costs next to nothing; `task`: real training."""
    round_cost_s: float | None = None
    """Virtual seconds one round of training the whole model takes at speed 1; None: as the learner says."""
    link: LinkModel = field(default_factory=LinkModel)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    cadence: CadenceConfig = field(default_factory=lambda: CadenceConfig(round_min_s=0.0))
    """Simulated rounds follow each other without a least time between them."""
    run: RunConfig = field(default_factory=RunConfig)
    codec: str = "fp32"
    codec_density: float = 0.01
    min_peers: int | None = None
    """None: everybody who is there from the start; who comes later or again needs one other."""
    speeds: tuple[float, ...] = ()
    """Relative speed of each node's computer; 1.0 for those not listed."""
    rates: tuple[float, ...] = ()
    """Of each node; `rate` for those not listed."""
    arrivals: tuple[Arrival, ...] = ()
    crashes: tuple[Crash, ...] = ()
    partitions: tuple[Partition, ...] = ()
    clogs: tuple[Clog, ...] = ()
    sleeps: tuple[Sleep, ...] = ()
    lags: tuple[Lag, ...] = ()
    speed_changes: tuple[SpeedChange, ...] = ()
    churn: Churn | None = None
    until_s: float = 3600.0
    """A run that has not ended by then is a failure."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= NODES_MAX:
            raise ConfigError(f"Scenario.nodes = {self.nodes}: must be 1 to {NODES_MAX}")
        if self.rounds < 1 or not 0 < self.rate <= 1:
            raise ConfigError(
                f"Scenario: rounds = {self.rounds} and rate = {self.rate}: must be 1 or more, and in (0, 1]"
            )
        if self.learns not in ("task", "light"):
            raise ConfigError(f"Scenario.learns = {self.learns!r}: must be 'task' or 'light'")
        if self.round_cost_s is not None and not self.round_cost_s >= 0:
            raise ConfigError(f"Scenario.round_cost_s = {self.round_cost_s!r}: must be 0 or above")
        if not self.until_s > 0:
            raise ConfigError(f"Scenario.until_s = {self.until_s!r}: must be above 0")
        if len(self.speeds) > self.nodes or any(not speed > 0 for speed in self.speeds):
            raise ConfigError("Scenario.speeds: one positive number a node at most")
        if len(self.rates) > self.nodes or any(not 0 < rate <= 1 for rate in self.rates):
            raise ConfigError("Scenario.rates: one number in (0, 1] a node at most")
        self._check_faults()

    def _check_faults(self) -> None:
        for name in ("arrivals", "crashes", "clogs", "sleeps", "lags", "speed_changes"):
            faults: Sequence[Arrival | Crash | Clog | Sleep | Lag | SpeedChange] = getattr(self, name)
            if len(faults) > FAULTS_MAX:
                raise ConfigError(f"Scenario.{name}: {FAULTS_MAX} at most")
            for number, fault in enumerate(faults):
                if not 0 <= fault.node < self.nodes:
                    place = f"Scenario.{name}[{number}].node = {fault.node}"
                    raise ConfigError(f"{place}: must be 0 to {self.nodes - 1}")
        if len(self.partitions) > FAULTS_MAX:
            raise ConfigError(f"Scenario.partitions: {FAULTS_MAX} at most")
        for number, partition in enumerate(self.partitions):
            place = f"Scenario.partitions[{number}]"
            if partition.parts > self.nodes:
                raise ConfigError(f"{place}.parts = {partition.parts}: must be at most {self.nodes}, a part a node")
            if any(not 0 <= node < self.nodes for side in partition.sides for node in side):
                raise ConfigError(f"{place}.sides = {partition.sides}: must be of nodes 0 to {self.nodes - 1}")
        if len(self.arrivals) != len({arrival.node for arrival in self.arrivals}):
            raise ConfigError("Scenario.arrivals: a node arrives once")
        self._check_lives()
        for name, spans in (("sleeps", self.sleeps), ("lags", self.lags), ("clogs", self.clogs)):
            _check_apart(name, [(span.node, span.from_s, span.to_s) for span in spans])

    def _check_lives(self) -> None:
        starts = self.starts_s()
        if any(crash.at_s <= starts[crash.node] for crash in self.crashes):
            raise ConfigError("Scenario.crashes: after the start of the node and its arrival")
        never_s = float("inf")
        lives = [(c.node, c.at_s, never_s if c.back_s is None else c.back_s) for c in self.crashes]
        _check_apart("crashes", lives)
        if self.churn is not None and self.crashes:
            raise ConfigError("Scenario.crashes: not together with churn, which draws its own")

    def starts_s(self) -> list[float]:
        """When each node starts."""
        starts = [0.0] * self.nodes
        for arrival in self.arrivals:
            starts[arrival.node] = arrival.at_s
        return starts

    def speed(self, index: int) -> float:
        """How fast this node's computer is at first."""
        return self.speeds[index] if index < len(self.speeds) else 1.0

    def rate_of(self, index: int) -> float:
        """The rate of a node."""
        return self.rates[index] if index < len(self.rates) else self.rate


def _check_apart(name: str, spans: list[tuple[int, float, float]]) -> None:
    """Spans of one node must not overlap: of two that do, the end of one would end the other."""
    ends: dict[int, float] = {}
    for node, from_s, to_s in sorted(spans):
        if from_s < ends.get(node, 0.0):
            raise ConfigError(f"Scenario.{name}: two of node {node} overlap")
        ends[node] = to_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One node's run, all its lives together: `done` and `model` (sealed, flat float32) are of the last one.

    `done` is None when it crashed and did not come back, or came back too late to find anybody.
    """

    name: str
    done: Done | None
    reports: tuple[RoundReport, ...]
    reported_s: tuple[float, ...]
    """When each of the reports was made."""
    warnings: tuple[WarningEvent, ...]
    model: Vector
    lives: int = 1
    """How often it started."""

    def warned(self, code: str) -> int:
        """How many warnings of that code the node gave."""
        return sum(warning.code == code for warning in self.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a simulated run gave."""

    scenario: Scenario
    seed: int
    outcomes: tuple[Outcome, ...]
    """By node."""
    trace_hash: str
    packets: int
    """Steps in the life of a packet: sent, lost, arrived and so on."""
    virtual_s: float
    stats: Statistics

    def survivors(self) -> tuple[Outcome, ...]:
        """Those that reached their own end."""
        return tuple(outcome for outcome in self.outcomes if outcome.done is not None)

    @property
    def model_hashes(self) -> tuple[str, ...]:
        """The survivors' models, without repetition, sorted: one when all agree."""
        return tuple(sorted({o.done.model_sha256 for o in self.outcomes if o.done is not None}))

    @property
    def chains(self) -> tuple[str, ...]:
        """The survivors' chains, without repetition, sorted."""
        return tuple(sorted({o.done.chain for o in self.outcomes if o.done is not None}))

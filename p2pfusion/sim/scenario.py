"""What happens in one simulated run, and what came of it: plain data, checked where it is made.

Node `i` (from 0) runs on host `i + 1`. Times are virtual seconds since the run began. This module starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pfusion.algorithms.base import RoundReport, Vector
from p2pfusion.config import CadenceConfig, GossipConfig, RunConfig
from p2pfusion.errors import ConfigError
from p2pfusion.node import Done, WarningEvent
from p2pfusion.sim.links import LinkModel

NODES_MAX = 256
"""More would take hours on one core; later issues may find room."""
FAULTS_MAX = 4096
"""Crashes, arrivals and cuts of one scenario, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run. Raises `ConfigError` for what cannot happen."""

    name: str = "latency"
    nodes: int = 16
    rounds: int = 50
    rate: float = 0.5
    link: LinkModel = field(default_factory=LinkModel)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    cadence: CadenceConfig = field(default_factory=lambda: CadenceConfig(round_min_s=0.0))
    """Simulated rounds follow each other without a least time between them."""
    run: RunConfig = field(default_factory=RunConfig)
    codec: str = "fp32"
    min_peers: int | None = None
    """None: everybody who is there from the start."""
    speeds: tuple[float, ...] = ()
    """Relative speed of each node's computer; 1.0 for those not listed."""
    crashes: tuple[tuple[float, int], ...] = ()
    """(when, node index): silent for ever from then on."""
    arrivals: tuple[tuple[float, int], ...] = ()
    """(when, node index) of those that come later than at the start."""
    cuts: tuple[tuple[float, float, int], ...] = ()
    """(from, to, k): the first k nodes and the others do not hear each other between these moments."""
    until_s: float = 3600.0
    """A run that has not ended by then is a failure."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= NODES_MAX:
            raise ConfigError(f"Scenario.nodes = {self.nodes}: must be 1 to {NODES_MAX}")
        if self.rounds < 1 or not 0 < self.rate <= 1:
            raise ConfigError(
                f"Scenario: rounds = {self.rounds} and rate = {self.rate}: must be 1 or more, and in (0, 1]"
            )
        if len(self.speeds) > self.nodes or any(not speed > 0 for speed in self.speeds):
            raise ConfigError("Scenario.speeds: one positive number a node at most")
        for name in ("crashes", "arrivals", "cuts"):
            if len(getattr(self, name)) > FAULTS_MAX:
                raise ConfigError(f"Scenario.{name}: {FAULTS_MAX} at most")
        self._check_faults()

    def _check_faults(self) -> None:
        starts = self.starts_s()
        if len(self.arrivals) != len({index for _, index in self.arrivals}):
            raise ConfigError("Scenario.arrivals: a node arrives once")
        if any(not (0 <= index < self.nodes and at_s > starts[index]) for at_s, index in self.crashes):
            raise ConfigError("Scenario.crashes: of nodes below `nodes`, after the start and their arrival")
        if any(not (0 <= from_s < to_s and 1 <= size < self.nodes) for from_s, to_s, size in self.cuts):
            raise ConfigError("Scenario.cuts: (from, to, k) with 0 <= from < to and 1 <= k < nodes")

    def starts_s(self) -> list[float]:
        """When each node starts."""
        starts = [0.0] * self.nodes
        for at_s, index in self.arrivals:
            if not (0 <= index < self.nodes and at_s >= 0):
                raise ConfigError("Scenario.arrivals: nodes below `nodes`, at a moment from 0 on")
            starts[index] = at_s
        return starts

    def speed(self, index: int) -> float:
        """How fast this node's computer is."""
        return self.speeds[index] if index < len(self.speeds) else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One node's run: `done` is None when it crashed. `model` is its sealed model, flat float32."""

    name: str
    done: Done | None
    reports: tuple[RoundReport, ...]
    reported_s: tuple[float, ...]
    """When each of the reports was made."""
    warnings: tuple[WarningEvent, ...]
    model: Vector

    def warned(self, code: str) -> int:
        """How many warnings of that code the node gave."""
        return sum(warning.code == code for warning in self.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a simulated run gave."""

    scenario: Scenario
    seed: int
    outcomes: tuple[Outcome, ...]
    trace_hash: str
    packets: int
    """Steps in the life of a packet: sent, lost, arrived and so on."""
    virtual_s: float

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

"""What can go wrong in a simulated run: plain data, checked where it is made.

A scenario names its faults; `sim.timeline` makes of them, and of a seed, the moments at which something happens. Nodes
are numbered from 0, times are virtual seconds since the run began. This module starts nothing and draws nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from p2pfusion.errors import ConfigError

Kind = Literal["crash", "restart", "cut", "heal", "clog", "unclog", "sleep", "wake", "stall", "resume", "speed"]


def _check(condition: bool, fault: object, name: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{type(fault).__name__}.{name} = {getattr(fault, name)!r}: must be {expected}")


def _check_span(fault: Partition | Clog | Sleep | Lag | Churn) -> None:
    _check(fault.from_s >= 0, fault, "from_s", "0 or above")
    _check(fault.to_s > fault.from_s, fault, "to_s", "above from_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A node that comes later than at the start."""

    node: int
    at_s: float

    def __post_init__(self) -> None:
        _check(self.at_s >= 0, self, "at_s", "0 or above")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A node falls silent without a word; at `back_s`, if given, it starts again, with its disk or a new one."""

    node: int
    at_s: float
    back_s: float | None = None
    disk: bool = True

    def __post_init__(self) -> None:
        _check(self.at_s >= 0, self, "at_s", "0 or above")
        _check(self.back_s is None or self.back_s > self.at_s, self, "back_s", "above at_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Nodes of different sides do not hear each other; who is on no side hears and is heard by all.

    `parts` instead of `sides` cuts all nodes into that many runs of about equal length. `one_way`: of two sides, what
    the first sends does not reach the second; the other direction passes. `hold`: packets wait at the wall and arrive
    after the heal instead of being lost.
    """

    from_s: float
    to_s: float
    sides: tuple[tuple[int, ...], ...] = ()
    parts: int = 0
    one_way: bool = False
    hold: bool = False

    def __post_init__(self) -> None:
        _check_span(self)
        listed = [node for side in self.sides for node in side]
        _check(len(listed) == len(frozenset(listed)), self, "sides", "lists of nodes, none twice")
        _check(all(self.sides), self, "sides", "lists of nodes, none empty")
        _check(not (self.parts and self.sides), self, "parts", "left out where sides are given")
        _check(self.parts >= 2 or len(self.sides) >= 2, self, "parts", "2 or more, or two sides named")
        count = self.parts or len(self.sides)
        _check(not self.one_way or count == 2, self, "one_way", "false unless there are two sides")

    def side_of(self, node: int, nodes: int) -> int | None:
        """Which side a node of `nodes` is on."""
        if self.parts:
            return node * self.parts // nodes
        return next((number for number, side in enumerate(self.sides) if node in side), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clog:
    """What a node sends or is sent passes only up to this many bytes of body, as on a link that loses long bursts."""

    node: int
    from_s: float
    to_s: float
    bytes_max: int = 1024

    def __post_init__(self) -> None:
        _check_span(self)
        _check(self.bytes_max >= 0, self, "bytes_max", "0 or above")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """A closed lid: the node's tasks, timers and computing stand still, what is sent to it is lost; then it runs on."""

    node: int
    from_s: float
    to_s: float

    def __post_init__(self) -> None:
        _check_span(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """A slow observer: every `every_s` its loop stands still for `stall_s`; what is sent to it waits and arrives."""

    node: int
    from_s: float
    to_s: float
    stall_s: float = 2.0
    every_s: float = 5.0

    def __post_init__(self) -> None:
        _check_span(self)
        _check(self.stall_s > 0, self, "stall_s", "above 0")
        _check(self.every_s > self.stall_s, self, "every_s", "above stall_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedChange:
    """From then on the node's computer is this fast; work under way ends at the old speed."""

    node: int
    at_s: float
    speed: float

    def __post_init__(self) -> None:
        _check(self.at_s >= 0, self, "at_s", "0 or above")
        _check(self.speed > 0, self, "speed", "above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """Nodes crash and return by chance, between `from_s` and `to_s`; whoever is away then is back at `to_s`.

    Either every `period_s` each node crashes with probability `share`, at a moment of that period drawn evenly, or
    lifetimes are exponential with half-life `half_life_s` (infinite: nobody crashes). It returns after a time drawn
    from an exponential with mean `away_s`; with its disk with probability `disk_share`, else as a new peer at its
    address.
    """

    from_s: float
    to_s: float
    away_s: float
    disk_share: float = 0.5
    period_s: float | None = None
    share: float = 0.3
    half_life_s: float | None = None

    def __post_init__(self) -> None:
        _check_span(self)
        _check(self.away_s > 0 and math.isfinite(self.away_s), self, "away_s", "above 0")
        _check(math.isfinite(self.to_s), self, "to_s", "finite")
        _check(0 <= self.disk_share <= 1, self, "disk_share", "0 to 1")
        _check(0 <= self.share <= 1, self, "share", "0 to 1")
        _check(
            (self.period_s is None) != (self.half_life_s is None), self, "period_s", "given, or half_life_s, not both"
        )
        _check(self.period_s is None or self.period_s > 0, self, "period_s", "above 0")
        _check(self.half_life_s is None or self.half_life_s > 0, self, "half_life_s", "above 0")


@dataclass(frozen=True, slots=True)
class Fault:
    """One moment of a timeline.

    `index` is the node, for `cut` and `heal` the partition's place in the scenario. `value`: for `speed` how fast, for
    `clog` the largest body that passes, for `restart` 1 with its disk and 0 without.
    """

    at_s: float
    kind: Kind
    index: int
    value: float = 0.0

"""From a scenario and a seed to the moments at which something happens: one list, the same in every process.

What a scenario leaves to chance (`Churn`) is drawn here, from the seed alone and before the run begins. So the timeline
is a pure function: it can be printed, written into a trace and replayed. This module starts nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from blake3 import blake3

from p2pfusion.errors import ConfigError
from p2pfusion.sim.faults import Churn, Fault, Lag
from p2pfusion.sim.scenario import Scenario

TIMELINE_MAX = 1 << 17
"""Moments of one run: 64 nodes that crash and return every round for 1,000 rounds. A churn beyond is refused."""


def timeline(scenario: Scenario, seed: int) -> tuple[Fault, ...]:
    """Every fault of a run in the order in which it happens; those of one moment as the scenario lists them.

    Raises `ConfigError` when the scenario's churn gives more than `TIMELINE_MAX`.
    """
    faults: list[Fault] = []
    for fault in _planned(scenario):
        faults.append(fault)
        if len(faults) > TIMELINE_MAX:
            raise ConfigError(f"Scenario: more than {TIMELINE_MAX} faults; a shorter churn or a longer period")
    if scenario.churn is not None:
        for node, start_s in enumerate(scenario.starts_s()):
            faults += _churned(scenario.churn, node, start_s, seed)
            if len(faults) > TIMELINE_MAX:
                raise ConfigError(f"Scenario.churn: more than {TIMELINE_MAX} faults; make it shorter or rarer")
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _planned(scenario: Scenario) -> Iterator[Fault]:
    """What the scenario says outright."""
    for crash in scenario.crashes:
        yield Fault(crash.at_s, "crash", crash.node)
        if crash.back_s is not None:
            yield Fault(crash.back_s, "restart", crash.node, float(crash.disk))
    for index, partition in enumerate(scenario.partitions):
        yield Fault(partition.from_s, "cut", index)
        yield Fault(partition.to_s, "heal", index)
    for clog in scenario.clogs:
        yield Fault(clog.from_s, "clog", clog.node, clog.bytes_max)
        yield Fault(clog.to_s, "unclog", clog.node)
    for sleep in scenario.sleeps:
        yield Fault(sleep.from_s, "sleep", sleep.node)
        yield Fault(sleep.to_s, "wake", sleep.node)
    for change in scenario.speed_changes:
        yield Fault(change.at_s, "speed", change.node, change.speed)
    for lag in scenario.lags:
        yield from _stalls(lag)


def _stalls(lag: Lag) -> Iterator[Fault]:
    at_s, count = lag.from_s, 0
    while at_s < lag.to_s:
        yield Fault(at_s, "stall", lag.node)
        yield Fault(min(at_s + lag.stall_s, lag.to_s), "resume", lag.node)
        count += 1
        at_s = lag.from_s + count * lag.every_s


def _churned(churn: Churn, node: int, start_s: float, seed: int) -> list[Fault]:
    """One node's crashes and returns, from chance of its own, so that another node more changes nobody's."""
    rng = random.Random(blake3(f"{seed} churn {node}".encode()).digest())
    faults: list[Fault] = []
    back_s = max(churn.from_s, start_s)
    for at_s in _moments(churn, rng):
        away_s, chance = rng.expovariate(1 / churn.away_s), rng.random()
        if at_s <= back_s:
            continue  # not there, or still away
        back_s = min(at_s + away_s, churn.to_s)
        faults.append(Fault(at_s, "crash", node))
        faults.append(Fault(back_s, "restart", node, float(chance < churn.disk_share)))
        if len(faults) > TIMELINE_MAX:
            break
    return faults


def _moments(churn: Churn, rng: random.Random) -> Iterator[float]:
    """When a node would crash if it were there."""
    if churn.period_s is not None:
        begin_s, count = churn.from_s, 0
        while begin_s < churn.to_s:
            chance, moment_s = rng.random(), begin_s + rng.random() * churn.period_s
            if chance < churn.share and moment_s < churn.to_s:
                yield moment_s
            count += 1
            begin_s = churn.from_s + count * churn.period_s
    elif churn.half_life_s is not None and math.isfinite(churn.half_life_s):
        at_s = churn.from_s
        while (at_s := at_s + rng.expovariate(math.log(2) / churn.half_life_s)) < churn.to_s:
            yield at_s

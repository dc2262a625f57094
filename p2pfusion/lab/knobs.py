"""What can be turned in a simulated run: the one table through which every option of `simulate` reaches a scenario.

A knob has a name (that of the option), says how it changes a run, and writes its values as a person does. A run is an
`Order`: everything it depends on and nothing else, so that equal orders give equal histories. This module starts
nothing and knows no command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from p2pfusion.config import ALGORITHM_DEFAULT, COMMON_RATE_DEFAULT
from p2pfusion.errors import UsageError
from p2pfusion.sim.scenario import Learns, Scenario

Value = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run: the scenario, who learns what, and the seed of everything that is chance."""

    scenario: Scenario
    seed: int = 0
    task: str = "digits"
    """What is learnt where the scenario does not learn `light`; looked up by whoever does the run."""
    algorithm: str = ALGORITHM_DEFAULT
    common: float = COMMON_RATE_DEFAULT
    """The width that every node can train."""
    momentum: float = 0.0
    """How much of its last movement the model repeats."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """What was varied, by name of the knob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """`turn(order, value)` raises `UsageError` or `ConfigError` for what this scenario cannot do."""

    label: str
    turn: Callable[[Order, Value], Order]
    text: Callable[[Value], str] = str
    """A value as the command line takes it: what it parses to is the value again."""


def order_of(scenario: Scenario) -> Order:
    """The order that a scenario alone is."""
    return Order(scenario=scenario, seed=scenario.run.seed, task="light" if scenario.learns == "light" else "digits")


def duration_text(value: Value) -> str:
    """`20ms`, `30s`, `inf`."""
    seconds = float(value)
    return f"{seconds * 1000:.10g}ms" if 0 < seconds < 1 else f"{seconds:.10g}s" if math.isfinite(seconds) else "inf"


def share_text(value: Value) -> str:
    """`5%`."""
    return f"{float(value) * 100:.10g}%"


def _bandwidth_text(value: Value) -> str:
    return f"{float(value) / 1e6:.10g}MB/s"


def _turn_rate(order: Order, value: Value) -> Order:
    """Of every node: rates of their own that the scenario gives them are left out."""
    return replace(order, scenario=replace(order.scenario, rate=float(value), rates=()))


def _link_knob(name: str) -> Callable[[Order, Value], Order]:
    def turn(order: Order, value: Value) -> Order:
        change: dict[str, Any] = {name: float(value)}
        link = replace(order.scenario.link, **change)
        return replace(order, scenario=replace(order.scenario, link=link))

    return turn


def _turn_nodes(order: Order, value: Value) -> Order:
    """Speeds and rates that the scenario gives to nodes there are not any more are left out."""
    nodes, before = int(value), order.scenario
    left = replace(before, nodes=nodes, speeds=before.speeds[:nodes], rates=before.rates[:nodes])
    return replace(order, scenario=left)


def _turn_rounds(order: Order, value: Value) -> Order:
    """A churn's end and partitions move with the number of rounds: the same share of the run is calm at its end."""
    scenario, rounds = order.scenario, int(value)
    churn, partitions, part = scenario.churn, scenario.partitions, rounds / scenario.rounds
    if rounds > 0:
        partitions = tuple(replace(one, from_s=one.from_s * part, to_s=one.to_s * part) for one in partitions)
    if churn is not None and rounds > 0:
        churn = replace(churn, to_s=max(churn.to_s * part, math.nextafter(churn.from_s, math.inf)))
    return replace(order, scenario=replace(scenario, rounds=rounds, churn=churn, partitions=partitions))


def _turn_half_life(order: Order, value: Value) -> Order:
    churn = order.scenario.churn
    if churn is None:
        raise UsageError(f"--half-life needs a scenario with churn: {order.scenario.name} has no table [churn]")
    half_life_s = float(value)
    changed = replace(churn, period_s=None, half_life_s=half_life_s) if math.isfinite(half_life_s) else None
    return replace(order, scenario=replace(order.scenario, churn=changed))


def _turn_slow(order: Order, value: Value) -> Order:
    """The first node takes so many times as long as the others."""
    others = order.scenario.speeds[1:]
    return replace(order, scenario=replace(order.scenario, speeds=(1 / float(value), *others)))


def _turn_apart(order: Order, value: Value) -> Order:
    """How long every partition lasts; 0: there is none."""
    if not order.scenario.partitions:
        raise UsageError(f"--apart needs a scenario with partitions: {order.scenario.name} has no [[partitions]]")
    lasting_s = float(value)
    changed = tuple(replace(one, to_s=one.from_s + lasting_s) for one in order.scenario.partitions if lasting_s)
    return replace(order, scenario=replace(order.scenario, partitions=changed))


def _turn_task(order: Order, value: Value) -> Order:
    learns: Learns = "light" if value == "light" else "task"
    return replace(order, task=str(value), scenario=replace(order.scenario, learns=learns))


def _turn_algorithm(order: Order, value: Value) -> Order:
    """Comes after the task: the light learner has no algorithm that could be chosen.

    Its rounds are ready when its row recommends, unless the scenario says when.
    """
    from p2pfusion.algorithms.presets import cadence_of  # brings torch, which a light run does without

    name, scenario, usual = str(value), order.scenario, Scenario().cadence
    recommended = replace(cadence_of(name), round_min_s=usual.round_min_s)
    _check_trains(order, "--algorithm")
    if scenario.cadence == usual:
        scenario = replace(scenario, cadence=recommended)
    return replace(order, algorithm=name, scenario=scenario)


def _turn_common(order: Order, value: Value) -> Order:
    _check_trains(order, "--common")
    return replace(order, common=float(value))


def _turn_momentum(order: Order, value: Value) -> Order:
    _check_trains(order, "--outer-momentum")
    return replace(order, momentum=float(value))


def _check_trains(order: Order, option: str) -> None:
    if order.scenario.learns == "light":
        raise UsageError(f"{option} goes with real training only: leave it out, or give --task digits")


def _turn_seed(order: Order, value: Value) -> Order:
    """The first seed of chance, and the run's own, which gives the model its start and splits the data."""
    run = replace(order.scenario.run, seed=int(value))
    return replace(order, seed=int(value), scenario=replace(order.scenario, run=run))


KNOBS: Mapping[str, Knob] = MappingProxyType(
    {
        "nodes": Knob(label="nodes", turn=_turn_nodes),
        "rounds": Knob(label="rounds", turn=_turn_rounds),
        "rate": Knob(label="slice", turn=_turn_rate, text=share_text),
        "task": Knob(label="task", turn=_turn_task),
        "algorithm": Knob(label="algorithm", turn=_turn_algorithm),
        "common": Knob(label="common width", turn=_turn_common, text=share_text),
        "momentum": Knob(label="outer momentum", turn=_turn_momentum, text=share_text),
        "loss": Knob(label="messages lost", turn=_link_knob("loss"), text=share_text),
        "latency": Knob(label="one-way latency", turn=_link_knob("latency_s"), text=duration_text),
        "bandwidth": Knob(label="bandwidth", turn=_link_knob("bandwidth_bytes_per_s"), text=_bandwidth_text),
        "half_life": Knob(label="half-life", turn=_turn_half_life, text=duration_text),
        "slow": Knob(label="slow factor", turn=_turn_slow, text=lambda value: f"{float(value):.10g}"),
        "apart": Knob(label="time apart", turn=_turn_apart, text=duration_text),
        "seed": Knob(label="seed", turn=_turn_seed),
    }
)
"""In the order in which they are turned and shown: rounds move the faults that `half_life` and `apart` then shape."""

"""How a run went on: from traces to curves over virtual time, for each side of a partition or for everybody.

A curve is the mean over nodes and seeds of what each measured last, with the least and the greatest. It draws nothing.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from p2pfusion.lab.knobs import KNOBS, Order
from p2pfusion.lab.sweeps import setting_texts
from p2pfusion.lab.traces import order_from

MOMENTS = 120
"""Points of a curve: finer than a line on paper shows."""
SIDES_MAX = 4
"""Curves of one partition; the nodes of further sides are left out of the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A stretch of time to be shaded."""

    from_s: float
    to_s: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One group of nodes over time; the four lists are equally long, times in virtual seconds."""

    label: str
    is_accuracy: bool
    """Else training losses, of a learner that measures no accuracy."""
    times_s: Sequence[float]
    means: Sequence[float]
    least: Sequence[float]
    greatest: Sequence[float]
    spells: Sequence[Spell] = ()


Measured = list[tuple[float, float]]
"""One node of one run: moments and values."""


def curves(traces: Iterable[str]) -> list[Curve]:
    """The curves of all these traces: a group for each setting and each side. Raises `ConfigError` for other text."""
    groups: dict[str, list[Measured]] = {}
    losses: dict[str, list[Measured]] = {}
    spells: tuple[Spell, ...] = ()
    for trace in traces:
        lines = trace.splitlines()
        order = order_from(lines[0])
        spells = spells or _spells(order)
        labels = _labels(order)
        accuracy, loss = _measured(lines[1:], order.scenario.nodes)
        for node, label in enumerate(labels):
            if label is not None:
                groups.setdefault(label, []).append(accuracy[node])
                losses.setdefault(label, []).append(loss[node])
    is_accuracy = any(measured for nodes in groups.values() for measured in nodes)
    chosen = groups if is_accuracy else losses
    return [_curve(label, nodes, spells, is_accuracy) for label, nodes in chosen.items()]


def _spells(order: Order) -> tuple[Spell, ...]:
    return tuple(Spell(from_s=one.from_s, to_s=one.to_s, label="apart") for one in order.scenario.partitions)


def _labels(order: Order) -> list[str | None]:
    """For each node what its curve is called: its side in the first partition, and what was varied."""
    scenario, texts = order.scenario, setting_texts(order.settings)
    varied = ", ".join(f"{KNOBS[name].label} {text}" for name, text in texts.items())
    if not scenario.partitions:
        return [varied or "all nodes"] * scenario.nodes
    sides = [scenario.partitions[0].side_of(node, scenario.nodes) for node in range(scenario.nodes)]
    return [_side_label(side, sides.count(side), varied) for side in sides]


def _side_label(side: int | None, count: int, varied: str) -> str | None:
    if side is None or side >= SIDES_MAX:
        return None
    name = f"side {chr(ord('A') + side)} ({count} node{'s' if count > 1 else ''})"
    return f"{name}, {varied}" if varied else name


def _measured(lines: Sequence[str], nodes: int) -> tuple[list[Measured], list[Measured]]:
    """Accuracies and losses by node, in the order of time."""
    accuracy: list[Measured] = [[] for _ in range(nodes)]
    loss: list[Measured] = [[] for _ in range(nodes)]
    for line in lines:
        event = json.loads(line)
        if event["event"] == "round":
            node = int(event["name"].rpartition("-")[2])
            if event["accuracy"] is not None:
                accuracy[node].append((event["at_s"], event["accuracy"]))
            if event["loss"] is not None:
                loss[node].append((event["at_s"], event["loss"]))
    return accuracy, loss


def _curve(label: str, nodes: Sequence[Measured], spells: Sequence[Spell], is_accuracy: bool) -> Curve:
    known = [measured for measured in nodes if measured]
    end_s = max((measured[-1][0] for measured in known), default=0.0)
    moments = [end_s * step / MOMENTS for step in range(MOMENTS + 1)]
    rows = [(at_s, values) for at_s in moments if (values := [v for m in known if (v := _latest(m, at_s)) is not None])]
    return Curve(
        label=label,
        is_accuracy=is_accuracy,
        times_s=[at_s for at_s, _ in rows],
        means=[fmean(values) for _, values in rows],
        least=[min(values) for _, values in rows],
        greatest=[max(values) for _, values in rows],
        spells=spells,
    )


def _latest(measured: Measured, at_s: float) -> float | None:
    """What was measured last at that moment; None before the first."""
    place = bisect.bisect_right(measured, at_s, key=lambda item: item[0])
    return measured[place - 1][1] if place else None

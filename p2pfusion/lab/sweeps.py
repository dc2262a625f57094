"""Sweeps: lists of values become runs, and what the runs gave becomes rows. Pure: nothing is run, read or written here.

Every combination of the values is run under every seed. Rows of one combination are put together as mean, least and
greatest over the seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from p2pfusion.errors import UsageError
from p2pfusion.lab.knobs import KNOBS, Order, Value
from p2pfusion.lab.results import Simulated

RUNS_MAX = 10_000
"""Of one sweep: at ten seconds a run, a day of one core. More is a typing mistake as a rule."""

Chosen = Mapping[str, Sequence[Value]]
"""Name of a knob -> the values it is given: one is set, several are swept."""


def expand(base: Order, chosen: Chosen, seeds: int) -> tuple[Order, ...]:
    """Every combination under `seeds` seeds from the order's on; the last knob varies fastest, then the seed.

    Raises `UsageError` for too many runs, values given twice or what a scenario cannot do, `ConfigError` for numbers
    out of range.
    """
    axes = [(name, tuple(chosen[name])) for name in KNOBS if name in chosen]
    count = math.prod(len(values) for _, values in axes) * seeds
    if count > RUNS_MAX:
        sizes = " x ".join([*(f"{len(values)} {KNOBS[name].label}" for name, values in axes if len(values) > 1)])
        raise UsageError(
            f"{sizes + ' x ' if sizes else ''}{seeds} seeds = {count} runs: {RUNS_MAX} at most; "
            "take fewer values or seeds"
        )
    for name, values in axes:
        if len(frozenset(values)) < len(values):
            texts = ", ".join(map(KNOBS[name].text, values))
            raise UsageError(f"{KNOBS[name].label}: a value is given twice in {texts}")
    orders = []
    for point in itertools.product(*(values for _, values in axes)):
        order = base
        for (name, values), value in zip(axes, point, strict=True):
            order = KNOBS[name].turn(order, value)
            if len(values) > 1:
                order = replace(order, settings={**order.settings, name: value})
        orders += [replace(order, seed=order.seed + number) for number in range(seeds)]
    return tuple(orders)


def swept(chosen: Chosen) -> tuple[str, ...]:
    """The knobs that vary, in the order of the columns."""
    return tuple(name for name in KNOBS if len(chosen.get(name, ())) > 1)


def setting_texts(settings: Mapping[str, Value]) -> dict[str, str]:
    """Values as a person writes them, by name of the knob."""
    return {name: KNOBS[name].text(value) for name, value in settings.items()}


@dataclass(frozen=True, slots=True)
class Spread:
    """One column over the seeds of one point."""

    mean: float
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Point:
    """The runs of one combination of values."""

    settings: Mapping[str, Value]
    runs: tuple[Simulated, ...]

    def spread(self, column: str) -> Spread | None:
        """Mean, least and greatest over the runs that have a number there; None if none has."""
        values = [float(value) for run in self.runs if (value := getattr(run, column)) is not None]
        return Spread(fmean(values), min(values), max(values)) if values else None

    @property
    def is_good(self) -> bool:
        """Whether every run agreed and none broke an invariant."""
        return all(run.is_good for run in self.runs)


def points(rows: Iterable[Simulated]) -> tuple[Point, ...]:
    """The rows put together by their settings, in the order in which these appear first."""
    found: dict[tuple[tuple[str, Value], ...], list[Simulated]] = {}
    for row in rows:
        found.setdefault(tuple(row.settings.items()), []).append(row)
    return tuple(Point(dict(settings), tuple(runs)) for settings, runs in found.items())

"""Small arithmetic of the benches: medians, quartiles, ratios. It knows no system and no file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Row = Mapping[str, Any]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of `count` values."""

    median: float
    low: float
    high: float
    count: int

    @property
    def iqr(self) -> float:
        """Distance of the quartiles."""
        return self.high - self.low


def spread(values: Iterable[float]) -> Spread:
    """Of one or more values; quartiles are interpolated. Raises `ValueError` for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values: nothing to summarise")
    if len(ordered) == 1:
        return Spread(ordered[0], ordered[0], ordered[0], 1)
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, low, high, len(ordered))


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by key, both in the order of their first appearance."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def ratio(rows: Sequence[Row], reference: Sequence[Row], name: str, turn: str = "repeat") -> float | None:
    """Median over the turns of row / reference, each pair measured in the same turn; None without a common one.

    Pairs cancel what the machine was doing at that moment, which two medians do not.
    """
    references = {row[turn]: float(row[name]) for row in reference}
    pairs = [float(row[name]) / references[row[turn]] for row in rows if references.get(row[turn])]
    return statistics.median(pairs) if pairs else None

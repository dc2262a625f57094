"""Figures as text: Markdown tables, numbers of three digits, and what is short of a goal. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MISSING = "-"
LIST_SHOWN_MAX = 8
"""Values of a list in one cell; a longer one is only counted."""


def number(value: object) -> str:
    """Three significant digits, thousands apart; what is no number as it is; None and NaN as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e7:
        return f"{value:.1e}"
    value = float(f"{value:.2e}")  # 9.999 is 10.0, not 10.00
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a pipe inside a cell is written so that it stays there. Raises `ValueError` for a row of
    another length."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} headings")
        lines.append("| " + " | ".join(number(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def flat(value: object, name: str = "") -> dict[str, object]:
    """Nested mappings as one, names joined with dots; a list becomes one cell, or is named by its first column."""
    if isinstance(value, Mapping):
        found: dict[str, object] = {}
        for key, inner in value.items():
            found |= flat(inner, f"{name}.{key}" if name else str(key))
        return found
    if isinstance(value, list):
        if is_table(value):
            return flat({str(next(iter(row.values()))): row for row in value}, name)
        if any(isinstance(one, Mapping | list) for one in value) or len(value) > LIST_SHOWN_MAX:
            return {name: f"{len(value)} values"}
        return {name: ", ".join(number(one) for one in value) or MISSING}
    return {name: value}


def is_table(value: object) -> bool:
    """Whether it is a list of mappings: the rows of a table."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) and row for row in value)


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Such a list as a table, a column per name in the order of first appearance."""
    names = list(dict.fromkeys(name for row in map(flat, rows) for name in row))
    return table(names, [[flat(row).get(name) for name in names] for row in rows])


def pick(value: object, path: str) -> float | None:
    """The number at a dotted path; None where there is none."""
    found = flat(value).get(path)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def scrubbed(value: Any, folder: str) -> Any:
    """The same without this machine's path to the checkout, in keys too."""
    if isinstance(value, str):
        return value.replace(folder, "this tree")
    if isinstance(value, Mapping):
        return {scrubbed(key, folder): scrubbed(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [scrubbed(one, folder) for one in value]
    return value


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: `path` is dotted, in the first line that a bench prints."""

    text: str
    path: str
    kind: Literal["at least", "at most"]
    bound: float

    def said(self) -> str:
        return f"{self.kind} {number(self.bound)}"

    def short_by(self, measured: float | None) -> str:
        """`reached`, how far from it in per cent of the bound, or that it was not measured."""
        return short_by(measured, self.kind, self.bound)


def short_by(measured: float | None, kind: str, bound: float) -> str:
    """See `Goal.short_by`."""
    if measured is None or math.isnan(measured):
        return "not measured"
    missing = bound - measured if kind == "at least" else measured - bound
    if missing <= 0:
        return "reached"
    return f"short by {number(100 * missing / bound)} %" if bound else f"short by {number(missing)}"

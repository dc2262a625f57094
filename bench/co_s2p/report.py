"""Tables of results in docs/co_s2p.md, between markers that name them; never written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from math import exp
from pathlib import Path
from statistics import fmean

from bench.co_s2p.cells import TABLES, Cell
from bench.pages import fill
from bench.schemes.run import Line

PAGE = Path(__file__).resolve().parents[2] / "docs" / "co_s2p.md"
HEAD = ("row", "exit 1", "exit 2", "exit 3", "exit 4", "memory, MB", "largest, MB", "round, s", "utilisation", "seeds")


def write(lines: Sequence[Line]) -> None:
    """All tables into the page."""
    fill(PAGE, TABLES, lambda name: table(name, lines))


def table(name: str, lines: Sequence[Line]) -> list[str]:
    """Markdown: a row for each cell that was run; the mean over seeds, and the spread where it matters; the command."""
    rows = [
        row(cell, mine)
        for cell in TABLES[name]
        if (mine := [line for line in lines if all(line[one.name] == getattr(cell, one.name) for one in fields(cell))])
    ]
    if not rows:
        return ["Not run yet.", "", f"    python -m bench.co_s2p {name}"]
    return [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)] + [
        "",
        f"    python -m bench.co_s2p {name}",
    ]


def row(cell: Cell, lines: Sequence[Line]) -> list[str]:
    """Accuracy in percent of each exit, of text perplexity."""
    exits = [
        spread([exp(line["losses"][name]) if cell.alpha is None else 100 * line["widths"][name] for line in lines])
        for name in lines[0]["widths"]
    ]
    title = cell.row if cell.slow == 1 else f"{cell.row}, one {cell.slow:g}x slower"
    return [
        title,
        *exits,
        f"{mean(lines, 'memory_mb'):.2f} ({mean(lines, 'memory_first_mb'):.2f} at first)",
        f"{mean(lines, 'memory_max_mb'):.2f}",
        f"{mean(lines, 'round_s'):.2f}",
        f"{100 * mean(lines, 'utilisation'):.0f} %",
        str(len(lines)),
    ]


def spread(values: Sequence[float]) -> str:
    """The mean, and the range of several."""
    around = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{around}"


def mean(lines: Sequence[Line], name: str) -> float:
    return fmean(line[name] for line in lines)

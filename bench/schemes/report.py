"""Tables of results in docs/schemes.md, between markers that name them; never written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.pages import fill
from bench.schemes.cells import TABLES, Cell

PAGE = Path(__file__).resolve().parents[2] / "docs" / "schemes.md"
Line = dict[str, Any]
WHOLE = ("full", "dpsgd", "alone", "centralised")
"""Rows whose nodes train the whole model, whatever the table's rate."""

ALONE = ("alone", "centralised")
"""Rows with one node, which has nobody to average with."""
WORDS = {"lr_factor": "learning rate", "outer_momentum": "momentum"}


def write(lines: Sequence[Line]) -> None:
    """All tables into the page."""
    fill(PAGE, TABLES, lambda name: table(name, lines))


def table(name: str, lines: Sequence[Line]) -> list[str]:
    """Markdown: a row for each cell that was run, best first; and the command."""
    cells = TABLES[name]
    found = [(cell, mine) for cell in cells if (mine := [line for line in lines if _is_of(line, cell)])]
    command = f"    python -m bench.schemes {name}"
    if not found:
        return ["Not run yet.", "", command]
    is_text = cells[0].alpha is None
    found.sort(key=lambda item: (-(item[0].rate or 0), item[0].nodes, _mean(item[1], "loss" if is_text else "accuracy")
                                 * (1 if is_text else -1)))  # fmt: skip
    varies = [
        name
        for name in ("nodes", "rounds", "lr_factor", "outer_momentum")
        if len({getattr(cell, name) for cell, _ in found}) > 1
    ]
    names = [WORDS.get(name, name) for name in varies]
    head = ["scheme", "rate", *names, "perplexity" if is_text else "accuracy", "served", "all widths",
            "GFLOP per node and round", "values sent per node and round", "seeds"]  # fmt: skip
    rows = [_row(cell, mine, head, is_text=is_text) for cell, mine in found]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + ["", command]


def _row(cell: Cell, lines: Sequence[Line], head: Sequence[str], *, is_text: bool) -> list[str]:
    values = [exp(line["loss"]) if is_text else 100 * line["accuracy"] for line in lines]
    widths = lines[0]["widths"]
    each = ", ".join(
        f"{name} {exp(fmean(line['losses'][name] for line in lines)):.2f}"
        if is_text
        else f"{name} {100 * fmean(line['widths'][name] for line in lines):.1f}"
        for name in widths
    )
    by_name = {
        "scheme": f"{cell.row}, uncalibrated" if cell.calibrate is False and not is_text else cell.row,
        "rate": "1" if cell.row in WHOLE else "mixed" if cell.rate is None else f"{cell.rate:g}",
        "nodes": str(cell.nodes),
        "rounds": str(cell.rounds),
        "learning rate": f"x {cell.lr_factor:g}",
        "momentum": "" if cell.row in ALONE else f"{cell.outer_momentum:g}",
        "served": "/".join(sorted({line["served"] for line in lines})),
        "all widths": each if len(widths) > 1 else "",
        "GFLOP per node and round": f"{_mean(lines, 'flops_per_node') / 1e9:.2f}",
        "values sent per node and round": f"{_mean(lines, 'sent_per_node'):,.0f}",
        "seeds": str(len(lines)),
    }
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    score = f"{fmean(values):.2f}{spread}"
    return [by_name.get(name, score) for name in head]


def _mean(lines: Sequence[Line], name: str) -> float:
    return fmean(line[name] for line in lines)


def _is_of(line: Line, cell: Cell) -> bool:
    return all(line[name] == getattr(cell, name) for name in Cell.__dataclass_fields__)

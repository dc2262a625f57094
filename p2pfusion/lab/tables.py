"""The table of a sweep as texts: a row for each combination of values, mean and range over the seeds.

Which columns a scenario shows is data. How a table is drawn is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pfusion.lab.knobs import KNOBS
from p2pfusion.lab.results import Simulated
from p2pfusion.lab.sweeps import Point, points, setting_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A column of the table: its heading, the column of the results, how a number is written.

    `is_count`: a count of mishaps, left out where nothing of that sort happened; the others show their range.
    """

    heading: str
    column: str
    text: Callable[[float], str]
    is_count: bool = False


def _percent(value: float) -> str:
    return f"{value * 100:.1f}"


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


CELLS = (
    Cell(heading="accuracy %", column="accuracy", text=_percent),
    Cell(heading="training loss", column="training_loss", text=_plain),
    Cell(heading="s/round", column="round_median_s", text=_plain),
    Cell(heading="s/round slow", column="slow_round_median_s", text=_plain),
    Cell(heading="kept %", column="kept_share", text=_percent),
    Cell(heading="crashes", column="crashes", text=_plain, is_count=True),
    Cell(heading="forks", column="forks", text=_plain, is_count=True),
    Cell(heading="grafts", column="grafts", text=_plain, is_count=True),
    Cell(heading="too late", column="too_late", text=_plain, is_count=True),
    Cell(heading="orphans", column="orphans", text=_plain, is_count=True),
    Cell(heading="lost", column="lost", text=_plain, is_count=True),
    Cell(heading="tip lag", column="tip_lag_median", text=_plain, is_count=True),
    Cell(heading="kB per node round", column="bytes_per_node_round", text=lambda value: _plain(value / 1000)),
)
DASH = "-"


def headings(rows: Sequence[Simulated]) -> list[str]:
    """What was varied, the columns, and how many runs agreed."""
    varied = [KNOBS[name].label for name in rows[0].settings]
    return [*varied, *(cell.heading for cell in _shown(rows)), "agreed"]


def table_rows(rows: Sequence[Simulated], *, has_range: bool = True) -> list[list[str]]:
    """A row for each combination, in the order in which they were run; without ranges it is narrower."""
    shown = _shown(rows)
    return [
        [*setting_texts(point.settings).values(), *(_text(point, cell, has_range) for cell in shown), _agreed(point)]
        for point in points(rows)
    ]


def _shown(rows: Sequence[Simulated]) -> list[Cell]:
    """What was measured; the loss only where nobody measured an accuracy, counts only where there was something."""
    found = []
    for cell in CELLS:
        values = [value for row in rows if (value := getattr(row, cell.column)) is not None]
        is_spare = cell.column == "training_loss" and any(row.accuracy is not None for row in rows)
        if values and not is_spare and (any(values) or not cell.is_count):
            found.append(cell)
    return found


def _text(point: Point, cell: Cell, has_range: bool) -> str:
    """`97.2 (96.4-97.8)`; counts, and what all seeds gave alike, without brackets."""
    spread = point.spread(cell.column)
    if spread is None:
        return DASH
    mean, least, greatest = (cell.text(value) for value in (spread.mean, spread.least, spread.greatest))
    return mean if least == greatest or cell.is_count or not has_range else f"{mean} ({least}-{greatest})"


def _agreed(point: Point) -> str:
    good = sum(run.is_good for run in point.runs)
    return f"{good}/{len(point.runs)}"

"""Which runs make up which table: data only.

A cell is one run without its seed. Rates: a number for all nodes alike, or `mixed`, two of eight devices at 1, two at
1/2, four at 1/4. `common` is the width that all can train; rows that need none do not look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MIXED = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25)
SLICES = ("msfusion", "heterofl", "fedrolex", "random_dropout", "nested", "members")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run but for its seed. `share`: of the training data that is dealt out."""

    table: str
    row: str
    data: str
    rate: float | None
    """None: mixed devices."""
    alpha: float | None
    """Of the Dirichlet deal of labels; None: contiguous text, or an even deal of images."""
    rounds: int
    steps: int
    nodes: int = 8
    common: float = 0.25
    outer_momentum: float = 0.6
    calibrate: bool = True
    share: float = 1.0

    @property
    def rates(self) -> tuple[float, ...]:
        """By node."""
        return MIXED if self.rate is None else (self.rate,) * self.nodes


def _equal(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    """Rate 1/4 with all rows; the references that do not depend on the rate once. Other rates for half as long."""
    base = Cell(table=data, row="", data=data, rate=0.25, alpha=0.5, rounds=rounds, steps=steps)
    rows = [replace(base, row=row) for row in (*SLICES, "small", "full", "alone", "centralised", "dpsgd", "ring")]
    short = replace(base, rounds=rounds // 2)
    others = [replace(short, row=row, rate=rate, common=rate) for rate in (0.5, 0.125) for row in (*SLICES, "small")]
    return (*rows, *others)


def _mixed(alpha: float, rounds: int, steps: int) -> tuple[Cell, ...]:
    base = Cell(
        table=f"fashion-mixed-{alpha:g}", row="", data="fashion", rate=None, alpha=alpha, rounds=rounds, steps=steps
    )
    return tuple(replace(base, row=row) for row in ("small", "members", *(s for s in SLICES if s != "members"), "full"))


def _longer(cells: tuple[Cell, ...], rounds: int) -> tuple[Cell, ...]:
    """The default and what it is judged by, trained so long that the small network has stopped getting better."""
    rows = ("small", "members", "full") if cells[0].rate else ("small", "members")
    return tuple(
        replace(cell, table=f"{cell.table}-long", rounds=rounds)
        for cell in cells
        if cell.row in rows and cell.rate == cells[0].rate
    )


def _scaling(rounds: int, steps: int) -> tuple[Cell, ...]:
    """Every node has 1/20 of the data, however many they are; the more there are, the narrower what each trains."""
    base = Cell(table="scaling", row="", data="fashion", rate=None, alpha=0.5, rounds=rounds, steps=steps)
    return tuple(
        replace(base, row=row, nodes=nodes, rate=rate, common=rate, share=nodes / 20)
        for nodes, rate in ((5, 0.5), (10, 0.375), (20, 0.25))
        for row in ("msfusion", "members", "small")
    )


def _ablation(rounds: int, steps: int) -> tuple[Cell, ...]:
    base = Cell(table="ablation", row="", data="fashion", rate=0.25, alpha=0.5, rounds=rounds, steps=steps)
    rows = ("msfusion", "ring", "no contrast", "constant overlap", "neither", "slip", "uncalibrated")
    cells = [replace(base, row=row) for row in rows]
    return tuple(
        replace(cell, row="msfusion", calibrate=False) if cell.row == "uncalibrated" else cell for cell in cells
    )


def _text(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    rows = ("small", "full", "msfusion", "heterofl", "fedrolex", "random_dropout", "members", "alone", "centralised")
    base = Cell(table=data, row="", data=data, rate=0.25, alpha=None, rounds=rounds, steps=steps, calibrate=False)
    half = replace(base, rate=0.5, common=0.5)
    return (
        *(replace(base, row=row) for row in rows),
        *(replace(half, row=row) for row in rows if row not in ("full", "alone", "centralised")),
    )


TABLES: Mapping[str, tuple[Cell, ...]] = {
    cells[0].table: cells
    for cells in (
        _mixed(0.3, 100, 20),
        _mixed(1.0, 100, 20),
        _longer(_mixed(0.3, 100, 20), 200),
        _longer(_mixed(1.0, 100, 20), 200),
        _equal("fashion", 100, 20),
        _longer(_equal("fashion", 100, 20), 200),
        _equal("cifar10", 40, 12),
        _text("shakespeare", 40, 20),
        _scaling(30, 20),
        _ablation(40, 20),
    )
}

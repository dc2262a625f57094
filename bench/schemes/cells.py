"""Which runs make up which table: data only.

A cell is one run without its seed. Rates: a number for all nodes alike, or `mixed`, two of eight devices at 1, two at
1/2, four at 1/4. `common` is the width that all can train; rows that need none do not look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MIXED = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25)
SLICES = ("msfusion", "heterofl", "fedrolex", "random_dropout")
"""Rows whose nodes train slices of one network, the same that `full` trains."""
CANDIDATES = (
    "dealt anew each round",
    "dealt anew each 5 rounds",
    "strangers at zero",
    "taught by the head",
    "whole forward",
    "momentum carried",
)
"""What differs from double shift in one thing (`candidates`)."""
DYNAMIC = ("heterofl, dynamic", "fedrolex, dynamic")
"""With rates drawn anew each round."""
MSFUSIONS_PARTS = ("ring", "no contrast", "constant overlap", "overlap to the end", "neither", "slip")
"""MSfusion but for one thing."""
PARTS = frozenset((*SLICES, *DYNAMIC, *CANDIDATES, *MSFUSIONS_PARTS, "grown"))
"""All such rows, ablations too."""
WHOLE = ("members", "small", "full", "alone", "centralised")
INNER = "-inner"
"""Behind the name of data whose network is cut within its blocks only."""
ABLATION_ROUNDS = 60
LOWER_LR = 0.3
"""Slices are tried at this share of the learning rate too: a unit that one of eight devices trains has nobody's steps
averaged with its own, and the Scaler multiplies its gradients."""


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
    calibrate: bool | None = True
    """As in `Task`."""
    share: float = 1.0
    lr_factor: float = 1.0
    """Of the data's learning rate."""

    @property
    def rates(self) -> tuple[float, ...]:
        """By node."""
        return MIXED if self.rate is None else (self.rate,) * self.nodes


def _suited(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Whole networks as they are; slices of one also without outer momentum, and then at a lower learning rate too.

    Which of the three suits them differs by network (docs/schemes.md).
    """
    found: list[Cell] = []
    for cell in cells:
        plain = replace(cell, outer_momentum=0.0)
        found += [cell, plain, replace(plain, lr_factor=LOWER_LR)] if cell.row in PARTS else [cell]
    return tuple(found)


def _equal(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    """Rate 1/4 with all rows; the references that do not depend on the rate once. Other rates for half as long."""
    base = Cell(table=data, row="", data=data, rate=0.25, alpha=0.5, rounds=rounds, steps=steps)
    rows = [replace(base, row=row) for row in (*SLICES, "nested", *WHOLE, "dpsgd", "ring")]
    short = replace(base, rounds=rounds // 2)
    others = [
        replace(short, row=row, rate=rate, common=rate)
        for rate in (0.5, 0.125)
        for row in (*SLICES, "nested", "members", "small")
    ]
    return (*rows, *others)


def _mixed(data: str, alpha: float, rounds: int, steps: int) -> tuple[Cell, ...]:
    name = f"{data}-mixed-{alpha:g}"
    base = Cell(table=name, row="", data=data, rate=None, alpha=alpha, rounds=rounds, steps=steps)
    return tuple(replace(base, row=row) for row in ("small", "members", "nested", *SLICES, *DYNAMIC, "full"))


def _longer(cells: tuple[Cell, ...], rounds: int) -> tuple[Cell, ...]:
    """The default and what it is judged by, trained so long that the small network has stopped getting better."""
    first = replace(cells[0], table=f"{cells[0].table}-long", rounds=rounds)
    rows = ("small", "members", "four members", "full") if first.rate else ("small", "members")
    return tuple(replace(first, row=row) for row in rows)


def _scaling(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    """Every node has 1/20 of the data, however many they are; the more there are, the narrower what each trains."""
    base = Cell(table="scaling", row="", data=data, rate=None, alpha=0.5, rounds=rounds, steps=steps)
    return tuple(
        replace(base, row=row, nodes=nodes, rate=rate, common=rate, share=nodes / 20)
        for nodes, rate in ((5, 0.5), (10, 0.375), (20, 0.25))
        for row in ("msfusion", "members", "small")
    )


def _ablation(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    base = Cell(table="ablation", row="", data=data, rate=0.25, alpha=0.5, rounds=rounds, steps=steps)
    rows = ("msfusion", *MSFUSIONS_PARTS, "uncalibrated")
    cells = [replace(base, row=row) for row in rows]
    return tuple(
        replace(cell, row="msfusion", calibrate=False) if cell.row == "uncalibrated" else cell for cell in cells
    )


def _candidates(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    """Without and with so many rounds that the small network has stopped getting better."""
    base = Cell(table="candidates", row="", data=data, rate=0.25, alpha=0.5, rounds=rounds, steps=steps)
    longer = replace(base, rounds=4 * rounds)
    rows = ("small", "members", "random_dropout", "no contrast")
    return (*(replace(base, row=row) for row in (*rows, *CANDIDATES)),
            *(replace(longer, row=row) for row in (*rows, *CANDIDATES, "grown", "full")))  # fmt: skip


def _as_it_comes(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """What somebody gets who sets nothing: no outer momentum, and `Task` decides whether to calibrate."""
    return tuple(
        replace(cell, table=f"{cell.table}-as-it-comes", calibrate=None, outer_momentum=0.0)
        for cell in cells
        if cell.row in ("small", "members") and cell.rate == cells[0].rate
    )


def _text(data: str, rounds: int, steps: int) -> tuple[Cell, ...]:
    rows = (*SLICES, "nested", *WHOLE, "dpsgd")
    base = Cell(table=data, row="", data=data, rate=0.25, alpha=None, rounds=rounds, steps=steps, calibrate=False)
    half = replace(base, rate=0.5, common=0.5)
    return (
        *(replace(base, row=row) for row in rows),
        *(replace(half, row=row) for row in rows if row not in ("full", "alone", "centralised", "dpsgd")),
    )


def _inner(cell: Cell) -> tuple[Cell, ...]:
    """Of the same networks only what lies inside a block is cut: heads, hidden units, inner channels.

    At 1/4 that is about the arithmetic of 1/2 of all axes, and as many rounds as those have.
    """
    first = replace(cell, table=cell.data + INNER, data=cell.data + INNER)
    rows = ("small", "members", "nested", "no contrast", "dealt anew each round", "random_dropout", "heterofl")
    return tuple(replace(first, row=row) for row in rows)


MIXED_3, MIXED_10 = _mixed("fashion", 0.3, 100, 20), _mixed("fashion", 1.0, 100, 20)
EQUAL, CIFAR = _equal("fashion", 100, 20), _equal("cifar10", 40, 12)
PERCEPTRON, TEXT = _equal("fashion-mlp", 60, 20), _text("shakespeare", 40, 20)

TABLES: Mapping[str, tuple[Cell, ...]] = {
    cells[0].table: _suited(cells)
    for cells in (
        MIXED_3,
        MIXED_10,
        _longer(MIXED_3, 200),
        _longer(MIXED_10, 200),
        _as_it_comes(MIXED_3),
        _as_it_comes(MIXED_10),
        EQUAL,
        _longer(EQUAL, 200),
        _as_it_comes(EQUAL),
        CIFAR,
        _as_it_comes(CIFAR),
        _longer(CIFAR, 160),
        PERCEPTRON,
        _as_it_comes(PERCEPTRON),
        _mixed("fashion-mlp", 0.3, 60, 20),
        _mixed("fashion-mlp", 1.0, 60, 20),
        TEXT,
        _as_it_comes(TEXT),
        _inner(TEXT[0]),
        _inner(replace(EQUAL[0], rounds=50)),
        _inner(replace(CIFAR[0], rounds=20)),
        _text("wikitext2", 40, 20),
        _scaling("fashion-mlp", 60, 20),
        _ablation("fashion-mlp", ABLATION_ROUNDS, 20),
        _candidates("fashion-mlp", 60, 20),
    )
}

"""Which runs make up which table: data only. A cell is one run without its seed; its rows are in `rows`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

DEVICES = Path(__file__).with_name("devices.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run but for its seed. `slow`: how many times slower than said one of the smallest devices is."""

    table: str
    row: str
    data: str
    alpha: float | None
    """Of the Dirichlet deal of labels; None: contiguous text."""
    rounds: int
    steps: int
    slow: float = 1.0


@dataclass(frozen=True, slots=True)
class Testbed:
    """The devices, one after the other: rate, speed; and the seconds of a whole round at speed 1."""

    rates: tuple[float, ...]
    speeds: tuple[float, ...]
    whole_round_s: float


def bed_of(slow: float) -> Testbed:
    """As the file has it, the last device slower."""
    told = tomllib.loads(DEVICES.read_text())
    each = [one for one in told["class"] for _ in range(one["count"])]
    speeds = [float(one["speed"]) for one in each]
    speeds[-1] /= slow
    return Testbed(tuple(float(one["rate"]) for one in each), tuple(speeds), float(told["whole_round_s"]))


BASELINES = ("MSfusion", "FedRolex", "HeteroFL", "full, synchronous", "everybody small")
ABLATIONS = (
    "synchronous",
    "without transfer",
    "swarm's head teaches",
    "random masks",
    "learned masks",
    "rolling freeze",
    "counted evenly",
    "plain sum",
)


def _mix(data: str, alpha: float | None, rounds: int, steps: int) -> tuple[Cell, ...]:
    base = Cell(table=data, row="Co-S2P", data=data, alpha=alpha, rounds=rounds, steps=steps)
    return tuple(replace(base, row=row) for row in ("Co-S2P", *BASELINES))


def _ablations(rounds: int, steps: int) -> tuple[Cell, ...]:
    base = Cell(table="ablation", row="Co-S2P", data="cifar10", alpha=1.5, rounds=rounds, steps=steps)
    return tuple(replace(base, row=row) for row in ("Co-S2P", *ABLATIONS))


def _slow(rounds: int, synchronous_rounds: int, steps: int) -> tuple[Cell, ...]:
    """One of 16 devices 20 times slower. Synchronous rounds are all alike, and long: a few of them do."""
    base = Cell(table="slow", row="Co-S2P", data="cifar10", alpha=1.5, rounds=rounds, steps=steps)
    return tuple(
        replace(base, row=row, slow=slow, rounds=many)
        for row, many in (
            ("Co-S2P", rounds),
            ("synchronous", synchronous_rounds),
            ("full, synchronous", synchronous_rounds),
        )
        for slow in (1.0, 20.0)
    )


AS_LONG = "Co-S2P, as long as they take"
"""Its rounds are shorter: so many more in the virtual time that the rounds of the baselines' slices take."""

TABLES: Mapping[str, tuple[Cell, ...]] = {
    cells[0].table: cells
    for cells in (
        (
            *_mix("cifar10", 1.5, 60, 8),
            Cell(table="cifar10", row=AS_LONG, data="cifar10", alpha=1.5, rounds=139, steps=8),
        ),
        _ablations(60, 8),
        _slow(30, 4, 2),
        (
            *_mix("wikitext2", None, 12, 8),
            Cell(table="wikitext2", row=AS_LONG, data="wikitext2", alpha=None, rounds=26, steps=8),
        ),
    )
}

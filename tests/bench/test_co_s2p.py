"""The bench of Co-S2P: its devices are the paper's mix, every cell has its row, a report says what was run."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bench.co_s2p import report
from bench.co_s2p.cells import AS_LONG, TABLES, bed_of
from bench.co_s2p.rows import ROWS, Row
from bench.schemes.run import done, key_of
from p2pfusion.algorithms.presets import Terms
from p2pfusion.core.tailored import Tailored
from p2pfusion.zoo.transformers import vit

BLUEPRINT = vit(4, 2, 1, 16, 4, 4, 16, 3, exits=4)


def test_sixteen_devices_of_four_classes_rates_a_quarter_to_one() -> None:
    bed = bed_of(1.0)
    assert sorted(bed.rates) == [0.25] * 5 + [0.5] * 9 + [0.75, 1.0]
    assert len(bed.speeds) == 16
    slow = bed_of(20.0)
    assert slow.speeds[-1] == bed.speeds[-1] / 20
    assert slow.speeds[:-1] == bed.speeds[:-1]


def test_every_cell_has_a_row_and_a_place_in_the_documentation() -> None:
    assert {cell.row for cells in TABLES.values() for cell in cells} == set(ROWS)
    text = report.PAGE.read_text()
    assert all(f"<!-- table {name} -->" in text for name in TABLES)


def test_a_row_has_every_exit_and_the_spread_over_seeds() -> None:
    cell = TABLES["cifar10"][0]
    lines = [
        {
            **asdict(cell), "seed": seed, "widths": {"exit 1": 0.5 + seed / 10, "exit 2": 0.25}, "losses": {},
            "memory_mb": 2.0, "memory_first_mb": 4.0, "memory_max_mb": 8.0, "round_s": 9.5, "utilisation": 0.625,
        }
        for seed in range(2)
    ]  # fmt: skip
    assert report.table("cifar10", lines)[2] == (
        "| Co-S2P | 55.0 (50.0 to 60.0) | 25.0 (25.0 to 25.0) | 2.00 (4.00 at first) | 8.00 | 9.50 | 62 % | 2 |"
    )
    assert done(lines, TABLES["cifar10"]) == {key_of(cell, 0), key_of(cell, 1)}
    assert report.table("slow", lines)[0] == "Not run yet."


def described(row: Row) -> dict[str, object]:
    """What a row does: everything that two rows may differ in, by name."""
    way = row.preset.way(BLUEPRINT, Terms())
    transfer = way.objective._transfer if isinstance(way.objective, Tailored) else way.objective
    scheme: object = getattr(way.scheme, "__qualname__", "")
    if isinstance(way.scheme, Tailored):
        scheme = {name: value for name, value in vars(way.scheme).items() if value is not transfer}
    return {
        "scheme": scheme, **vars(transfer), "momentum": way.outer_momentum, "weighing": type(way.weighing),
        "cadence": row.cadence, "rate": row.rate, "widths": dict(way.widths), "expanded": way.is_expanded,
        "is another model": row.preset.model is not None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        ("synchronous", "cadence"),
        ("without transfer", "_gamma"),
        ("random masks", "scheme"),
        ("learned masks", "scheme"),
        ("rolling freeze", "_window"),
        ("counted evenly", "weighing"),
        ("swarm's head teaches", "_teacher"),
        ("plain sum", "expanded"),
    ],
)
def test_an_ablation_keeps_everything_but_one_thing(name: str, thing: str) -> None:
    usual, found = described(ROWS["Co-S2P"]), described(ROWS[name])
    assert [key for key in usual if usual[key] != found[key]] == [thing]


def test_no_two_rows_are_the_same() -> None:
    rows = [described(row) for name, row in ROWS.items() if name != AS_LONG]  # that one has more rounds
    assert ROWS[AS_LONG] == ROWS["Co-S2P"]
    assert all(one != other for number, one in enumerate(rows) for other in rows[:number])

"""The bench of Co-S2P: its devices are the paper's mix, every cell has its row, a report says what was run."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bench.co_s2p import report
from bench.co_s2p.cells import TABLES, bed_of
from bench.co_s2p.rows import ROWS
from bench.schemes.run import done, key_of


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
            **asdict(cell), "seed": seed, "exits": {"exit 1": 0.5 + seed / 10, "exit 2": 0.25}, "losses": {},
            "memory_mb": 2.0, "memory_first_mb": 4.0, "memory_max_mb": 8.0, "round_s": 9.5, "utilisation": 0.625,
        }
        for seed in range(2)
    ]  # fmt: skip
    assert report.table("cifar10", lines)[2] == (
        "| Co-S2P | 55.0 (50.0 to 60.0) | 25.0 (25.0 to 25.0) | 2.00 (4.00 at first) | 8.00 | 9.50 | 62 % | 2 |"
    )
    assert done(lines, TABLES["cifar10"]) == {key_of(cell, 0), key_of(cell, 1)}
    assert report.table("slow", lines)[0] == "Not run yet."


@pytest.mark.parametrize("name", ["without transfer", "random masks", "learned masks", "counted evenly"])
def test_an_ablation_keeps_everything_but_one_thing(name: str) -> None:
    assert ROWS[name].cadence == ROWS["Co-S2P"].cadence != ROWS["synchronous"].cadence

"""Tables of schemes: what is there is not done again, and a row says how often and how long it was run."""

from dataclasses import asdict, replace
from typing import Any

from bench.schemes.cells import TABLES, Cell
from bench.schemes.report import PAGE, table
from bench.schemes.run import RESULTS, done, key_of, read

FASHION = {(cell.row, cell.rate): cell for cell in TABLES["fashion"]}


def line(cell: Cell, seed: int, accuracy: float) -> dict[str, Any]:
    costs = {"flops_per_node": 2e9, "sent_per_node": 1000.0}
    widths = {"served": "100%", "widths": {"100%": accuracy}, "losses": {"100%": 1.0}}
    return {**asdict(cell), "seed": seed, "accuracy": accuracy, "loss": 1.0, **widths, **costs}


def test_a_table_names_its_cells_once() -> None:
    for name, cells in TABLES.items():
        assert {cell.table for cell in cells} == {name}
        assert len(frozenset(cells)) == len(cells)
        assert all(len(cell.rates) == cell.nodes for cell in cells)


def test_every_table_that_was_run_has_its_place_on_the_page() -> None:
    ran = {line["table"] for line in read(RESULTS / "schemes.jsonl")}
    assert ran <= set(TABLES)
    assert [name for name in sorted(ran) if f"<!-- table {name} -->" not in PAGE.read_text()] == []


def test_what_was_run_is_not_run_again() -> None:
    small = FASHION["small", 0.25]
    there = done([line(small, 0, 0.5)], TABLES["fashion"])
    assert key_of(small, 0) in there
    assert key_of(small, 1) not in there
    assert key_of(replace(small, rounds=small.rounds + 1), 0) not in there


def test_an_empty_table_invents_nothing() -> None:
    assert table("fashion", []) == ["Not run yet.", "", "    python -m bench.schemes fashion"]


def test_the_best_stands_first_with_its_spread_and_the_number_of_seeds() -> None:
    small, full = FASHION["small", 0.25], FASHION["full", 0.25]
    lines = [line(small, 0, 0.85), line(small, 1, 0.87), line(full, 0, 0.9)]
    rows = table("fashion", lines)[2:4]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| full", "1", "90.00"],
        ["| small", "0.25", "86.00 (85.00 to 87.00)"],
    ]
    assert [row.split(" | ")[-1] for row in rows] == ["1 |", "2 |"]


def test_rows_that_ran_for_another_time_say_so() -> None:
    lines = [line(FASHION["small", 0.25], 0, 0.85), line(FASHION["small", 0.5], 0, 0.8)]
    head, _, wide, narrow, *_ = table("fashion", lines)
    assert "| rounds |" in head
    assert wide.startswith("| small | 0.5 | 50 |")
    assert narrow.startswith("| small | 0.25 | 100 |")

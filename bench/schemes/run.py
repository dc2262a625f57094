"""Does what is missing of the tables, in a few processes; the command line of `bench.schemes`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.schemes.cells import TABLES, Cell
from bench.schemes.report import write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "schemes.jsonl"
Key = tuple[Any, ...]


def key_of(cell: Cell, seed: int) -> Key:
    """What makes two runs the same."""
    return (*asdict(cell).values(), seed)


def done(lines: Sequence[dict[str, Any]]) -> frozenset[Key]:
    """The keys of what is there."""
    return frozenset((*(line[name] for name in Cell.__dataclass_fields__), line["seed"]) for line in lines)


def read(file: Path) -> list[dict[str, Any]]:
    """All lines of results."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def work(cell: Cell, seed: int) -> dict[str, Any]:
    """In a worker."""
    os.nice(10)
    from bench.schemes.learning import run

    return run(cell, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Seed by seed, so that a table that was interrupted has whole seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench.schemes", description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="rows")
    parser.add_argument("--rate", type=float, help="only this rate")
    parser.add_argument("--lr-factor", type=float, help="only at this share of the learning rate")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="begin nothing after so long")
    parser.add_argument("--report", action="store_true", help="write the tables into docs/schemes.md")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    there = done(read(RESULTS))
    todo = [
        (cell, seed)
        for name in options.tables
        for seed in range(options.seeds)
        for cell in TABLES[name]
        if key_of(cell, seed) not in there
        and (not options.only or cell.row in options.only)
        and options.rate in (None, cell.rate)
        and options.lr_factor in (None, cell.lr_factor)
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting, pending = list(reversed(todo)), set()
        while waiting or pending:
            while waiting and len(pending) < options.jobs and time.monotonic() - begun < options.limit_s:
                pending.add(pool.submit(work, *waiting.pop()))
            if not pending:
                break
            future = next(as_completed(pending))
            pending.discard(future)
            line = future.result()
            with RESULTS.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(f"{line['table']} {line['row']} {line['rate']} seed {line['seed']}: {line['widths']} "
                  f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    if options.report:
        write(read(RESULTS))
    return 0

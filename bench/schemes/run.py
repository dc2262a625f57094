"""Does what is missing of the tables, in a few processes; the command line of `bench.schemes`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.schemes.cells import TABLES, Cell
from bench.schemes.report import write

RESULTS = Path(__file__).resolve().parents[1] / "results"
Key = tuple[Any, ...]
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Book:
    """Tables of cells, dataclasses with a `row` and a `rate`; how one is run, where its line goes and is shown."""

    program: str
    tables: Mapping[str, Sequence[Any]]
    results: Path
    work: Callable[[Any, int], Line]
    write: Callable[[Sequence[Line]], None]


def key_of(cell: Any, seed: int) -> Key:
    """What makes two runs the same."""
    return (*asdict(cell).values(), seed)


def done(lines: Sequence[Line], cells: Sequence[Any]) -> frozenset[Key]:
    """The keys of what is there."""
    names = [field.name for field in fields(cells[0])]
    return frozenset((*(line[name] for name in names), line["seed"]) for line in lines)


def read(file: Path) -> list[Line]:
    """All lines of results."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def work(cell: Cell, seed: int) -> Line:
    """In a worker."""
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    from bench.schemes.learning import run

    return run(cell, seed)


def _field(text: str) -> tuple[str, float]:
    """`rate=0.25`."""
    name, _, number = text.partition("=")
    return name, float(number)


SCHEMES = Book("bench.schemes", TABLES, RESULTS / "schemes.jsonl", work, write)


def main(arguments: Sequence[str] | None = None, book: Book = SCHEMES) -> int:
    """Seed by seed, so that a table that was interrupted has whole seeds."""
    parser = argparse.ArgumentParser(prog=f"python -m {book.program}", description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(book.tables)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="rows")
    parser.add_argument("--where", nargs="*", default=(), type=_field, metavar="FIELD=NUMBER", help="only such cells")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="begin nothing after so long")
    parser.add_argument("--report", action="store_true", help="write the tables into the documentation")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    lines = read(book.results)
    there = {name: done(lines, cells) for name, cells in book.tables.items()}
    todo = [
        (cell, seed)
        for name in options.tables
        for seed in range(options.seeds)
        for cell in book.tables[name]
        if key_of(cell, seed) not in there[name]
        and (not options.only or cell.row in options.only)
        and all(getattr(cell, name) == number for name, number in options.where)
    ]
    book.results.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting, pending = list(reversed(todo)), set()
        while waiting or pending:
            while waiting and len(pending) < options.jobs and time.monotonic() - begun < options.limit_s:
                pending.add(pool.submit(book.work, *waiting.pop()))
            if not pending:
                break
            future = next(as_completed(pending))
            pending.discard(future)
            line = future.result()
            with book.results.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(f"{line['table']} {line['row']} {line.get('rate', '')} seed {line['seed']}: {line['widths']} "
                  f"{time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    if options.report:
        book.write(read(book.results))
    return 0

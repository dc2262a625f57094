"""What `bench.schemes.run` needs to do what is missing of the tables."""

from __future__ import annotations

import os

from bench.co_s2p.cells import TABLES, Cell
from bench.co_s2p.report import write
from bench.schemes.run import RESULTS, Book, Line


def work(cell: Cell, seed: int) -> Line:
    """In a worker."""
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    from bench.co_s2p.running import run

    return run(cell, seed)


BOOK = Book("bench.co_s2p", TABLES, RESULTS / "co_s2p.jsonl", work, write)

"""What is said of simulated runs: what is asked for, a line or an object for each, and the table of all.

It does no runs and writes no files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfusion.app.words import percent

if TYPE_CHECKING:
    from rich.table import Table

    from p2pfusion.app.orders import SimulateOptions
    from p2pfusion.lab.knobs import Order
    from p2pfusion.lab.results import Simulated

PIPE_COLUMNS = 160
"""Width of a table that no terminal limits."""


def plan_words(options: SimulateOptions, orders: Sequence[Order]) -> str:
    """`12 runs of 20 nodes, 110 rounds each, on 2 processes`."""
    from p2pfusion.lab import engines

    nodes, rounds = (_span_words([getattr(order.scenario, name) for order in orders]) for name in ("nodes", "rounds"))
    words = f"{runs_words(len(orders))} of {nodes} nodes, {rounds} rounds"
    if len(orders) == 1:
        return words
    jobs = min(options.jobs or engines.default_jobs(len(orders)), len(orders))
    where = "Ray" if options.engine == "ray" else f"{jobs} process{'es' if jobs > 1 else ''}"
    return f"{words} each, on {where}"


def runs_words(count: int) -> str:
    """`12 runs`."""
    return f"{count} run{'s' if count != 1 else ''}"


def _span_words(values: Sequence[int]) -> str:
    least, greatest = min(values), max(values)
    return str(least) if least == greatest else f"{least} to {greatest}"


def say_run(options: SimulateOptions, row: Simulated) -> None:
    """One run: an object for scripts, a line for people, nothing with -q."""
    from p2pfusion.app.output import VERSION
    from p2pfusion.lab.results import row_json
    from p2pfusion.lab.sweeps import setting_texts

    if options.json:
        value = {"v": VERSION, "event": "simulated", **row_json(row)}
        sys.stdout.write(json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n")
    elif not options.quiet:
        varied = "".join(f"{text}, " for text in setting_texts(row.settings).values())
        sys.stdout.write(f"{varied}seed {row.seed}: {_run_words(row)}\n")
    sys.stdout.flush()


def _run_words(row: Simulated) -> str:
    if row.failure is not None:
        return f"FAILED: {row.failure}"
    end = f"all agree on {row.model_sha256[:16]}" if row.model_sha256 else _disagreement(row)
    return (
        f"{row.nodes} nodes, {row.rounds} rounds in {row.virtual_s or 0:.1f} virtual s, "
        f"accuracy {percent(row.accuracy)}, {end}, trace {(row.trace_hash or '-')[:16]}"
    )


def _disagreement(row: Simulated) -> str:
    return "ended while apart: give more --rounds" if row.ended_apart else "the nodes DISAGREE"


def print_table(rows: Sequence[Simulated]) -> None:
    """The table on stdout, without the ranges where the terminal is too narrow for them."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    table = _table(rows, has_range=True)
    if console.measure(table, options=console.options.update_width(PIPE_COLUMNS)).minimum > console.width:
        table = _table(rows, has_range=False)
    console.print(table)


def _table(rows: Sequence[Simulated], *, has_range: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from p2pfusion.lab.tables import headings, table_rows

    caption = "mean over the seeds" + (" (least-greatest)" if has_range else "")
    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    lines = table_rows(rows, has_range=has_range)
    for name, *cells in zip(headings(rows), *lines, strict=True):
        # Headings wrap between words, numbers nowhere.
        width = max(len(text) for text in [*name.split(), *cells])
        table.add_column(name, justify="right", min_width=width)
    for cells in lines:
        table.add_row(*cells)
    return table

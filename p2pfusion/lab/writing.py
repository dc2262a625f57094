"""The folder of a sweep: results.csv, a trace for each run, the figure, and a README that says how all that was made.

Everything in it follows from the runs; nothing is copied by hand. What the runs were and how they went is told by the
caller; this module runs nothing.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from p2pfusion.errors import StoreError
from p2pfusion.lab.curves import curves
from p2pfusion.lab.figures import can_draw, draw
from p2pfusion.lab.growth import growths
from p2pfusion.lab.knobs import KNOBS, Order
from p2pfusion.lab.results import COLUMNS, Simulated, flat
from p2pfusion.lab.sweeps import points, setting_texts
from p2pfusion.lab.tables import headings, table_rows

NO_FIGURE = "no figure: pip install 'p2pfusion[plot]'"
TRACE_HEAD = b'{"v":1,"event":"run",'
"""How a trace begins: a file of that name that does not is somebody else's."""
_UNSAFE = re.compile(r"[^A-Za-z0-9.%=+-]+")


class Folder:
    """Where a sweep is written. Raises `StoreError` for what cannot be written, with the fix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with self._writing(path):
            path.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        """Take away again what was made for this sweep, if nothing is in it."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def clear(self) -> None:
        """Take away what an earlier sweep wrote, and nothing else: results of two sweeps do not stand side by side."""
        with self._writing(self.path):
            for name in self._earlier():
                (self.path / name).unlink(missing_ok=True)

    def _earlier(self) -> list[str]:
        """The files of the sweep whose results.csv is here: none without that, or where it is not ours."""
        results = self.path / "results.csv"
        if not results.is_file():
            return []
        with results.open(encoding="utf-8", errors="replace", newline="") as text:
            rows = csv.DictReader(text)
            if not frozenset(rows.fieldnames or ()) >= {"name", "seed", "trace_hash"}:
                return []
            stems = {_UNSAFE.sub("-", row["name"] or "") for row in rows}
        figures = [stem + suffix for stem in sorted(stems) for suffix in (".png", ".svg")]
        return ["results.csv", "README.md", *figures, *filter(self._is_trace, sorted(os.listdir(self.path)))]

    def _is_trace(self, name: str) -> bool:
        if name != "trace.jsonl" and not (name.startswith("trace-") and name.endswith(".jsonl")):
            return False
        with (self.path / name).open("rb") as file:
            return file.read(len(TRACE_HEAD)) == TRACE_HEAD

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from error

    def write(self, name: str, text: str) -> None:
        """One file of text."""
        with self._writing(self.path / name):
            (self.path / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> str:
        """What `write` wrote."""
        with self._writing(self.path / name):
            return (self.path / name).read_text(encoding="utf-8")

    def write_csv(self, rows: Sequence[Simulated], varied: Sequence[str]) -> None:
        """results.csv: a row per run."""
        table = [flat(row, varied) for row in rows]
        with self._writing(self.path / "results.csv"), (self.path / "results.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, list(table[0]))
            writer.writeheader()
            writer.writerows(table)

    def write_figure(self, rows: Sequence[Simulated], title: str, traces: Sequence[str]) -> bool:
        """`NAME.png` and `NAME.svg`; False without matplotlib. `traces`: names of files written before."""
        if not can_draw():
            return False
        name = rows[0].name
        files = [self.path / f"{_UNSAFE.sub('-', name)}{suffix}" for suffix in (".png", ".svg")]
        with self._writing(files[0]):
            over_time, over_rounds = curves(map(self.read, traces)), growths(map(self.read, traces))
            draw(name, title, points(rows), over_time, over_rounds, files)
        return True


def trace_names(orders: Sequence[Order]) -> list[str]:
    """A file name per run: `trace.jsonl` of a single one, else `trace-30s-seed1.jsonl`."""
    if len(orders) == 1:
        return ["trace.jsonl"]
    names = []
    for order in orders:
        words = [_UNSAFE.sub("-", text) for text in setting_texts(order.settings).values()]
        names.append("-".join(["trace", *words, f"seed{order.seed}"]) + ".jsonl")
    return names


def title_of(orders: Sequence[Order]) -> str:
    """One line on what all the runs have in common."""
    order = orders[0]
    scenario = order.scenario
    common = {
        "nodes": f"{scenario.nodes} nodes",
        "rounds": f"{scenario.rounds} rounds",
        "rate": f"slice {KNOBS['rate'].text(scenario.rate)}",
        "task": f"task {order.task}",
        "algorithm": order.algorithm,
    }
    if order.task == "light":
        del common["algorithm"]  # the synthetic learner has its own
    return f"{scenario.name}: " + ", ".join(text for name, text in common.items() if name not in order.settings)


def readme(
    rows: Sequence[Simulated], *, title: str, command: str, versions: Mapping[str, str], traces: Sequence[str],
    has_figure: bool,
) -> str:  # fmt: skip
    """README.md of the folder."""
    name = rows[0].name
    varied = list(rows[0].settings)
    figure = [f"![{title}]({_UNSAFE.sub('-', name)}.png)", ""] if has_figure else []
    table = [headings(rows), *table_rows(rows)]
    ruled = [table[0], ["---"] * len(table[0]), *table[1:]]
    meanings = [f"- `{column}`: {KNOBS[column].label}, varied" for column in varied if column not in COLUMNS]
    meanings += [f"- `{column}`: {text}" for column, text in COLUMNS.items()]
    seeds = sorted({row.seed for row in rows})
    return "\n".join(
        [
            f"# {title}",
            "",
            "Made by",
            "",
            f"    {command}",
            "",
            f"Seeds: {', '.join(map(str, seeds))}. Versions: {', '.join(f'{k} {v}' for k, v in versions.items())}.",
            "All times are virtual seconds. A run follows from its seed alone: do one again, bit for bit, with",
            "",
            f"    p2pfusion simulate replay {traces[0]}",
            "",
            *figure,
            "Mean over the seeds, in brackets the least and the greatest:",
            "",
            *(f"| {' | '.join(cells)} |" for cells in ruled),
            "",
            "Columns of results.csv, one row per run:",
            "",
            *meanings,
            "",
        ]
    )

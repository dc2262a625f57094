"""How far a sweep is, on stderr: a bar on a terminal, else a line every ten seconds, or nothing.

Counts rounds done of rounds wanted, over all runs. It knows the numbers it is told and no runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from p2pfusion.app.live import is_drawable
from p2pfusion.app.words import clock

LINE_EVERY_S = 10.0
"""Real seconds between two plain lines: a log stays readable, and nobody believes that it hangs."""


class Meter(Protocol):
    """Where progress is shown."""

    def start(self, rounds: Sequence[int]) -> None:
        """So many rounds are wanted of each run."""

    def told(self, run: int, rounds: int) -> None:
        """That run has done so many."""

    def finished(self, run: int) -> None:
        """That run has ended, whatever it did."""

    def note(self, text: str) -> None:
        """One sentence for a person, beside the progress."""

    def close(self) -> None:
        """Leave the terminal as it was; harmless when called twice."""


class QuietMeter:
    """Shows nothing."""

    def start(self, rounds: Sequence[int]) -> None:
        """Show nothing."""

    def told(self, run: int, rounds: int) -> None:
        """Show nothing."""

    def finished(self, run: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Counting(QuietMeter):
    """Adds up; `_show` is what the others differ in."""

    def __init__(self) -> None:
        self._wanted: list[int] = []
        self._done: list[int] = []
        self._runs = 0

    def start(self, rounds: Sequence[int]) -> None:
        """Begin to count."""
        self._wanted, self._done = list(rounds), [0] * len(rounds)

    def told(self, run: int, rounds: int) -> None:
        """Count the rounds."""
        self._done[run] = max(self._done[run], min(rounds, self._wanted[run]))
        self._show()

    def finished(self, run: int) -> None:
        """Count the run; its rounds are over, done or not."""
        self._runs += 1
        self.told(run, self._wanted[run])

    def words(self) -> str:
        """`3/36 runs, 410/3 960 rounds`."""
        return f"{self._runs}/{len(self._wanted)} runs, {sum(self._done)}/{sum(self._wanted)} rounds"

    def _show(self) -> None:
        """Nowhere yet."""


class PlainMeter(_Counting):
    """A line every `LINE_EVERY_S`, if anything happened."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._began_s = self._written_s = perf_counter()

    def note(self, text: str) -> None:
        """Write it."""
        print(text, file=self._out, flush=True)

    def _show(self) -> None:
        now_s = perf_counter()
        if now_s - self._written_s >= LINE_EVERY_S:
            self._written_s = now_s
            self.note(f"{clock(now_s - self._began_s)} {self.words()}")


class BarMeter(_Counting):
    """A bar that is redrawn, with the time that is left."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                   TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        # What goes to a file or a pipe must not be drawn beside the bar instead.
        self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
        self._bar = self._progress.add_task("", total=None)

    def start(self, rounds: Sequence[int]) -> None:
        """Draw the empty bar."""
        super().start(rounds)
        self._progress.update(self._bar, total=sum(rounds), description=self.words())
        self._progress.start()

    def note(self, text: str) -> None:
        """Write it above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def _show(self) -> None:
        self._progress.update(self._bar, completed=sum(self._done), description=self.words())


def choose_meter(environ: Mapping[str, str], *, quiet: bool) -> Meter:
    """The one that these options and stderr ask for."""
    if quiet:
        return QuietMeter()
    if is_drawable(sys.stderr, environ):
        return BarMeter(Console(stderr=True))
    return PlainMeter(sys.stderr)

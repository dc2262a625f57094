"""Four ways to show the same lines: JSON Lines, nothing, one plain line per round, a live table on a terminal.

`choose_view` picks one from the options and the terminal; the rest of the program only calls `note`, `show`, `tick` and
`close`. No escape byte is ever written to a pipe, with NO_COLOR set, or to TERM=dumb. What the table shows is decided
by `board`; here it is only drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from p2pfusion.algorithms.base import DIRECTIONS
from p2pfusion.app.board import Board, Row, slice_cells
from p2pfusion.app.output import DoneLine, Line, PeerLine, RoundLine, WarningLine, to_json
from p2pfusion.app.words import Glyphs, bar, clock, data_size, glyphs_for, percent, shares, sparkline, split

_STATE_WORDS = {"alive": "is here", "suspect": "has fallen silent", "dead": "is gone", "left": "has left"}
_STATE_STYLES = {
    "training": "green",
    "done": "bold green",
    "ok": "bold green",
    "alive": "green",
    "suspect": "yellow",
    "dead": "red",
    "failed": "bold red",
    "left": "dim",
}


class View(Protocol):
    """Where a run is shown. `source` is the name of the node whose line it is."""

    def note(self, text: str) -> None:
        """One sentence for a person; never part of what a script reads."""

    def expect(self, name: str) -> None:
        """A node of that name was started."""

    def show(self, source: str, line: Line) -> None:
        """Show one line of a node's output."""

    def tick(self, elapsed_s: float) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Leave the terminal as it was; harmless when called twice."""


class QuietView:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def expect(self, name: str) -> None:
        """Expect nothing."""

    def show(self, source: str, line: Line) -> None:
        """Show nothing."""

    def tick(self, elapsed_s: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class JsonView(QuietView):
    """Writes JSON Lines to stdout, each flushed at once; notes go to stderr unless `quiet`.

    With `tagged`, every line of a node carries its name as `node`, and the nodes' own `done` lines are kept back:
    the last line is the only `done`.
    """

    def __init__(self, out: TextIO, notes: TextIO | None, *, tagged: bool = False) -> None:
        self._out, self._notes, self._tagged = out, notes, tagged

    def note(self, text: str) -> None:
        """Say it on stderr."""
        if self._notes is not None:
            print(text, file=self._notes, flush=True)

    def show(self, source: str, line: Line) -> None:
        """Write the line."""
        if self._tagged and type(line) is DoneLine:
            return
        more = {"node": source} if self._tagged and not isinstance(line, DoneLine) else {}
        print(to_json(line, **more), file=self._out, flush=True)


class PlainView(QuietView):
    """Writes one line per round and per change of the membership; warnings go to `notes`.

    With `tagged`, several nodes share the view: a round is one line too, with their mean loss, once one of them has
    gone beyond it.
    """

    def __init__(self, out: TextIO, notes: TextIO, *, tagged: bool = False) -> None:
        self._out, self._notes, self._tagged = out, notes, tagged
        self._glyphs = glyphs_for(out.encoding)
        self._board = Board(tagged=tagged)
        self._waiting = False

    def note(self, text: str) -> None:
        """Write the sentence."""
        print(text, file=self._out, flush=True)

    def expect(self, name: str) -> None:
        """Give it its place in the line of every round."""
        self._board.add(name)

    def show(self, source: str, line: Line) -> None:
        """Write what a person needs of the line."""
        if self._tagged and isinstance(line, RoundLine) and line.round > self._board.round:
            self._flush_round()
        self._board.feed(source, line)
        if isinstance(line, WarningLine):
            print(f"warning: {line.text}", file=self._notes, flush=True)
        elif isinstance(line, PeerLine):
            name = f"{line.name} {line.id[:4]}" if line.name == source else line.name
            words = f"{name} {_STATE_WORDS.get(line.state, f'is {line.state}')}"
            self.note(f"{source}: {words}" if self._tagged else words)
        elif isinstance(line, RoundLine):
            self._waiting = True
            if not self._tagged:
                self._flush_round()

    def close(self) -> None:
        """Write the last round."""
        self._flush_round()

    def _flush_round(self) -> None:
        if self._waiting:
            self._waiting = False
            self.note(_round_words(self._board, self._glyphs))


def _round_words(board: Board, glyphs: Glyphs) -> str:
    mine = [row for row in board.rows.values() if row.mine]
    words = [f"round {board.round}"]
    if board.losses:
        words.append(f"loss {board.losses[-1]:.3f}")
    if board.accuracies:
        words.append(f"accuracy {percent(board.accuracies[-1])}")
    words += [shares(board.widths)] if board.widths else []
    words += [f"{row.name} {bar(slice_cells(row.slice, row.blocks), glyphs)}" for row in mine]
    words.append(f"sent {data_size(sum(row.bytes_sent for row in mine))}")
    words.append(f"received {data_size(sum(row.bytes_received for row in mine))}")
    return f" {glyphs.dot} ".join(words)


class LiveView(QuietView):
    """Draws the board on a terminal and redraws it as lines and time come."""

    def __init__(self, console: Console, *, tagged: bool = False) -> None:
        self._board = Board(tagged=tagged)
        self._elapsed_s = 0.0
        self._glyphs = glyphs_for(console.encoding)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._render)
        self._open = True

    def note(self, text: str) -> None:
        """Write the sentence above the table."""
        self._live.console.print(escape(text), highlight=False)

    def expect(self, name: str) -> None:
        """Show its row before it says anything."""
        self._board.add(name)

    def show(self, source: str, line: Line) -> None:
        """Feed the board; `tick` redraws it."""
        self._board.feed(source, line)

    def tick(self, elapsed_s: float) -> None:
        """Redraw."""
        self._elapsed_s = elapsed_s
        if self._open and self._board.rows:
            self._live.start()
            self._live.refresh()

    def close(self) -> None:
        """Draw the last state and give the cursor back."""
        self._open = False
        self._live.stop()

    def _render(self) -> RenderableType:
        return render(self._board, self._elapsed_s, self._glyphs)


def render(board: Board, elapsed_s: float, glyphs: Glyphs) -> RenderableType:
    """The whole view: a line of figures, one of widths, a table of nodes, what moved, the newest warnings."""
    parts: list[RenderableType] = [_figures(board, elapsed_s, glyphs)]
    parts += [Text(f" width {shares(board.widths)}", style="dim")] if board.widths else []
    parts.append(_table(board, glyphs))
    if board.traffic.sent or board.traffic.received:
        parts += [Text(f" {word} {split(board.traffic, word)}", style="dim") for word in DIRECTIONS]
    parts += [Text(f" warning: {text}", style="yellow") for text in board.warnings]
    return Group(*parts)


def _figures(board: Board, elapsed_s: float, glyphs: Glyphs) -> Text:
    figures = [f" round {board.round}"]
    if board.losses:
        figures.append(f"loss {board.losses[-1]:.3f} {sparkline(board.losses, glyphs)}")
    if board.accuracies:
        figures.append(f"accuracy {percent(board.accuracies[-1])} {sparkline(board.accuracies, glyphs)}")
    figures.append(clock(elapsed_s))
    return Text("   ".join(figures))


def _table(board: Board, glyphs: Glyphs) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("node", "trains"):
        table.add_column(title, no_wrap=True)
    for title in ("share", "round", "loss", "heard", "sent", "received"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for row in board.rows.values():
        state = Text(row.state, style=_STATE_STYLES.get(row.state, ""))
        cells = _own_cells(row, glyphs) if row.mine else [""] * 7
        table.add_row(Text(row.name, style="bold" if row.mine else ""), *cells, state)
    return table


def _own_cells(row: Row, glyphs: Glyphs) -> list[str]:
    if row.round == 0 and row.loss is None:
        return [""] * 7
    return [
        bar(slice_cells(row.slice, row.blocks), glyphs),
        percent(row.share),
        str(row.round),
        "-" if row.loss is None else f"{row.loss:.3f}",
        f"{row.heard} of {row.heard + row.missing}",
        data_size(row.bytes_sent),
        data_size(row.bytes_received),
    ]


def is_drawable(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether this stream is a terminal that wants escape sequences."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "") not in ("dumb", "unknown")


def choose_view(
    streams: tuple[TextIO, TextIO], environ: Mapping[str, str], *, json: bool, quiet: bool, plain: bool, tagged: bool
) -> View:
    """The view these options and this terminal ask for; `streams` are stdout and stderr.

    `plain` rules the live table out, as a log on the same terminal would tear it; `tagged` means several nodes.
    """
    out, notes = streams
    if json:
        return JsonView(out, None if quiet else notes, tagged=tagged)
    if quiet:
        return QuietView()
    if not plain and is_drawable(out, environ):
        return LiveView(Console(file=out), tagged=tagged)
    return PlainView(out, notes, tagged=tagged)

"""What a person looks at while a swarm trains: a `Board` that lines of output are fed to, and rows that come out.

Pure: no clock, no terminal, no colours. `join` feeds it one node's lines, the demo those of all its children; a row per
node either way. Rendering is `live`'s business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from p2pfusion.algorithms.base import Traffic
from p2pfusion.app.output import DoneLine, Line, PeerLine, RoundLine, SliceAxis, WarningLine

HISTORY_MAX = 20
"""Points of a sparkline: two of them and their figures fit on 80 columns."""
ROWS_MAX = 64
"""Rows of the table: more than any terminal is high; further peers are only counted."""
BAR_CELLS = 8
WARNINGS_MAX = 3
"""Warnings kept in view: the newest, they are repeated in no log."""


@dataclass(slots=True)
class Row:
    """One node as the table shows it. `mine` rows are fed by the node itself, others by what is heard of them."""

    name: str
    mine: bool
    state: str
    round: int = 0
    loss: float | None = None
    share: float = 1.0
    slice: Mapping[str, SliceAxis] = field(default_factory=dict)
    blocks: SliceAxis | None = None
    heard: int = 0
    missing: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    peers: int = 0


class Board:
    """The state of the view: rows by node, loss and accuracy over time, the newest warnings.

    With `tagged`, several nodes of our own feed it, and a peer that bears the name of one of them is that one.
    Otherwise a peer may well be our namesake on another computer, and both are shown.
    """

    def __init__(self, *, tagged: bool = False) -> None:
        self._tagged = tagged
        self.rows: dict[str, Row] = {}
        self.losses: deque[float] = deque(maxlen=HISTORY_MAX)
        self.accuracies: deque[float] = deque(maxlen=HISTORY_MAX)
        self.warnings: deque[str] = deque(maxlen=WARNINGS_MAX)
        self.widths: Mapping[str, float] = {}
        self.round = 0
        self._states: dict[str, dict[str, str]] = {}
        self._round_losses: dict[str, float] = {}

    def add(self, name: str, state: str = "starting") -> None:
        """Show a node of our own before its first line."""
        self._mine(name).state = state

    def feed(self, source: str, line: Line) -> None:
        """Take one line that node `source` wrote."""
        match line:
            case PeerLine():
                self._feed_peer(source, line)
            case RoundLine():
                self._feed_round(source, line)
            case WarningLine():
                self.warnings.append(f"{source}: {line.text}")
            case DoneLine():
                self._feed_done(source, line)

    @property
    def traffic(self) -> Traffic:
        """Of all nodes of our own together."""
        return sum((row.traffic for row in self.rows.values() if row.mine), Traffic())

    def _mine(self, name: str) -> Row:
        return self._row(name, Row(name=name, mine=True, state="starting"))

    def _row(self, key: str, new: Row) -> Row:
        if key not in self.rows and len(self.rows) >= ROWS_MAX:
            return new
        return self.rows.setdefault(key, new)

    def _feed_peer(self, source: str, line: PeerLine) -> None:
        states = self._states.setdefault(source, {})
        if line.id in states or len(states) < ROWS_MAX:
            states[line.id] = line.state
        row = self._mine(source)
        row.peers = sum(state in ("alive", "suspect") for state in states.values())
        if row.state == "starting":
            row.state = "waiting"
        if not self._tagged or line.name not in self.rows:
            name = f"{line.name} {line.id[:4]}" if line.name in self.rows else line.name
            self._row(f"peer {line.id}", Row(name=name, mine=False, state=line.state)).state = line.state

    def _feed_round(self, source: str, line: RoundLine) -> None:
        row = self._mine(source)
        row.state, row.round, row.share, row.slice = "training", line.round, line.share, line.slice
        row.blocks, row.heard, row.missing = line.blocks, line.heard, line.missing
        # Of this round alone; the last line of a run has the totals.
        row.bytes_sent += line.bytes_sent
        row.bytes_received += line.bytes_received
        row.traffic += line.traffic
        self._feed_accuracy(line)
        if line.loss is not None:
            row.loss = line.loss
            self._round_losses[source] = line.loss
        if line.round > self.round:
            self.round = line.round
            if self._round_losses:
                self.losses.append(sum(self._round_losses.values()) / len(self._round_losses))

    def _feed_done(self, source: str, line: DoneLine) -> None:
        row = self._mine(source)
        row.state = "done" if line.status == "ok" else line.status
        row.round, row.bytes_sent, row.bytes_received = line.round, line.bytes_sent, line.bytes_received
        row.traffic = line.traffic
        self._feed_accuracy(line)

    def _feed_accuracy(self, line: RoundLine | DoneLine) -> None:
        """Rounds repeat what was measured last; only what is new is a point."""
        accuracy, self.widths = line.accuracy, line.widths or self.widths
        if accuracy is not None and (not self.accuracies or self.accuracies[-1] != accuracy):
            self.accuracies.append(accuracy)


def slice_cells(axes: Mapping[str, SliceAxis], blocks: SliceAxis | None = None, cells: int = BAR_CELLS) -> list[bool]:
    """Which of `cells` equal parts of the model's width are trained, on average over the sliced axes (half counts).

    An axis that is not listed is whole, so no axes at all means the whole model. Where `blocks` are missing, the parts
    are those of the model's blocks, and each is as full as its blocks are held.
    """
    if blocks is not None:
        return slice_cells({"blocks": blocks}, cells=cells)
    if not axes:
        return [True] * cells
    covered = [0.0] * cells
    for axis in axes.values():
        for start, stop in axis.kept:
            for cell in range(cells):
                left, right = cell * axis.size / cells, (cell + 1) * axis.size / cells
                covered[cell] += max(0.0, min(right, stop) - max(left, start)) / (right - left)
    return [total * 2 >= len(axes) for total in covered]

"""What a script reads: one JSON object per event on one line, exactly as PROTOCOL.md 11 lays it down.

`line_of` turns a node's event into a line, `to_json` a line into text, `from_json` the text back into a line. All three
are pure. The lines are types of their own, not the node's events, because they are a contract with other people's
scripts: a field of the node may change its name, a field here may not. The demo's parent, the views and later replays
read lines only, so they cannot tell a node in this process from one in another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.errors import WireError
from p2pfusion.node.events import Done, Event, PeerEvent, WarningEvent

VERSION = 1
LINE_BYTES_MAX = 1 << 18
"""One line of a child's output; a `round` with 256 axes of 512 ranges would be longer, everything real is far below."""
Status = Literal["ok", "interrupted", "timeout", "failed"]


@dataclass(frozen=True, slots=True)
class SliceAxis:
    """What a node trains of one axis, or of the blocks: half-open index ranges of `size` indices."""

    size: int
    kept: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLine:
    """Somebody came, went or fell silent."""

    event: ClassVar[str] = "peer"
    name: str
    id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """One round of one node. `loss` is None where nothing was trained, `accuracy` where it was not measured.

    `covered`, `covered_units`, `covered_pairs`: shares of the model's scalars, units and pairs of units that somebody
    has trained since this node began; `seconds` by phase, `utilisation` the share of them that it trained; `traffic`
    splits the round's bytes by kind; `widths`: accuracies of all networks in the model, where it holds several.
    `blocks`: which of the model's blocks, in its order; None, and absent from the object, where none is missing.
    """

    event: ClassVar[str] = "round"
    round: int
    loss: float | None
    share: float
    heard: int
    missing: int
    patience_s: float
    bytes_sent: int
    bytes_received: int
    head: str
    accuracy: float | None = None
    covered: float = 0.0
    slice: Mapping[str, SliceAxis] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    widths: Mapping[str, float] = field(default_factory=dict)
    blocks: SliceAxis | None = None
    utilisation: float = 0.0
    covered_units: float = 0.0
    covered_pairs: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningLine:
    """Something a person should know; the run goes on."""

    event: ClassVar[str] = "warning"
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneLine:
    """The end of a run. `model_sha256` and `chain` are None only if it was cut off before they could be told.

    `traffic` splits the bytes by kind; `accuracy` is that of the network `served`, `widths` those of all.
    """

    event: ClassVar[str] = "done"
    status: Status
    name: str
    round: int
    accuracy: float | None
    model_sha256: str | None
    chain: str | None
    bytes_sent: int
    bytes_received: int
    seconds: float
    traffic: Traffic = field(default_factory=Traffic)
    widths: Mapping[str, float] = field(default_factory=dict)
    served: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoDoneLine(DoneLine):
    """The end of a demo: the common result, every node's own, and what the three comparisons reached."""

    nodes: tuple[DoneLine, ...]
    alone_accuracy: float | None
    small_accuracy: float | None
    full_accuracy: float | None


Line = PeerLine | RoundLine | WarningLine | DoneLine
_LINES: dict[str, type[PeerLine] | type[RoundLine] | type[WarningLine] | type[DoneLine]] = {
    line.event: line for line in (PeerLine, RoundLine, WarningLine, DoneLine)
}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; what is not a number is null."""
    return value if value is not None and math.isfinite(value) else None


def _slice_of(report: RoundReport, blueprint: Blueprint) -> dict[str, SliceAxis]:
    sizes = {axis.name: axis.size for axis in blueprint.axes}
    return {name: SliceAxis(sizes[name], tuple(ranges)) for name, ranges in report.sub_model.kept}


def _blocks_of(report: RoundReport, blueprint: Blueprint) -> SliceAxis | None:
    held, blocks = frozenset(report.sub_model.blocks), blueprint.blocks
    if len(held) == len(blocks):
        return None
    edges = [False, *(block in held for block in blocks), False]
    turns = [place for place, (before, after) in enumerate(pairwise(edges)) if before != after]
    return SliceAxis(len(blocks), tuple(zip(turns[::2], turns[1::2], strict=True)))


def _round_line(report: RoundReport, blueprint: Blueprint) -> RoundLine:
    return RoundLine(
        round=report.round,
        loss=_finite(report.loss),
        share=report.share,
        covered=report.covered,
        heard=report.heard,
        missing=report.missing,
        patience_s=report.patience_s,
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        head=report.head,
        accuracy=_finite(report.accuracy),
        slice=_slice_of(report, blueprint),
        seconds={name: round(taken_s, 3) for name, taken_s in report.seconds.items()},
        traffic=report.traffic,
        widths=dict(report.widths),
        blocks=_blocks_of(report, blueprint),
        utilisation=round(report.utilisation, 3),
        covered_units=report.covered_units,
        covered_pairs=report.covered_pairs,
    )


def line_of(event: Event, blueprint: Blueprint) -> Line:
    """The line a script reads for this event; `blueprint` gives the axes' sizes."""
    match event:
        case PeerEvent():
            return PeerLine(name=event.name, id=event.id, state=event.state)
        case RoundReport():
            return _round_line(event, blueprint)
        case WarningEvent():
            return WarningLine(code=event.code, text=event.text)
        case Done():
            values = {item.name: getattr(event, item.name) for item in fields(DoneLine)}
            return DoneLine(**{**values, "accuracy": _finite(event.accuracy)})


def object_text(event: str, value: Any) -> str:
    """One JSON object of any flat dataclass, in the same form: what commands without a run print."""
    return json.dumps({"v": VERSION, "event": event, **asdict(value)}, allow_nan=False, separators=(",", ":"))


def to_dict(line: Line) -> dict[str, Any]:
    """The JSON object of a line."""
    value = {"v": VERSION, "event": line.event, **asdict(line)}
    if isinstance(line, RoundLine) and line.blocks is None:
        del value["blocks"]
    return value


def to_json(line: Line, **more: str) -> str:
    """One line of text without its newline; `more` adds fields, as the demo does with the node's name."""
    return json.dumps({**to_dict(line), **more}, allow_nan=False, ensure_ascii=True, separators=(",", ":"))


def from_json(text: str | bytes) -> Line:
    """The inverse of `to_json`; fields this version does not know are left out. Raises `WireError`."""
    try:
        value = json.loads(text)
        if value["v"] != VERSION:
            raise WireError(f"a line of version {value['v']!r}: expected {VERSION}")
        return _line_from(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a line of a node's output: {error}") from error


def _line_from(value: dict[str, Any]) -> Line:
    line = _LINES[value["event"]]
    known = {item.name: value[item.name] for item in fields(line) if item.name in value}
    if "traffic" in known:
        known["traffic"] = Traffic(**{item.name: int(known["traffic"].get(item.name, 0)) for item in fields(Traffic)})
    if line is RoundLine:
        known["slice"] = {name: _axis_from(axis) for name, axis in known.get("slice", {}).items()}
        known["blocks"] = _axis_from(known["blocks"]) if "blocks" in known else None
    return line(**known)


def _axis_from(value: dict[str, Any]) -> SliceAxis:
    return SliceAxis(int(value["size"]), tuple((int(start), int(stop)) for start, stop in value["kept"]))

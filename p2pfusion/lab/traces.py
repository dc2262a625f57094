"""One run as text: done from its order, written as a trace, read back, done again and compared.

A trace is JSON Lines. The first line is the order and everything a replay depends on: scenario, seed, versions, and the
timeline of faults that the seed gave. Then what befell the nodes and what they told, in virtual time; then the row of
results. Orders and traces travel between processes and machines as this text and nothing else. This module opens no
file; what a task's name means is told by its caller.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from traceback import format_exception
from typing import Any

from blake3 import blake3

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.config import COMMON_RATE_DEFAULT
from p2pfusion.errors import ConfigError, InvariantViolation, TaskError, TrainingError, Unfinished, UsageError
from p2pfusion.lab.knobs import Order
from p2pfusion.lab.results import Simulated, failed, row_from_json, row_json, row_of
from p2pfusion.node.events import Done, Event, PeerEvent, WarningEvent
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.loading import from_table
from p2pfusion.sim.loop import Deadlock
from p2pfusion.sim.timeline import timeline
from p2pfusion.sim.world import Learner, simulate

FORMAT = 1
"""Version of the trace."""
FAILURE_CHARS_MAX = 200
"""Of the text why a run failed: the first line of what a checker said."""

Say = Callable[[int], None]
"""Told the newest round of a run whenever it grew."""
MakeLearner = Callable[[Order], Learner]
"""From an order to what each node learns. Raises `TaskError` for a task that is not known."""


class NoTrace(ConfigError):
    """A text that is not the trace of a run."""


# -- orders -----------------------------------------------------------------------------------------------------------


def order_text(order: Order) -> str:
    """An order as one line."""
    return _json(_order_json(order))


def order_from(text: str) -> Order:
    """The order in a line that `order_text` wrote, or in the first line of a trace.

    Raises `NoTrace`, and `ConfigError` for a trace of another version, naming what is different.
    """
    try:
        value = json.loads(text)
        if value["event"] != "run":
            raise NoTrace("not the trace of a run")
        if value["v"] != FORMAT:
            raise ConfigError(f"v = {value['v']!r}: must be {FORMAT}, the version of traces that this p2pfusion reads")
        return Order(
            scenario=from_table(value["scenario"], "trace"),
            seed=value["seed"],
            task=value["task"],
            algorithm=value["algorithm"],
            common=value.get("common", COMMON_RATE_DEFAULT),  # older traces had neither
            momentum=value.get("momentum", 0.0),
            settings={name: math.inf if one == "inf" else one for name, one in value["settings"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoTrace(f"not the trace of a run ({error})") from error


def _order_json(order: Order) -> dict[str, Any]:
    return {
        "v": FORMAT,
        "event": "run",
        "scenario": asdict(order.scenario),
        "seed": order.seed,
        "task": order.task,
        "algorithm": order.algorithm,
        "common": order.common,
        "momentum": order.momentum,
        "settings": {name: "inf" if one == math.inf else one for name, one in order.settings.items()},
    }


def versions() -> dict[str, str]:
    """What may change the bits of a run besides its order."""
    packages = {name: version(name) for name in ("p2pfusion", "numpy", "torch")}
    return {**packages, "code": _code_hash(), "python": platform.python_version(), "machine": platform.machine()}


@cache
def _code_hash() -> str:
    """Of this package's own source: between two versions it changes more often than its number."""
    package = files("p2pfusion")
    digest = blake3()
    for name, text in sorted(_sources(package, "")):
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:16]


def _sources(folder: Traversable, place: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry, f"{place}{entry.name}/")
        elif entry.name.endswith((".py", ".toml", ".npz")):
            yield place + entry.name, entry.read_bytes()


# -- runs -------------------------------------------------------------------------------------------------------------


def perform(order: Order, make_learner: MakeLearner, say: Say = lambda _: None) -> str:
    """Do the run; its trace as text. A run that breaks an invariant or does not end is a trace that says so.

    Raises `UsageError` and `TaskError` before anything is simulated, `TrainingError` when the task is to blame.
    """
    faults = timeline(order.scenario, order.seed)
    head = {
        **_order_json(order),
        "versions": versions(),
        "timeline": [[fault.at_s, fault.kind, fault.index, fault.value] for fault in faults],
    }
    lines = [_json(head)]
    newest = 0

    def note(at_s: float, name: str, what: Event | Fault) -> None:
        nonlocal newest
        lines.append(_json({"at_s": at_s, "name": name, **_event_json(what)}))
        if isinstance(what, RoundReport) and what.round > newest:
            newest = what.round
            say(min(newest, order.scenario.rounds))

    learner = make_learner(order)
    try:
        row = row_of(order, simulate(order.scenario, learner, order.seed, note=note))
    except (UsageError, TaskError, TrainingError):
        raise
    except Exception as error:
        # One bad run must not cost the others of a sweep theirs; where it happened stands in the trace.
        lines.append(_json({"event": "error", "traceback": "".join(format_exception(error))}))
        row = failed(order, _why(error))
    lines.append(_json({"event": "result", **row_json(row)}))
    return "\n".join(lines) + "\n"


def _why(error: Exception) -> str:
    """One line: what a checker or the simulation said, or that it is our bug."""
    text = str(error).partition("\n")[0]
    is_told = isinstance(error, InvariantViolation | Unfinished | Deadlock)
    return (text if is_told else f"{type(error).__name__}: {text} (a bug: the trace has more)")[:FAILURE_CHARS_MAX]


def _event_json(what: Event | Fault) -> dict[str, Any]:
    match what:
        case Fault():
            return {"event": "fault", "kind": what.kind, "index": what.index, "value": what.value}
        case RoundReport():
            return {"event": "round", **_round_json(what)}
        case PeerEvent():
            return {"event": "peer", "peer": what.name, "id": what.id, "state": what.state}
        case WarningEvent():
            return {"event": "warning", "code": what.code, "text": what.text}
        case Done():
            return {"event": "done", "status": what.status, "round": what.round, "accuracy": _finite(what.accuracy),
                    "model_sha256": what.model_sha256, "chain": what.chain}  # fmt: skip


def _round_json(report: RoundReport) -> dict[str, Any]:
    whole = ("round", "share", "covered", "covered_units", "covered_pairs", "heard", "missing", "late", "peers",
             "tip_round", "bytes_sent", "bytes_received", "head")  # fmt: skip
    real = ("loss", "accuracy", "patience_s")
    return {
        **{name: getattr(report, name) for name in whole},
        **{name: _finite(getattr(report, name)) for name in real},
        **({"widths": dict(report.widths)} if report.widths else {}),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; what is not a number is null."""
    return value if value is not None and math.isfinite(value) else None


def _json(value: object) -> str:
    """Floats are written so that reading gives the same bits."""
    return json.dumps(value, separators=(",", ":"))


# -- reading ----------------------------------------------------------------------------------------------------------


def result_of(trace: str) -> Simulated:
    """The row a trace ends with. Raises `ConfigError` for a trace that was cut off."""
    last = trace.rstrip("\n").rpartition("\n")[2]
    try:
        value = json.loads(last)
        if value["event"] == "result":
            return row_from_json(value)
    except (ValueError, KeyError, TypeError):
        pass  # said below
    raise ConfigError("the trace ends without a result: it was cut off, or is no trace")


def changed_since(trace: str) -> list[str]:
    """What is not as it was when the trace was written and may give other bits: versions, the drawing of faults."""
    head = json.loads(trace.partition("\n")[0])
    order = order_from(_json(head))
    before, now = head.get("versions", {}), versions()
    changed = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
    drawn = [[fault.at_s, fault.kind, fault.index, fault.value] for fault in timeline(order.scenario, order.seed)]
    return changed if head.get("timeline") == drawn else [*changed, "the seed gives another timeline of faults"]


def differences(before: Simulated, after: Simulated) -> list[str]:
    """Which of two rows' fields differ, hashes first."""
    names = dict.fromkeys(["trace_hash", "model_sha256", *(item.name for item in fields(Simulated))])
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [f"{name} was {first}, is {second}" for name, first, second in pairs if first != second]


def event_differences(before: str, after: str) -> list[str]:
    """The first line between order and result in which two traces differ. Where in our code a bug was is no event."""
    first, second = _events(before), _events(after)
    if len(first) != len(second):
        return [f"it has {len(first)} events, the replay {len(second)}"]
    pairs = enumerate(zip(first, second, strict=True), start=2)
    return next(([f"line {number} is another event"] for number, (one, other) in pairs if one != other), [])


def _events(trace: str) -> list[str]:
    return [line for line in trace.splitlines()[1:-1] if not line.startswith('{"event":"error"')]

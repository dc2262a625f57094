"""What makes two runs the same, in words: the settings behind the run id, and the first difference between two runs.

A peer with another run id is refused with a `RunDescription`, so that the refused side can say *which* parameter or
setting differs instead of "409". The description fits one gossip body: of a model with very many parameters it lists as
many as fit, and the fingerprint, which is a setting too, covers the rest.

This module knows no bytes: `codec.run_id` hashes `settings`, so the run id and the words can never disagree.
"""

from __future__ import annotations

from itertools import zip_longest

from p2pfusion.config import (
    AXES_MAX,
    BLOCKS_MAX,
    COVERED_IDS_MAX,
    DESCRIPTION_TEXT_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    LABEL_BYTES_MAX,
    LINK_IDS_MAX,
    MANIFEST_BYTES_MAX,
    PARAMETERS_MAX,
    PROTOCOL_VERSION,
    RANGES_PER_AXIS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENTS_MAX,
    VALUE_MAX,
    WEIGHT_MAX,
    RunConfig,
)
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.wire.compression import CODECS
from p2pfusion.wire.messages import PeerId, RunDescription
from p2pfusion.wire.schema import is_clean

Lines = tuple[tuple[str, str], ...]

MORE = "..."
"""Name of the line that stands for the parameters that did not fit."""

_LINE_BYTES = 12
"""At most this much per line besides its two texts, and the whole description's other fields count as 100 lines."""


def settings(run: RunConfig, fingerprint: bytes, genesis_hash: bytes) -> Lines:
    """Everything all peers of a run must share, as (name, value) in the order in which differences are told.

    The limits of the gate belong to it: what one node accepts and another refuses would fork the chain.
    """
    limits = {
        "weight": WEIGHT_MAX,
        "magnitude": VALUE_MAX,
        "segment bytes": SEGMENT_BYTES_MAX,
        "segments": SEGMENTS_MAX,
        "manifest bytes": MANIFEST_BYTES_MAX,
        "label bytes": LABEL_BYTES_MAX,
        "axes": AXES_MAX,
        "ranges": RANGES_PER_AXIS_MAX,
        "blocks": BLOCKS_MAX,
        "ids": LINK_IDS_MAX,
        "covered": COVERED_IDS_MAX,
    }
    return (
        ("protocol", str(PROTOCOL_VERSION)),
        ("swarm", _clean(run.swarm)),
        ("fold_rule", run.fold_rule),
        ("horizon", str(run.horizon_rounds)),
        ("staleness_max", str(run.staleness_max_rounds)),
        ("snapshot_every", str(run.snapshot_every_rounds)),
        ("codecs", ", ".join(sorted(CODECS))),
        ("gate limits", ", ".join(f"{value} {name}" for name, value in limits.items())),
        ("fingerprint", fingerprint.hex()),
        ("genesis", genesis_hash.hex()),
    )


def describe_run(
    run: RunConfig, blueprint: Blueprint, genesis_hash: bytes, *, sender: PeerId, members: int, newest: int
) -> RunDescription:
    """The body of a 409. The seed is told as well: it explains another genesis, though it is no part of the run id."""
    told = settings(run, blueprint.fingerprint(), genesis_hash)
    lines = (*told[:-1], ("seed", str(run.seed)), told[-1])
    left = GOSSIP_BYTES_MAX - sum(_size(line) for line in lines) - 100 * _LINE_BYTES
    parameters: list[tuple[str, str]] = []
    for name, text in blueprint.describe():
        line = (_clean(name), _clean(text))
        left -= _size(line)
        if left < 0 or len(parameters) == PARAMETERS_MAX - 1:
            parameters.append((MORE, f"{len(blueprint.parameters) - len(parameters)} more"))
            break
        parameters.append(line)
    return RunDescription(settings=lines, parameters=tuple(parameters), sender=sender, members=members, newest=newest)


def first_difference(mine: RunDescription, theirs: RunDescription) -> str | None:
    """One sentence about the first thing in which two runs differ, None when nothing does.

    The protocol comes first, then parameters in order, then settings: a wrong model is the likeliest and the plainest.
    """
    ours, swarms = dict(mine.settings), dict(theirs.settings)
    if ours.get("genesis") == swarms.get("genesis"):
        ours.pop("seed", None)
        swarms.pop("seed", None)
    return (
        _setting("protocol", ours, swarms)
        or _parameter(mine.parameters, theirs.parameters)
        or next((told for name in ours | swarms if (told := _setting(name, ours, swarms))), None)
    )


def _setting(name: str, ours: dict[str, str], swarms: dict[str, str]) -> str | None:
    if ours.get(name) == swarms.get(name):
        return None
    return f"setting {name}: swarm has {swarms.get(name, 'none')}, you have {ours.get(name, 'none')}"


def _parameter(mine: Lines, theirs: Lines) -> str | None:
    none = ("", "none")
    for (name, text), (their_name, their_text) in zip_longest(mine, theirs, fillvalue=none):
        if MORE in (name, their_name):
            return None
        if name == their_name and text != their_text:
            return f"parameter {name}: swarm has {their_text}, you have {text}"
        if name != their_name and their_name:
            return f"parameter {their_name}: swarm has {their_text}, you have {dict(mine).get(their_name, 'none')}"
        if name != their_name:
            return f"parameter {name}: swarm has none, you have {text}"
    return None


def _size(line: tuple[str, str]) -> int:
    return _LINE_BYTES + len(line[0].encode()) + len(line[1].encode())


def _clean(text: str) -> str:
    """A text the wire carries: control characters replaced, cut to the limit, never empty."""
    shown = "".join(character if is_clean(character) else "?" for character in text) or "?"
    return shown.encode(errors="replace")[:DESCRIPTION_TEXT_BYTES_MAX].decode(errors="ignore")

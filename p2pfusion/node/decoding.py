"""From what the ledger counts to what the fold takes: contributions decoded into float32. Runs in the executor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.replica import Round
from p2pfusion.core.submodel import Vector
from p2pfusion.swarm.ledger import Counting, Entry
from p2pfusion.wire.compression import decode_into, elements_per_segment


def values_of(blueprint: Blueprint, entry: Entry) -> Vector:
    """A complete contribution's values, flat float32 of its sub-model; the ids behind a graft's are not read."""
    manifest = entry.manifest
    values = np.empty(manifest.sub_model.size(blueprint), np.float32)
    step = elements_per_segment(manifest.codec)
    for index, start in enumerate(range(0, values.size, step)):
        segment = entry.segments[index]
        if segment is None:
            raise ValueError("an incomplete contribution cannot be folded")
        decode_into(manifest.codec, segment, values[start : start + step])
    return values


def weighted(blueprint: Blueprint, entry: Entry) -> Weighted:
    """One member of a round's mean."""
    manifest = entry.manifest
    return Weighted(manifest.peer, manifest.weight, manifest.sub_model, values_of(blueprint, entry))


def decoded(blueprint: Blueprint, counting: Counting) -> Round:
    """A whole round as the fold takes it."""
    graft = values_of(blueprint, counting.graft) if counting.graft is not None else None
    return [weighted(blueprint, entry) for entry in counting.work], graft


def folded(blueprint: Blueprint, model: Vector, counting: Counting) -> Vector:
    """The sealed model after one more round."""
    return fold(blueprint, blueprint.whole(), model, *decoded(blueprint, counting))


def counting_of(entries: Sequence[Entry], graft: bytes | None) -> Counting:
    """What a link counts, of the entries it names: all work, and the one graft that counted."""
    work = tuple(entry for entry in entries if entry.manifest.kind == "work")
    return Counting(work, next((entry for entry in entries if entry.id == graft), None))

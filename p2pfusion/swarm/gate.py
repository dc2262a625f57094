"""The gate: whether a contribution may enter the ledger. A pure function of its bytes and the run's configuration.

Everybody must judge alike, or ledgers fill with what others refuse; so no rule looks at a clock, a peer's reputation or
the ledger. Cheap rules come first. A reason is a short fixed code for counters and logs, never a text with input in it.

The gate knows neither who sent something (an author's work is relayed by anyone) nor whether it is still wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from p2pfusion.config import COVERED_IDS_MAX, VALUE_MAX, WEIGHT_MAX, RunConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.errors import WireError
from p2pfusion.swarm.grafts import cover_sizes, ids_in
from p2pfusion.wire.compression import CODECS, Body, elements_per_segment, opened, segment_elements, size_range
from p2pfusion.wire.messages import Contribution

Rule = Callable[[Contribution, Blueprint, RunConfig], bool]
_DECODED_MAX = VALUE_MAX * (1 + 2.0**-20)
"""For what an author checked against `VALUE_MAX` and a codec's rounding put an ulp above it. Integers that no encoder
writes, a seventh above that at most, pass too: `VALUE_MAX` leaves room for far more."""


def judge(manifest: Contribution, blueprint: Blueprint, run: RunConfig) -> str | None:
    """Why this manifest may not enter a ledger of this run: the code of the first rule it breaks, or None."""
    return next((reason for reason, holds in RULES if not holds(manifest, blueprint, run)), None)


def judge_segment(manifest: Contribution, index: int, data: Body, blueprint: Blueprint) -> str | None:
    """Why these bytes are not segment `index` of a manifest that passed `judge`: `index`, `size`, `hash`, `covers`,
    `encoding`, `finite`.
    """
    if not 0 <= index < len(manifest.segments):
        return "index"
    expected = manifest.segments[index]
    if memoryview(data).nbytes != expected.size:
        return "size"
    if blake3(data).digest() != expected.hash:
        return "hash"
    if manifest.graft is not None and index >= len(manifest.segments) - len(cover_sizes(manifest.graft.covers)):
        return None if is_ascending(data) else "covers"
    step = elements_per_segment(manifest.codec)
    try:
        segment = opened(manifest.codec, data, min(step, manifest.sub_model.size(blueprint) - index * step))
    except WireError:
        return "encoding"
    return None if segment.largest() <= _DECODED_MAX else "finite"


def is_sound(values: NDArray[np.float32]) -> bool:
    """Whether all elements are finite and at most `VALUE_MAX`. Exact, and the same on every machine.

    A sum of squares cannot cancel, so if it is finite, every element is below 2e19: one pass without a temporary array.
    Only when it is not, each element is looked at.
    """
    with np.errstate(all="ignore"):
        squares = np.dot(values, values)
    return bool(np.isfinite(squares)) or bool((np.abs(values) <= VALUE_MAX).all())


def is_ascending(data: Body) -> bool:
    """Whether a segment of ids lists each once, in order."""
    ids = ids_in(bytes(data))
    return all(one < other for one, other in pairwise(ids))


def _has_right_sub_model(manifest: Contribution, blueprint: Blueprint, _: RunConfig) -> bool:
    try:
        manifest.sub_model.validate(blueprint)
    except ValueError:
        return False
    return True


def _has_right_segments(manifest: Contribution, blueprint: Blueprint, _: RunConfig) -> bool:
    """The schema alone says how many segments there are and how large; an empty sub-model has none and is refused."""
    elements = segment_elements(manifest.codec, manifest.sub_model.size(blueprint))
    covers = cover_sizes(manifest.graft.covers) if manifest.graft else ()
    sizes = tuple(segment.size for segment in manifest.segments)
    if not elements or len(sizes) != len(elements) + len(covers) or sizes[len(elements) :] != covers:
        return False
    ranges = (size_range(manifest.codec, one) for one in elements)
    return all(least <= size <= most for size, (least, most) in zip(sizes, ranges, strict=False))


def _is_whole_graft(manifest: Contribution, blueprint: Blueprint, _: RunConfig) -> bool:
    """A graft is the full model, lossless, with its own weights in place of a contribution's; work has none of it."""
    graft = manifest.graft
    if manifest.kind == "work" or graft is None:
        return manifest.kind == "work" and graft is None
    return (
        (manifest.weight, manifest.samples, manifest.codec) == (1, 0, "fp32")
        and manifest.sub_model == blueprint.whole()
        and 1 <= graft.weight_lost <= graft.weight_kept
        and 1 <= graft.length <= manifest.round
        and 1 <= graft.covers <= COVERED_IDS_MAX
        and graft.weight_lost <= graft.covers * WEIGHT_MAX
    )


RULES: tuple[tuple[str, Rule], ...] = (
    ("shard", lambda c, _b, _r: c.shard == 0),
    ("graft", _is_whole_graft),
    ("round", lambda c, _b, _r: c.round >= 1),
    ("staleness", lambda c, _b, r: 0 <= c.round - c.base_round <= r.staleness_max_rounds),
    ("weight", lambda c, _b, _r: 1 <= c.weight <= WEIGHT_MAX),
    ("samples", lambda c, _b, _r: c.samples >= 1 or c.kind == "graft"),
    ("codec", lambda c, _b, _r: c.codec in CODECS),
    ("sub-model", _has_right_sub_model),
    ("segments", _has_right_segments),
)
"""(reason, rule), in the order of their cost; later ones rely on the earlier ones."""

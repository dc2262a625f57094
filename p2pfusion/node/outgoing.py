"""What a contribution is made of before it is published: delta and residual, encoded, and what that loses.

Runs in the executor on values that nobody changes, and changes nothing: whether it is published decides `authoring`.
What is large is gone through in pieces that stay in the processor's cache, and copied only where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from p2pfusion.core.replica import Lent
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter, tensor_sizes
from p2pfusion.swarm.gate import is_sound
from p2pfusion.swarm.thrift import Choice
from p2pfusion.wire.compression import Coding, elements_per_segment, encoded, opened
from p2pfusion.wire.messages import SegmentInfo

_CHUNK = 1 << 16
"""Elements at a time, a multiple of the codecs' blocks: 256 KiB, so three of them stay in a core's second cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """Encoded segments with what the manifest says of them.

    `residual`: the whole one once they are published; None when there is none before and none after. `change`: how it
    differs in the sub-model's elements; computed when asked for, which is only when another residual needs it.
    """

    segments: tuple[bytes, ...]
    infos: tuple[SegmentInfo, ...]
    residual: Vector | None
    change: Callable[[], Vector]


def prepare(lent: Lent, sub_model: SubModel, delta: Vector, choice: Choice, seed: int) -> Outgoing | None:
    """`delta` plus the residual of its elements, as segments. None when the numbers are not sound.

    What everybody decodes counts, so what is lost is the sum minus what the segments decode to.
    """
    blueprint = lent.blueprint
    total, rest = _produced(lent, sub_model, delta)
    if total is None:
        return None
    coding = Coding(choice.density, tensor_sizes(blueprint, sub_model), seed, lossless=choice.lossless)
    # The sum is ours and becomes what is lost; a delta without residual is the caller's.
    lost = None if choice.codec == "fp32" else np.empty_like(total) if total is delta else total
    segments, step = [], elements_per_segment(choice.codec)
    for index, segment in enumerate(encoded(choice.codec, total, coding)):
        segments.append(segment)
        if lost is not None:
            part = slice(index * step, (index + 1) * step)
            _lose(choice.codec, segment, total[part], lost[part])
    infos = tuple(SegmentInfo(blake3(segment).digest(), len(segment)) for segment in segments)
    residual = _left(lent, sub_model, rest, lost)
    return Outgoing(tuple(segments), infos, residual, lambda: _change(lent, sub_model, residual))


def _produced(lent: Lent, sub_model: SubModel, delta: Vector) -> tuple[Vector | None, Vector | None]:
    """Delta plus residual, the delta itself when there is none; and a whole residual of our own where it is a slice's.

    None for the sum when it is not sound.
    """
    is_whole = sub_model == lent.blueprint.whole()
    if lent.vector is None and not lent.owed:
        return (delta if is_sound(delta) else None), None
    if is_whole and not lent.owed and lent.vector is not None:
        taken, total, rest = lent.vector, np.empty_like(delta), None
    elif is_whole:
        total, rest = lent.settled(), None
        taken = total
    else:
        rest = lent.settled()
        total = extract(lent.blueprint, rest, sub_model)
        taken = total
    for start in range(0, delta.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        np.add(delta[part], taken[part], out=total[part])
        if not is_sound(total[part]):
            return None, None
    return total, rest


def _lose(codec: str, segment: bytes, total: Vector, lost: Vector) -> None:
    """`lost` = `total`, which it may be, minus what a segment decodes to."""
    decoded, read = np.empty(min(_CHUNK, total.size), np.float32), opened(codec, segment, total.size).read
    for start in range(0, total.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        values = decoded[: total[part].size]
        read(start, values)
        np.subtract(total[part], values, out=lost[part])


def _left(lent: Lent, sub_model: SubModel, rest: Vector | None, lost: Vector | None) -> Vector | None:
    """The whole residual afterwards. `lost` None: nothing is; `rest` None: zeros outside the sub-model."""
    blueprint = lent.blueprint
    if sub_model == blueprint.whole():
        if lost is not None or (lent.vector is None and not lent.owed):
            return lost
        return np.zeros(blueprint.size, np.float32)
    if rest is None:
        if lost is None:
            return None
        rest = np.zeros(blueprint.size, np.float32)
    scatter(blueprint, rest, sub_model, 0.0 if lost is None else lost)
    return rest


def _change(lent: Lent, sub_model: SubModel, residual: Vector | None) -> Vector:
    blueprint = lent.blueprint
    if residual is None:
        return np.zeros(sub_model.size(blueprint), np.float32)
    after = extract(blueprint, residual, sub_model)
    if lent.vector is not None or lent.owed:
        after -= extract(blueprint, lent.settled(), sub_model)
    return after

"""The fold: one round's contributions become one change of the model, the same bits on every machine (PROTOCOL.md 3).

    delta[e] = sum(a_c * d_c[e] for c that contain e, ascending peer id) / sum(a_c for the same c)
    W[e]     = W[e] + delta[e]        (unchanged, bit for bit, where nothing covers e)

float32, element-wise, no reduction across elements. Why the bits are equal: the order is the peers' ids; every step is
a single correctly rounded IEEE operation (multiply and add stay apart, a fused one rounds differently); weights are
summed as int64 and converted once; nothing flushes denormals. With one common base this is MSfusion's overlap
averaging (PAPERS.md 1.5).

Why it is fast: `cells` cuts the target so that many rows share one row of weight sums, and all steps are done on one
chunk that stays in the processor's cache before the next one is looked at. So every value crosses the memory bus once,
what is encoded is decoded as it goes by, and temporary memory does not grow with the model.

It knows nothing of rounds, ledgers or segments: it gets what counts, already judged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.cells import CHUNK_ELEMENTS, Block, Part, cut
from p2pfusion.core.overlaps import Index
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.values import Values, as_values

COVERED_RUNS_MAX = 16
"""Covered stretches of a row that are treated one by one; more are a mask."""
_ZERO = np.float32(0)


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """One contribution as the fold sees it: author, integer weight in 1..2^32, values (flat float32)."""

    peer: bytes
    weight: int
    sub_model: SubModel
    values: Vector | Values

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"weight = {self.weight}: must be 1 to {WEIGHT_MAX}")
        as_values(self.values)


def fold(
    blueprint: Blueprint,
    target: SubModel,
    base: Vector,
    contributions: Iterable[Weighted],
    graft: Vector | Values | None = None,
) -> Vector:
    """The target's values after a round; `base` are its values before. A new vector; a slice costs a slice.

    A `graft` (flat, of the whole model) is no member of the mean: it is added after it (PROTOCOL.md 5).
    A contribution given twice counts once. Raises `ValueError` for values of another size than their sub-model's, and
    for two different contributions of one peer (the ledger keeps the one that counts).

    Values so large that their weighted sum leaves float32 give infinities, the same ones everywhere; the gate bounds
    them. Adding a delta of +0.0 turns -0.0 into +0.0, as IEEE says.
    """
    counted = _checked(blueprint, target, base, contributions)
    after = np.empty(base.shape, np.float32)
    _mean(blueprint, target, base, after, counted)
    if graft is not None:
        add(blueprint, target, after, blueprint.whole(), graft)
    return after


def fold_into(
    blueprint: Blueprint,
    target: SubModel,
    values: Vector,
    contributions: Iterable[Weighted],
    graft: Vector | Values | None = None,
) -> None:
    """The same in place, for values that nobody else looks at."""
    counted = _checked(blueprint, target, values, contributions)
    _mean(blueprint, target, values, values, counted)
    if graft is not None:
        add(blueprint, target, values, blueprint.whole(), graft)


def add(
    blueprint: Blueprint,
    target: SubModel,
    values: Vector,
    sub_model: SubModel,
    theirs: Vector | Values,
    sign: float = 1.0,
) -> None:
    """Add `sign` times a sub-model's values to those elements of the target's that it shares, in place."""
    source = as_values(theirs)
    if source.size != sub_model.size(blueprint) or values.shape != (target.size(blueprint),):
        raise ValueError(f"{source.size} values to add to {values.size}: not those of the sub-models")
    factor, scratch = np.float32(sign), _Scratch()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in cut(blueprint, target, (sub_model,)):
            (part,) = block.parts
            for first, stop in block.chunks():
                mine = _rows(values, block, first, stop)
                scratch.add(mine, part, _read(source, part, block, first, stop), factor)


def model_sha256(vector: Vector) -> str:
    """SHA-256 of a model's values in blueprint order, little-endian float32, in hex: `model_sha256` of every report."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").data).hexdigest()


class _Scratch:
    """Temporary memory of one fold: a chunk's sums, and what is about to be added to them."""

    def __init__(self) -> None:
        self._flat = [np.empty(0, np.float32), np.empty(0, np.float32)]

    def array(self, which: int, shape: tuple[int, ...], size: int) -> Vector:
        """An array of that shape, holding anything."""
        if self._flat[which].size < size:
            self._flat[which] = np.empty(max(size, min(2 * size, CHUNK_ELEMENTS)), np.float32)
        return self._flat[which][:size].reshape(shape)

    def add(self, total: Vector, part: Part, theirs: Vector, factor: np.float32) -> None:
        """total += theirs * factor, where they share anything: a multiplication, then an addition."""
        for here, there in part.cuts:
            chosen = theirs[there]
            scaled = np.multiply(chosen, factor, out=self.array(1, chosen.shape, chosen.size))
            if part.is_gathered:
                total[here] += scaled
            else:
                place = total[here]
                np.add(place, scaled, out=place)


def _mean(blueprint: Blueprint, target: SubModel, base: Vector, after: Vector, counted: Sequence[Weighted]) -> None:
    """Write the base plus the weighted mean to `after`, which may be the base itself."""
    values = [as_values(item.values) for item in counted]
    factors = [np.float32(item.weight) for item in counted]
    scratch, done = _Scratch(), 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in cut(blueprint, target, [item.sub_model for item in counted]):
            weights = _weights(block, counted)
            for first, stop in block.chunks():
                mine = _rows(after, block, first, stop)
                if after is not base:
                    end = block.start + stop * math.prod(block.shape)
                    after[done:end] = base[done:end]  # what is not covered comes along; the rest is in the cache now
                    done = end
                total = scratch.array(0, mine.shape, mine.size)
                for number, part in enumerate(block.parts):
                    theirs, factor = _read(values[part.item], part, block, first, stop), factors[part.item]
                    if number == 0 and part.is_whole:
                        np.multiply(theirs, factor, out=total)
                        np.add(total, _ZERO, out=total)  # sums begin at +0.0: a -0.0 does not survive that
                    else:
                        if number == 0:
                            total.fill(0)
                        scratch.add(total, part, theirs, factor)
                _divide_and_add(mine, total, weights)
    if after is not base:
        after[done:] = base[done:]


class _Weights(NamedTuple):
    """The weight sums of one row, or one number where all are alike, and where they are above 0: None for everywhere,
    else the stretches of a row of one dimension, else a mask.
    """

    sums: npt.NDArray[np.float32]
    covered: list[Index] | npt.NDArray[np.bool_] | None


def _weights(block: Block, counted: Sequence[Weighted]) -> _Weights:
    """Each sum is of int64, converted once."""
    if all(part.is_whole for part in block.parts):
        return _Weights(
            np.array([sum(counted[part.item].weight for part in block.parts)], np.int64).astype(np.float32), None
        )
    sums = np.zeros(block.shape if block.rows is None else (1, *block.shape), np.int64)
    for part in block.parts:
        for here, _ in part.cuts:
            sums[here] += counted[part.item].weight
    return _Weights(sums.astype(np.float32), _covered(sums))


def _covered(sums: npt.NDArray[np.int64]) -> list[Index] | npt.NDArray[np.bool_] | None:
    if sums.all():
        return None
    mask = sums > 0
    if len(mask) == 1 and mask.ndim == 2:
        edges = np.flatnonzero(np.diff(mask[0], prepend=False, append=False)).tolist()
        if len(edges) <= 2 * COVERED_RUNS_MAX:
            return [(slice(None), slice(a, b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return mask


def _divide_and_add(values: Vector, total: Vector, weights: _Weights) -> None:
    sums, covered = weights
    if covered is None:
        np.divide(total, sums, out=total)
        np.add(values, total, out=values)
    elif isinstance(covered, list):
        for here in covered:
            delta, place = total[here], values[here]
            np.divide(delta, sums[here], out=delta)
            np.add(place, delta, out=place)
    else:
        np.divide(total, sums, out=total, where=covered)
        np.add(values, total, out=values, where=covered)


def _rows(values: Vector, block: Block, first: int, stop: int) -> Vector:
    """A block's rows in the target's values, as a view."""
    row = math.prod(block.shape)
    flat = values[block.start + first * row : block.start + stop * row]
    return flat.reshape(block.shape if block.rows is None else (stop - first, *block.shape))


def _read(values: Values, part: Part, block: Block, first: int, stop: int) -> Vector:
    row = math.prod(part.shape)
    flat = values.span(part.start + first * row, part.start + stop * row)
    return flat.reshape(part.shape if block.rows is None else (stop - first, *part.shape))


def _checked(blueprint: Blueprint, target: SubModel, base: Vector, contributions: Iterable[Weighted]) -> list[Weighted]:
    counted = _ordered(contributions)
    for item in counted:
        size, found = item.sub_model.size(blueprint), as_values(item.values).size
        if found != size:
            raise ValueError(f"contribution of peer {item.peer.hex()} has {found} values, its sub-model {size}")
    if base.dtype != np.float32 or base.shape != (target.size(blueprint),):
        raise ValueError(f"base is {base.shape} {base.dtype}; the target has {target.size(blueprint)} float32")
    return counted


def _ordered(contributions: Iterable[Weighted]) -> list[Weighted]:
    """By ascending peer id, each once."""
    ordered: list[Weighted] = []
    for item in sorted(contributions, key=lambda item: item.peer):
        if not ordered or ordered[-1].peer != item.peer:
            ordered.append(item)
        elif not _same(ordered[-1], item):
            raise ValueError(f"two different contributions of peer {item.peer.hex()} in one fold")
    return ordered


def _same(left: Weighted, right: Weighted) -> bool:
    """Whether two contributions are one, bit for bit."""
    if (left.weight, left.sub_model) != (right.weight, right.sub_model):
        return False
    if left.values is right.values:
        return True
    one, other = as_values(left.values), as_values(right.values)
    return one.size == other.size and all(
        np.array_equal(one.span(start, stop).view(np.uint32), other.span(start, stop).view(np.uint32))
        for start, stop in ((a, min(a + CHUNK_ELEMENTS, one.size)) for a in range(0, one.size, CHUNK_ELEMENTS))
    )

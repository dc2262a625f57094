"""The fold: one round's contributions become one change of the model, the same bits on every machine (PROTOCOL.md 3).

    delta[e] = sum(a_c * d_c[e] for c that contain e, ascending peer id) / sum(a_c for the same c)
    W[e]     = W[e] + delta[e]        (unchanged, bit for bit, where nothing covers e)

float32, element-wise, no reduction across elements. Why the bits are equal: the order is the peers' ids; every step is
a single correctly rounded IEEE operation (multiply and add stay apart, a fused one rounds differently); weights are
summed as int64 and converted once; nothing flushes denormals. With one common base this is MSfusion's overlap
averaging (PAPERS.md 1.5).

It knows nothing of rounds, ledgers or segments: it gets what counts, already decoded and judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core.blueprint import Blueprint, Parameter
from p2pfusion.core.submodel import Layout, SubModel, Vector, extract, layout, match


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """One contribution as the fold sees it: author, integer weight in 1..2^32, decoded values (flat float32)."""

    peer: bytes
    weight: int
    sub_model: SubModel
    values: Vector

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= WEIGHT_MAX:
            raise ValueError(f"weight = {self.weight}: must be 1 to {WEIGHT_MAX}")
        if self.values.dtype != np.float32 or self.values.ndim != 1:
            raise ValueError("values must be a flat float32 vector")


def fold(
    blueprint: Blueprint,
    target: SubModel,
    base: Vector,
    contributions: Iterable[Weighted],
    graft: Vector | None = None,
) -> Vector:
    """The target's values after a round; `base` are its values before. A new vector; a slice costs a slice.

    A `graft` (flat, of the whole model) is no member of the mean: it is added after it (PROTOCOL.md 5).
    A contribution given twice counts once. Raises `ValueError` for values of another size than their sub-model's, and
    for two different contributions of one peer (the ledger keeps the one that counts).

    Values so large that their weighted sum leaves float32 give infinities, the same ones everywhere; the gate bounds
    them. Adding a delta of +0.0 turns -0.0 into +0.0, as IEEE says.
    """
    places = layout(blueprint, target)
    counted = _ordered(contributions)
    layouts = [_checked_layout(blueprint, item) for item in counted]
    values = np.array(base, np.float32)
    if values.shape != (target.size(blueprint),):
        raise ValueError(f"base has shape {values.shape}; the target has {target.size(blueprint)} elements")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for parameter in blueprint.parameters:
            if parameter.name in places:
                span, shape = places[parameter.name]
                _fold_parameter(blueprint, parameter, target, values[span].reshape(shape), counted, layouts)
        if graft is not None:
            np.add(values, extract(blueprint, graft, target), out=values)
    return values


def model_sha256(vector: Vector) -> str:
    """SHA-256 of a model's values in blueprint order, little-endian float32, in hex: `model_sha256` of every report."""
    return hashlib.sha256(np.ascontiguousarray(vector, "<f4").tobytes()).hexdigest()


def _fold_parameter(
    blueprint: Blueprint,
    parameter: Parameter,
    target: SubModel,
    values: Vector,
    counted: Sequence[Weighted],
    layouts: Sequence[Layout],
) -> None:
    """Fold one parameter in place: temporary memory is one parameter's, not the model's."""
    total = np.zeros(values.shape, np.float32)
    weights = np.zeros(values.shape, np.int64)
    for item, places in zip(counted, layouts, strict=True):
        if parameter.name not in places:
            continue
        span, shape = places[parameter.name]
        theirs = item.values[span].reshape(shape)
        weight = np.float32(item.weight)
        for here, there in match(blueprint, parameter, target, item.sub_model):
            scaled = np.multiply(theirs[there], weight)
            total[here] += scaled
            weights[here] += item.weight
    covered = weights > 0
    delta = np.divide(total, weights.astype(np.float32), out=np.zeros_like(total), where=covered)
    np.add(values, delta, out=values, where=covered)


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
    described = (left.weight, left.sub_model) == (right.weight, right.sub_model)
    return described and (left.values is right.values or left.values.tobytes() == right.values.tobytes())


def _checked_layout(blueprint: Blueprint, item: Weighted) -> Layout:
    size = item.sub_model.size(blueprint)
    if item.values.shape != (size,):
        raise ValueError(f"contribution of peer {item.peer.hex()} has {item.values.size} values, its sub-model {size}")
    return layout(blueprint, item.sub_model)

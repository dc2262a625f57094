"""Hypothesis strategies for blueprints, sub-models, vectors and contributions; and a dense dumb twin of the fold."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st

from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.fold import Weighted
from p2pfusion.core.submodel import SubModel, Vector


def no_module(*_: object) -> None:
    raise AssertionError("nothing here builds a network")


@st.composite
def blueprints(draw: st.DrawFn) -> Blueprint:
    """One to three axes with units, one to three blocks, every axis used, fixed dimensions and spans in between."""
    axes = []
    for number in range(draw(st.integers(1, 3))):
        unit = draw(st.integers(1, 3))
        axes.append(Axis(f"axis{number}", unit * draw(st.integers(1, 5)), unit))
    blocks = tuple(f"block{number}" for number in range(draw(st.integers(1, 3))))
    dims = st.one_of(
        st.builds(Dim, st.none(), st.integers(1, 3)),
        st.builds(Dim, st.sampled_from([axis.name for axis in axes]), st.integers(1, 2)),
    )
    shapes = [(Dim(axis.name),) for axis in axes] + draw(st.lists(st.tuples(dims, dims, dims), max_size=3))
    parameters = tuple(
        Parameter(f"parameter{place}", draw(st.sampled_from(blocks)), shape, Init((Dim(None, 4),)))
        for place, shape in enumerate(shapes)
    )
    return Blueprint(blocks, tuple(axes), parameters, no_module)


@st.composite
def sub_models(draw: st.DrawFn, blueprint: Blueprint) -> SubModel:
    """Any blocks, any units of any axes."""
    blocks = draw(st.lists(st.sampled_from(blueprint.blocks), min_size=1, unique=True))
    kept = {}
    for axis in blueprint.axes:
        units = draw(st.lists(st.integers(0, axis.units - 1), min_size=1, unique=True))
        kept[axis.name] = [(unit * axis.unit, (unit + 1) * axis.unit) for unit in units]
    return SubModel.of(blueprint, kept, blocks)


def vectors(size: int) -> st.SearchStrategy[Vector]:
    """Finite float32 of every kind, -0.0 and denormals among them, small enough to stay finite when weighted.

    Drawn as one integer: drawing every scalar by itself makes shrinking endless.
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: wild_vector(size, seed))


def wild_vector(size: int, seed: int) -> Vector:
    """Random bit patterns: about a third denormal, a fifth zero of either sign, the rest up to 2^32 in size."""
    raw = np.random.Philox(key=seed).random_raw(size)
    sign = (raw >> np.uint64(63)).astype(np.uint32) << np.uint32(31)
    mantissa = (raw & np.uint64(0x7FFFFF)).astype(np.uint32)
    kind = (raw >> np.uint64(40)) % np.uint64(15)
    exponent = ((raw >> np.uint64(24)) % np.uint64(160)).astype(np.uint32)
    exponent[kind < 5] = 0
    mantissa[kind < 3] = 0
    exponent[kind < 3] = 0
    return (sign | (exponent << np.uint32(23)) | mantissa).view(np.float32)


@st.composite
def contributions(draw: st.DrawFn, blueprint: Blueprint, count_max: int = 4) -> list[Weighted]:
    """Contributions of different peers."""
    peers = draw(st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=count_max))
    made = []
    for peer in peers:
        sub_model = draw(sub_models(blueprint))
        values = draw(vectors(sub_model.size(blueprint)))
        made.append(Weighted(peer, draw(st.integers(1, WEIGHT_MAX)), sub_model, values))
    return made


def dumb_fold(blueprint: Blueprint, base: Vector, items: Iterable[Weighted]) -> Vector:
    """The whole model's fold, scalar by scalar, straight from PROTOCOL.md 3."""
    result = base.copy()
    ordered = sorted(items, key=lambda item: item.peer)
    places = [{int(e): i for i, e in enumerate(item.sub_model.positions(blueprint))} for item in ordered]
    for e in range(blueprint.size):
        total, weight = np.float32(0), 0
        for item, place in zip(ordered, places, strict=True):
            if e in place:
                total = np.float32(total + np.float32(item.values[place[e]] * np.float32(item.weight)))
                weight += item.weight
        if weight:
            result[e] = np.float32(result[e] + np.float32(total / np.float32(weight)))
    return result

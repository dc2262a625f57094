"""The fold as it was first written: one parameter at a time, with dense weights. Slow, plain, and the reference.

`core.fold` must give its bits; `bench/fold.py` times both.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted
from p2pfusion.core.overlaps import match
from p2pfusion.core.submodel import SubModel, Vector, extract, layout
from p2pfusion.core.values import as_values


def dense_fold(
    blueprint: Blueprint, target: SubModel, base: Vector, items: Iterable[Weighted], graft: Vector | None = None
) -> Vector:
    """The target's values after a round of different peers' contributions."""
    places, values = layout(blueprint, target), np.array(base, np.float32)
    counted = sorted(items, key=lambda item: item.peer)
    held = [(item, layout(blueprint, item.sub_model), whole_of(item)) for item in counted]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for parameter in blueprint.parameters:
            if parameter.name not in places:
                continue
            span, shape = places[parameter.name]
            target_values = values[span].reshape(shape)
            total = np.zeros(shape, np.float32)
            weights = np.zeros(shape, np.int64)
            for item, theirs, flat in held:
                if parameter.name not in theirs:
                    continue
                there_span, there_shape = theirs[parameter.name]
                mine = flat[there_span].reshape(there_shape)
                for here, there in match(blueprint, parameter, target, item.sub_model):
                    scaled = np.multiply(mine[there], np.float32(item.weight))
                    total[here] += scaled
                    weights[here] += item.weight
            covered = weights > 0
            delta = np.divide(total, weights.astype(np.float32), out=np.zeros_like(total), where=covered)
            np.add(target_values, delta, out=target_values, where=covered)
        if graft is not None:
            np.add(values, extract(blueprint, graft, target), out=values)
    return values


def whole_of(item: Weighted) -> Vector:
    values = as_values(item.values)
    return values.span(0, values.size).copy()

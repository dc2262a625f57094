"""`SubModel`: which part of the model somebody holds, trains or sends, and the arithmetic on such parts.

A sub-model is blocks x kept indices per named axis, cut from one `Blueprint`. Width slices, depth prefixes, pipeline
stages and the whole model are all values of this one type, so extraction, overlap and the fold's alignment are written
once, here. Its values are one flat float32 vector: the parameters of the kept blocks in blueprint order, each in C
order of its kept indices, ascending. A *segment* is a range of that vector.

Where two sub-models overlap, `overlaps` says. This module deliberately does not know torch, the wire, or who chose the
sub-model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from p2pfusion.config import RANGES_PER_AXIS_MAX
from p2pfusion.core.overlaps import Ranges, common, match

if TYPE_CHECKING:
    from p2pfusion.core.blueprint import Blueprint, Parameter

Vector = npt.NDArray[np.float32]
"""One flat float32 vector: the values of a model or of a sub-model."""
Layout = dict[str, tuple[slice, tuple[int, ...]]]
"""Parameter name -> its slice of the flat vector and its shape, in order."""
LAYOUTS_KEPT_MAX = 256
"""Layouts remembered for one blueprint: those of some rounds' contributions; then they are all forgotten at once."""


@dataclass(frozen=True, slots=True)
class SubModel:
    """Blocks in blueprint order; `kept` lists the sliced axes by name, each with half-open, disjoint, merged ranges.

    An axis that is not listed is whole. Values in this canonical form are equal exactly when they hold the same
    elements; `of` produces it and `validate` insists on it.
    """

    blocks: tuple[str, ...]
    kept: tuple[tuple[str, Ranges], ...] = ()

    @classmethod
    def of(
        cls,
        blueprint: Blueprint,
        kept: Mapping[str, Iterable[int | range | tuple[int, int]]],
        blocks: Iterable[str] | None = None,
    ) -> SubModel:
        """Canonicalise: indices, `range`s and (start, stop) pairs become sorted, merged ranges; whole axes are dropped.

        Raises `ValueError` for whatever `validate` refuses.
        """
        merged = {name: _merge(items) for name, items in kept.items()}
        sizes = {axis.name: axis.size for axis in blueprint.axes}
        listed = tuple((name, merged[name]) for name in sorted(merged) if merged[name] != ((0, sizes.get(name)),))
        chosen = blueprint.blocks if blocks is None else frozenset(blocks)
        ordered = tuple(block for block in blueprint.blocks if block in chosen)
        if len(ordered) != len(chosen):
            raise ValueError(f"unknown block among {sorted(chosen)}")
        sub_model = cls(ordered, listed)
        sub_model.validate(blueprint)
        return sub_model

    def validate(self, blueprint: Blueprint) -> None:
        """Raise `ValueError` unless canonical, known to the blueprint, in range, unit-aligned and not empty."""
        order = {block: place for place, block in enumerate(blueprint.blocks)}
        places = [order.get(block, -1) for block in self.blocks]
        if not places or -1 in places or any(a >= b for a, b in itertools.pairwise(places)):
            raise ValueError("blocks are empty, unknown or out of order")
        names = [name for name, _ in self.kept]
        if any(a >= b for a, b in itertools.pairwise(names)):
            raise ValueError("axes are not sorted by name")
        axes = {axis.name: axis for axis in blueprint.axes}
        for name, ranges in self.kept:
            if name not in axes:
                raise ValueError("unknown axis")
            _check_ranges(ranges, axes[name].size, axes[name].unit)

    def ranges(self, blueprint: Blueprint, axis: str) -> Ranges:
        """Kept ranges of an axis, in indices."""
        for name, ranges in self.kept:
            if name == axis:
                return ranges
        return ((0, blueprint.axis(axis).size),)

    def indices(self, blueprint: Blueprint, axis: str) -> npt.NDArray[np.int64]:
        """Kept indices of an axis, ascending."""
        return np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in self.ranges(blueprint, axis)])

    def width(self, blueprint: Blueprint, axis: str) -> int:
        """How many indices of an axis are kept."""
        return sum(stop - start for start, stop in self.ranges(blueprint, axis))

    def size(self, blueprint: Blueprint) -> int:
        """How many scalars the sub-model holds."""
        places = layout(blueprint, self)
        return places[next(reversed(places))][0].stop if places else 0

    def share(self, blueprint: Blueprint) -> float:
        """Its share of the model's scalars, 0..1."""
        return self.size(blueprint) / blueprint.size

    def overlap(self, other: SubModel, blueprint: Blueprint) -> int:
        """How many scalars both hold."""
        blocks = frozenset(self.blocks) & frozenset(other.blocks)
        total, shared = 0, common(blueprint, self, other)
        for parameter in blueprint.parameters:
            if parameter.block in blocks:
                runs = shared.runs_of(parameter)
                total += math.prod(sum(length for _, _, length in dim) for dim in runs)
        return total

    def positions(self, blueprint: Blueprint) -> npt.NDArray[np.int64]:
        """Where each of its scalars stands in the whole model's vector, in the sub-model's own order (int64)."""
        found = np.empty(self.size(blueprint), np.int64)
        mine, whole = layout(blueprint, self), blueprint.whole()
        for parameter in _held(blueprint, self):
            span, shape = mine[parameter.name]
            everywhere = blueprint.parameter_slices[parameter.name]
            numbers = np.arange(everywhere.start, everywhere.stop).reshape(blueprint.shape(parameter))
            for here, there in match(blueprint, parameter, self, whole):
                found[span].reshape(shape)[here] = numbers[there]
        return found


def layout(blueprint: Blueprint, sub_model: SubModel) -> Layout:
    """Where each kept parameter lies in the sub-model's flat vector, and its sliced shape; not to be changed.

    Remembered, for every fold asks it of every contribution, several times.
    """
    known = blueprint.layouts.get(sub_model)
    if known is not None:
        return known
    widths = {axis.name: sub_model.width(blueprint, axis.name) for axis in blueprint.axes}
    places: Layout = {}
    start = 0
    for parameter in _held(blueprint, sub_model):
        shape = tuple(dim.size if dim.axis is None else widths[dim.axis] * dim.size for dim in parameter.dims)
        stop = start + math.prod(shape)
        places[parameter.name] = (slice(start, stop), shape)
        start = stop
    if len(blueprint.layouts) >= LAYOUTS_KEPT_MAX:
        blueprint.layouts.clear()
    blueprint.layouts[sub_model] = places
    return places


def tensor_sizes(blueprint: Blueprint, sub_model: SubModel) -> tuple[int, ...]:
    """How many scalars it holds of each parameter, in order."""
    return tuple(span.stop - span.start for span, _ in layout(blueprint, sub_model).values())


def extract(blueprint: Blueprint, vector: Vector, sub_model: SubModel) -> Vector:
    """The sub-model's values out of the whole model's; a new vector. Costs a slice, not a model."""
    places, whole = layout(blueprint, sub_model), blueprint.whole()
    if sub_model == whole:
        return np.array(vector, np.float32)
    shared = common(blueprint, sub_model, whole)
    values = np.empty(sub_model.size(blueprint), np.float32)
    for parameter in _held(blueprint, sub_model):
        span, shape = places[parameter.name]
        source = vector[blueprint.parameter_slices[parameter.name]].reshape(blueprint.shape(parameter))
        target = values[span].reshape(shape)
        for here, there in shared.cuts(parameter):
            target[here] = source[there]
    return values


def of_blocks(blueprint: Blueprint, sub_model: SubModel, part: SubModel, values: Vector) -> Vector:
    """Of a sub-model's values those of a part of it, the same but for fewer blocks."""
    if part == sub_model:
        return values
    places = layout(blueprint, sub_model)
    return np.concatenate([values[places[name][0]] for name in layout(blueprint, part)])


def scatter(blueprint: Blueprint, vector: Vector, sub_model: SubModel, values: Vector | float) -> None:
    """Overwrite the sub-model's elements of a whole model's vector, in place."""
    _write(blueprint, vector, sub_model, values, add=False)


def scatter_add(blueprint: Blueprint, vector: Vector, sub_model: SubModel, values: Vector) -> None:
    """Add to the sub-model's elements of a whole model's vector, in place."""
    _write(blueprint, vector, sub_model, values, add=True)


def segments(elements_total: int, elements_max: int) -> list[tuple[int, int]]:
    """Cut a flat vector into half-open ranges of `elements_max` elements, the last one shorter."""
    if elements_max < 1:
        raise ValueError(f"elements_max = {elements_max}: must be at least 1")
    return [(start, min(start + elements_max, elements_total)) for start in range(0, elements_total, elements_max)]


def _write(blueprint: Blueprint, vector: Vector, sub_model: SubModel, values: Vector | float, *, add: bool) -> None:
    size = sub_model.size(blueprint)
    flat = np.broadcast_to(np.asarray(values, np.float32), (size,))
    places, shared = layout(blueprint, sub_model), common(blueprint, sub_model, blueprint.whole())
    for parameter in _held(blueprint, sub_model):
        span, shape = places[parameter.name]
        source = flat[span].reshape(shape)
        target = vector[blueprint.parameter_slices[parameter.name]].reshape(blueprint.shape(parameter))
        for here, there in shared.cuts(parameter):
            if add:
                target[there] += source[here]
            else:
                target[there] = source[here]


def _held(blueprint: Blueprint, sub_model: SubModel) -> list[Parameter]:
    blocks = frozenset(sub_model.blocks)
    return [parameter for parameter in blueprint.parameters if parameter.block in blocks]


def _merge(items: Iterable[int | range | tuple[int, int]]) -> Ranges:
    pieces: list[tuple[int, int]] = []
    for item in items:
        if isinstance(item, range):
            if item.step != 1:
                pieces.extend((index, index + 1) for index in item)
            elif len(item):
                pieces.append((item.start, item.stop))
        elif isinstance(item, tuple):
            pieces.append((int(item[0]), int(item[1])))
        else:
            pieces.append((int(item), int(item) + 1))
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(pieces):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _check_ranges(ranges: Ranges, size: int, unit: int) -> None:
    if not ranges:
        raise ValueError("an axis keeps nothing")
    if len(ranges) > RANGES_PER_AXIS_MAX:
        raise ValueError(f"an axis is cut into {len(ranges)} ranges, more than {RANGES_PER_AXIS_MAX}")
    if ranges == ((0, size),):
        raise ValueError("a whole axis is listed")
    end = -1
    for start, stop in ranges:
        if not (end < start < stop <= size) or start < 0:
            raise ValueError("ranges are empty, out of range, out of order or touch each other")
        if start % unit or stop % unit:
            raise ValueError("a range cuts through a unit")
        end = stop

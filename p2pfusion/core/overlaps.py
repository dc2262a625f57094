"""What two sub-models have in common: which rectangle of a parameter of the one is which rectangle of the other's.

Everything that moves values between sub-models (extraction, residuals, the fold) asks this. Axes are cut into few
ranges as a rule, so the rectangles are basic slices (seven times faster than gathering by index); where a random scheme
cuts an axis into many, index arrays take over. Index arithmetic only: no values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from p2pfusion.core.blueprint import Blueprint, Parameter
    from p2pfusion.core.submodel import SubModel

Ranges = tuple[tuple[int, int], ...]
Index = tuple[Any, ...]
"""What indexes one parameter's array: a slice per dimension, or open index arrays."""
Cut = tuple[Index, Index]
"""Where in one array, and where the same elements are in another."""
Runs = tuple[tuple[int, int, int], ...]
"""Common runs of one dimension: (start in left, start in right, length), in local coordinates, ascending."""


COMMONS_KEPT_MAX = 256
"""Pairs of sub-models of which is remembered what they have in common: a round of 16 slices each with each. It is some
KiB a pair; index arrays, which may be larger, are not kept."""
RECTANGLES_MAX = 64
"""Up to this many rectangles per parameter are copied one by one; beyond, one gather by index is cheaper."""


class Match(NamedTuple):
    """What two sub-models have in common of one parameter: `left_array[cut[0]]` are the scalars `right_array[cut[1]]`.

    No cuts: nothing. `is_whole`: everything of both. `is_gathered`: the one cut is of index arrays, which give copies.
    """

    cuts: Sequence[Cut]
    is_whole: bool
    is_gathered: bool


class Common:
    """What two sub-models have in common, per axis, and per parameter once it was asked for."""

    __slots__ = ("_matches", "_runs", "_whole")

    def __init__(self, blueprint: Blueprint, left: SubModel, right: SubModel) -> None:
        names = [axis.name for axis in blueprint.axes]
        ranges = {name: (left.ranges(blueprint, name), right.ranges(blueprint, name)) for name in names}
        self._runs = {name: _runs(mine, theirs) for name, (mine, theirs) in ranges.items()}
        self._whole = {name: mine == theirs for name, (mine, theirs) in ranges.items()}
        self._matches: dict[str, Match] = {}

    def runs_of(self, parameter: Parameter) -> list[Runs]:
        """Per dimension of a parameter."""
        runs: list[Runs] = []
        for axis, size in ((dim.axis, dim.size) for dim in parameter.dims):
            if axis is None:
                runs.append(((0, 0, size),))
            elif size == 1:
                runs.append(self._runs[axis])
            else:
                runs.append(tuple((a * size, b * size, length * size) for a, b, length in self._runs[axis]))
        return runs

    def match(self, parameter: Parameter) -> Match:
        """Of one parameter, in arrays shaped as `layout` says; (1,) for one without dimensions."""
        found = self._matches.get(parameter.name)
        if found is None:
            runs = self.runs_of(parameter)
            cuts = rectangles(runs) if runs else [((slice(None),), (slice(None),))]
            is_gathered = len(cuts) == 1 and not isinstance(cuts[0][0][0], slice)
            is_whole = all(self._whole[dim.axis] for dim in parameter.dims if dim.axis is not None)
            found = Match(cuts, is_whole, is_gathered)
            if not is_gathered:
                self._matches[parameter.name] = found
        return found

    def cuts(self, parameter: Parameter) -> Sequence[Cut]:
        """The same for arrays shaped exactly as `layout` says."""
        return self.match(parameter).cuts if parameter.dims else (((), ()),)


def common(blueprint: Blueprint, left: SubModel, right: SubModel) -> Common:
    """What two sub-models have in common. Remembered, boundedly: every fold asks it of every contribution."""
    key = (left, right)
    known = blueprint.commons.get(key)
    if known is None:
        known = Common(blueprint, left, right)
        if len(blueprint.commons) >= COMMONS_KEPT_MAX:
            blueprint.commons.clear()
        blueprint.commons[key] = known
    return known


def match(blueprint: Blueprint, parameter: Parameter, left: SubModel, right: SubModel) -> Sequence[Cut]:
    """The scalars of one parameter that both hold, as index pairs: `left_array[i]` are the scalars `right_array[j]`.

    The arrays are shaped as `layout` says. Both must hold the parameter's block. The list is empty without overlap.
    """
    return common(blueprint, left, right).cuts(parameter)


def rectangles(common: Sequence[Runs]) -> list[Cut]:
    """Index pairs for what two arrays have in common per dimension: a slice each, or one gather where they are many."""
    if math.prod(map(len, common)) <= RECTANGLES_MAX:
        here = [[slice(a, a + length) for a, _, length in dim] for dim in common]
        there = [[slice(b, b + length) for _, b, length in dim] for dim in common]
        return list(zip(itertools.product(*here), itertools.product(*there), strict=True))
    return [
        (
            np.ix_(*(np.concatenate([np.arange(a, a + length) for a, _, length in dim]) for dim in common)),
            np.ix_(*(np.concatenate([np.arange(b, b + length) for _, b, length in dim]) for dim in common)),
        )
    ]


def _runs(left: Ranges, right: Ranges) -> Runs:
    """Merge walk over two sorted range lists; linear in their lengths."""
    found: list[tuple[int, int, int]] = []
    i = j = base_left = base_right = 0
    while i < len(left) and j < len(right):
        (a, b), (c, d) = left[i], right[j]
        start, stop = max(a, c), min(b, d)
        if start < stop:
            here, there = base_left + start - a, base_right + start - c
            if found and (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]) == (here, there):
                here, there, length = found.pop()  # neighbours on both sides: one run
                found.append((here, there, length + stop - start))
            else:
                found.append((here, there, stop - start))
        if b <= d:
            i, base_left = i + 1, base_left + b - a
        else:
            j, base_right = j + 1, base_right + d - c
    return tuple(found)

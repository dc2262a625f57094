"""How much of the model anybody has trained: scalars, units of axes, and pairs of units.

A weight between two sliced axes is trained only while both its units are in one slice. Windows that start alike on both
axes never train most pairs, however long the run (PAPERS.md 1.10); those weights keep their initial values. `Coverage`
is fed with sub-models and counts. One bit stands for one cell, the scalars of a block that lie on the same units: a
thirty-second of the model's own size, less where units are wide, however long the run is.

It does not know who trained, when, or whether it did any good.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pfusion.core.blueprint import Blueprint, Parameter
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """Shares, 0..1, that somebody has trained so far.

    `scalars`: of the model's parameters. `units`: of all units of all axes. `pairs`: of all pairs of units of two (or
    more) axes that meet in a parameter, within its block; 1.0 where no two axes meet.
    """

    scalars: float
    units: float
    pairs: float


class _Grid:
    """The cells of one block over one combination of axes, a bit each; the last axis, the longest, is packed."""

    def __init__(self, units: Sequence[int]) -> None:
        self._units = tuple(units)
        *others, last = units or (1,)
        self._bits: Bits = np.zeros((*others, -(-last // 8)), np.uint8)
        self.cells = math.prod(units)
        self.scalars_per_cell = 0
        self.touched = 0

    def touch(self, kept: Sequence[npt.NDArray[np.int64]]) -> None:
        """All cells whose units are kept, by axis."""
        if self.touched == self.cells:
            return
        mask = np.zeros(self._units[-1] if self._units else 1, bool)
        mask[kept[-1] if kept else 0] = True
        rows = np.ix_(*kept[:-1])
        self._bits[rows] |= np.packbits(mask)
        self.touched = int(np.bitwise_count(self._bits).sum(dtype=np.int64))


class Coverage:
    """A meter for one blueprint. `add` what was trained, then read `covered`."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._axes = {axis.name: np.zeros(axis.units, bool) for axis in blueprint.axes}
        self._grids: dict[tuple[str, tuple[str, ...]], _Grid] = {}
        units = {axis.name: axis.units for axis in blueprint.axes}
        for parameter in blueprint.parameters:
            names = tuple(sorted(_axes_of(parameter), key=lambda name: (units[name], name)))
            key = parameter.block, names
            grid = self._grids.setdefault(key, _Grid([units[name] for name in names]))
            grid.scalars_per_cell += math.prod(blueprint.shape(parameter)) // grid.cells

    def add(self, sub_model: SubModel) -> None:
        """Somebody trained this. Raises `ValueError` for one of another blueprint."""
        if self.scalars == 1.0:
            return
        sub_model.validate(self._blueprint)
        kept = {axis.name: sub_model.indices(self._blueprint, axis.name)[:: axis.unit] // axis.unit
                for axis in self._blueprint.axes}  # fmt: skip
        held = frozenset(sub_model.blocks)
        for (block, names), grid in self._grids.items():
            if block in held:
                grid.touch([kept[name] for name in names])
                for name in names:
                    self._axes[name][kept[name]] = True

    @property
    def scalars(self) -> float:
        """Share of the model's scalars, 0..1."""
        return sum(grid.touched * grid.scalars_per_cell for grid in self._grids.values()) / self._blueprint.size

    @property
    def covered(self) -> Covered:
        """All shares."""
        paired = [grid for (_, names), grid in self._grids.items() if len(names) > 1]
        cells = sum(grid.cells for grid in paired)
        units = sum(axis.units for axis in self._blueprint.axes)
        return Covered(
            scalars=self.scalars,
            units=sum(int(seen.sum()) for seen in self._axes.values()) / units if units else 1.0,
            pairs=sum(grid.touched for grid in paired) / cells if cells else 1.0,
        )


def everybody(rates: Sequence[float], rounds: int) -> Iterable[list[Seat]]:
    """The seats of all peers, round after round; peer i has rate `rates[i]`."""
    for index in range(rounds):
        yield [Seat(rank=rank, peers=len(rates), round=index, rates=tuple(rates)) for rank in range(len(rates))]


def coverage_by_round(
    scheme: Scheme, blueprint: Blueprint, seats: Iterable[Sequence[Seat]], *, seed: int = 0
) -> list[Covered]:
    """What is covered after each round, when everybody who sits in it trains what the scheme says.

    `seats` holds the seats of each round (`everybody` makes them); `seed` is for schemes that draw. Nothing is trained.
    """
    meter, rng = Coverage(blueprint), random.Random(seed)
    found = []
    for seated in seats:
        for seat in seated:
            meter.add(scheme(blueprint, seat, rng))
        found.append(meter.covered)
    return found


def _axes_of(parameter: Parameter) -> list[str]:
    """The axes of its dimensions; an axis that it has twice is there twice."""
    return [dim.axis for dim in parameter.dims if dim.axis is not None]

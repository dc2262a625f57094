"""A node's copy of the model: the sealed values, slices of the head, and the residual.

*Head* = sealed model + fold of the open rounds in order. It is computed where it is read: a slice of the head costs a
slice. *Residual* = what this node produced minus what its chain counts of it, in full-model indices (PROTOCOL.md 5);
it leaves with the node's next contribution.

It does not know which contributions are open, or why: the ledger says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter, scatter_add

Round = tuple[Iterable[Weighted], Vector | None]
"""What counts in one open round, decoded: work, and at most one graft of the whole model."""


def head(blueprint: Blueprint, sealed: Vector, sub_model: SubModel, rounds: Iterable[Round]) -> Vector:
    """A sub-model's slice of the head: sealed values, then the open rounds folded in the order given.

    A function of values and not a method, for it runs in the executor while the replica may move on.
    """
    values = extract(blueprint, sealed, sub_model)
    for contributions, graft in rounds:
        values = fold(blueprint, sub_model, values, contributions, graft)
    return values


class Replica:
    """One float32 model at rest, plus a second one as soon as a residual exists."""

    __slots__ = ("_residual", "_sealed", "blueprint")

    def __init__(self, blueprint: Blueprint, sealed: Vector) -> None:
        self.blueprint = blueprint
        self._residual: Vector | None = None
        self.sealed = sealed

    @property
    def sealed(self) -> Vector:
        """The sealed model, flat and read-only. Assigning takes the vector over; nothing ever changes it in place."""
        return self._sealed

    @sealed.setter
    def sealed(self, vector: Vector) -> None:
        if vector.dtype != np.float32 or vector.shape != (self.blueprint.size,):
            raise ValueError(f"a sealed model is {self.blueprint.size} float32, not {vector.shape} {vector.dtype}")
        vector.flags.writeable = False
        self._sealed = vector

    @property
    def residual(self) -> Vector:
        """The residual in full-model indices; made of zeros on first use."""
        if self._residual is None:
            self._residual = np.zeros(self.blueprint.size, np.float32)
        return self._residual

    def take_residual(self, sub_model: SubModel) -> Vector:
        """Remove and return the residual of these elements, to be carried by the next contribution."""
        if self._residual is None:
            return np.zeros(sub_model.size(self.blueprint), np.float32)
        taken = extract(self.blueprint, self._residual, sub_model)
        scatter(self.blueprint, self._residual, sub_model, 0.0)
        return taken

    def add_residual(self, sub_model: SubModel, values: Vector, sign: float = 1.0) -> None:
        """Add `sign * values` (flat, of the sub-model) to the residual."""
        scatter_add(self.blueprint, self.residual, sub_model, values if sign == 1.0 else values * np.float32(sign))

"""A node's copy of the model: the sealed values, slices of the head, and the residual.

*Head* = sealed model + fold of the open rounds in order. It is computed where it is read: a slice of the head costs a
slice. *Residual* = what this node produced minus what its chain counts of it, in full-model indices (PROTOCOL.md 5);
it leaves with the node's next contribution.

It does not know which contributions are open, or why: the ledger says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted, add, fold_into
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter
from p2pfusion.core.values import Values

Round = tuple[Iterable[Weighted], Vector | Values | None]
"""What counts in one open round: work, and at most one graft of the whole model."""
OWED_MAX = 32
"""Contributions that wait to be added to the residual: after a switch all that an author remembers may change sides at
once. More than so many are added there and then."""


def head(blueprint: Blueprint, sealed: Vector, sub_model: SubModel, rounds: Iterable[Round]) -> Vector:
    """A sub-model's slice of the head: sealed values, then the open rounds folded in the order given.

    A function of values and not a method, for it runs in the executor while the replica may move on.
    """
    values = extract(blueprint, sealed, sub_model)
    for contributions, graft in rounds:
        fold_into(blueprint, sub_model, values, contributions, graft)
    return values


@dataclass(frozen=True, slots=True)
class Owed:
    """Values of a sub-model that belong into the residual, or out of it (`sign` -1). `read` begins to read them."""

    sub_model: SubModel
    read: Callable[[], Values]
    sign: float


@dataclass(frozen=True, slots=True)
class Lent:
    """A residual at one moment: references to what nobody changes in place any more. `vector` None: all zeros."""

    blueprint: Blueprint
    vector: Vector | None
    owed: tuple[Owed, ...]

    def settled(self) -> Vector:
        """A new vector with everything owed in it; a whole model's work, so for the executor."""
        size = self.blueprint.size
        vector = np.zeros(size, np.float32) if self.vector is None else self.vector.copy()
        _settle(self.blueprint, vector, self.owed)
        return vector


class Replica:
    """One float32 model at rest, plus a second one as soon as a residual exists."""

    __slots__ = ("_is_lent", "_owed", "_residual", "_sealed", "blueprint")

    def __init__(self, blueprint: Blueprint, sealed: Vector) -> None:
        self.blueprint = blueprint
        self._residual: Vector | None = None
        self._is_lent = False
        self._owed: tuple[Owed, ...] = ()
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
        """The residual in full-model indices, with everything owed in it; made of zeros on first use."""
        residual = self._mine()
        _settle(self.blueprint, residual, self._owed)
        self._owed = ()
        return residual

    def take_residual(self, sub_model: SubModel) -> Vector:
        """Remove and return the residual of these elements, to be carried by the next contribution."""
        if self._residual is None and not self._owed:
            return np.zeros(sub_model.size(self.blueprint), np.float32)
        residual = self.residual
        taken = extract(self.blueprint, residual, sub_model)
        scatter(self.blueprint, residual, sub_model, 0.0)
        return taken

    def add_residual(self, sub_model: SubModel, values: Vector, sign: float = 1.0) -> None:
        """Add `sign * values` (flat, of the sub-model) to the residual."""
        add(self.blueprint, self.blueprint.whole(), self._mine(), sub_model, values, sign)

    # -- without holding anybody up -----------------------------------------------------------------------------------

    def owe(self, owed: Owed) -> None:
        """Have something added to the residual before it is used next; costs nothing now."""
        self._owed = (*self._owed, owed)
        if len(self._owed) > OWED_MAX:
            _ = self.residual

    @property
    def is_owing(self) -> bool:
        """Whether anything waits to be added to the residual."""
        return bool(self._owed)

    def lend(self) -> Lent:
        """The residual as it is now, for the executor; from now on a change makes a copy first."""
        self._is_lent = True
        return Lent(self.blueprint, self._residual, self._owed)

    def settle(self, lent: Lent, vector: Vector) -> bool:
        """Take over what `lent.settled()` gave; False, and no change, when the residual was changed meanwhile."""
        if self._residual is not lent.vector or self._owed[: len(lent.owed)] != lent.owed:
            return False
        self._residual, self._is_lent, self._owed = vector, False, self._owed[len(lent.owed) :]
        return True

    def _mine(self) -> Vector:
        """The residual's vector, to be changed in place."""
        if self._residual is None:
            self._residual = np.zeros(self.blueprint.size, np.float32)
        elif self._is_lent:
            self._residual = self._residual.copy()
        self._is_lent = False
        return self._residual


def _settle(blueprint: Blueprint, vector: Vector, owed: Iterable[Owed]) -> None:
    for one in owed:
        add(blueprint, blueprint.whole(), vector, one.sub_model, one.read(), one.sign)

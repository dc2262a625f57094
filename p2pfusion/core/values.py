"""`Values`: the values of a contribution, read range by range, wherever and however encoded they lie.

The fold asks for one range after the other, in ascending order as a rule, so what is encoded need never be decoded as a
whole. A plain vector is one implementation; `node.decoding` has the one that knows segments and codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from p2pfusion.core.submodel import Vector


class Values(Protocol):
    """A flat float32 vector that may not exist yet. For one reader at a time."""

    @property
    def size(self) -> int:
        """How many elements there are."""
        ...

    def span(self, start: int, stop: int) -> Vector:
        """Elements `start` to `stop`, flat float32, not to be changed; good until the next call. 0 <= start <= stop."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """A vector in memory."""

    vector: Vector

    @property
    def size(self) -> int:
        return self.vector.size

    def span(self, start: int, stop: int) -> Vector:
        return self.vector[start:stop]


def as_values(values: Vector | Values) -> Values:
    """The same as `Values`. Raises `ValueError` for an array that is not a flat float32 vector."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype != np.float32 or values.ndim != 1:
        raise ValueError("values must be a flat float32 vector")
    return Plain(values)

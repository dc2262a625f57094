"""What a contribution is worth: how much it moves, and how far the model moved meanwhile (PAPERS.md 2.5).

Co-S2P's weight of an update that was trained from weights W_received and arrives at W_now:

    a = (||update||_1 / rho) / (1 + ||W_now - W_received||_1)

Sums over a network have no scale of their own: of a small one the drift would be nothing beside 1, of a large one the 1
nothing beside the drift, and an update of 16 times as many weights would count 16 times as much in spite of rho. Here
both are measured by what the model moves in one round on the same elements, ||W_received - W_received before||_1 for
each round between: an update as large as the swarm's usual step weighs 1, and one that comes a round's movement late
half of that. So nodes that weigh so and nodes that count evenly (1 each) meet on one scale. Where nothing is known yet,
it is 1.

Knows no ledger; the factor becomes part of the manifest's integer weight.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from p2pfusion.core.submodel import SubModel, Vector

FACTOR_MAX = 4.0
"""At most so much more, or less, than one that counts evenly, before staleness: an outlier must not carry a round."""


class Weighing(Protocol):
    """Says what a node's contributions are worth, beside one that counts evenly; one object serves one node.

    It may keep one vector as long as the sub-model from round to round: memory is planned for it.
    """

    def factor(
        self, update: Vector, now: Vector | None, received: Vector, changed: SubModel, round_index: int
    ) -> float:
        """Of an update of `changed`, trained from `received`, to a model that is `now` (None: it did not move on)."""
        ...


class Drift:
    """Co-S2P's rule. It remembers what it received last, 4 bytes a scalar of the sub-model."""

    def __init__(self) -> None:
        self._last: tuple[SubModel, Vector, int] | None = None

    def factor(
        self, update: Vector, now: Vector | None, received: Vector, changed: SubModel, round_index: int
    ) -> float:
        last, self._last = self._last, (changed, received, round_index)
        if last is None or last[0] != changed or round_index <= last[2]:
            return 1.0
        step = _moved(received, last[1]) / (round_index - last[2])
        if not step:
            return 1.0
        late = 0.0 if now is None else _moved(now, received) / step
        return min(max(_size(update) / step, 1 / FACTOR_MAX), FACTOR_MAX) / (1 + late)


def _moved(now: Vector, before: Vector) -> float:
    return _size(now - before)


def _size(values: Vector) -> float:
    """The L1 norm."""
    return float(np.abs(values).sum(dtype=np.float64))

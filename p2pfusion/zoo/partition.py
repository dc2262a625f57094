"""Dealing one data set to several parts, evenly or unevenly, the same way on every machine.

Returns index arrays; knows no data. Source of the uneven deal: Dirichlet label skew as in Hsu et al. 2019,
arXiv 1909.06335, the usual measure of non-IID data in federated learning.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def iid(n_samples: int, parts: int, seed: int) -> list[Indices]:
    """A shuffled deal, sizes equal to within one; each part ascending. Raises `ValueError` if a part would be empty."""
    _check(n_samples, parts)
    order = list(range(n_samples))
    random.Random(f"iid {seed}").shuffle(order)
    return [np.array(sorted(order[part::parts]), np.int64) for part in range(parts)]


def dirichlet(labels: npt.NDArray[np.int64], parts: int, alpha: float, seed: int) -> list[Indices]:
    """Each class is dealt by shares drawn from Dirichlet(alpha): small alpha, few classes per part.

    Every sample goes to exactly one part; each part is ascending and holds at least one sample (the largest gives).
    Raises `ValueError` for alpha <= 0 or fewer samples than parts.
    """
    _check(len(labels), parts)
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha!r}: must be above 0")
    rng = random.Random(f"dirichlet {seed}")
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for label in np.unique(labels).tolist():
        places = np.flatnonzero(labels == label).tolist()
        rng.shuffle(places)
        cuts = _cuts(len(places), [rng.gammavariate(alpha, 1.0) for _ in range(parts)])
        for part in range(parts):
            dealt[part].extend(places[cuts[part] : cuts[part + 1]])
    for mine in dealt:
        if not mine:
            mine.append(max(dealt, key=len).pop())
    return [np.array(sorted(mine), np.int64) for mine in dealt]


def _cuts(count: int, shares: Sequence[float]) -> list[int]:
    """Where to cut `count` samples so that the pieces are proportional to `shares`; the last cut is `count`."""
    total = sum(shares)
    if not total > 0:  # every gamma draw underflowed: alpha is tiny, and one part takes all
        shares, total = [1.0, *[0.0] * (len(shares) - 1)], 1.0
    sums = np.cumsum(shares) / total
    return [0, *(round(float(done) * count) for done in sums[:-1]), count]


def _check(n_samples: int, parts: int) -> None:
    if not 1 <= parts <= n_samples:
        raise ValueError(f"parts = {parts}: must be 1 to the number of samples, {n_samples}")

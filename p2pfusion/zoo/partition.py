"""Dealing one data set to several parts, evenly or unevenly, the same way on every machine.

Returns index arrays; knows no data. In each deal every sample is in exactly one part, and no part is empty. A task
takes one as `Task(partition=lambda parts, seed: dirichlet(y, parts, 0.5, seed))`. Sources: Dirichlet label skew as in
Hsu et al. 2019, arXiv 1909.06335, the usual measure of non-IID data in federated learning; label shards as in HeteroFL,
Diao et al., ICLR 2021 (PAPERS.md 4.1).
"""

from __future__ import annotations

import itertools
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
    return _ascending(dealt)


def label_shards(labels: npt.NDArray[np.int64], parts: int, shards_per_part: int, seed: int) -> list[Indices]:
    """HeteroFL's non-IID-n: every class is cut into equal shards; each part gets `shards_per_part`, drawn at random.

    `parts * shards_per_part / classes` shards per class; where that does not divide, classes drawn at random have one
    more. Each part is ascending; where a class has fewer samples than shards a part may come out empty, and the largest
    gives it one. Raises `ValueError` for fewer samples than parts, or too few shards for every class to have one.
    """
    _check(len(labels), parts)
    classes = np.unique(labels).tolist()
    shards = parts * shards_per_part
    if shards_per_part < 1 or shards < len(classes):
        least = -(-len(classes) // parts)
        raise ValueError(f"shards_per_part = {shards_per_part}: must be at least {least}, for {len(classes)} classes")
    rng = random.Random(f"label shards {seed}")
    more = frozenset(rng.sample(range(len(classes)), shards % len(classes)))
    pieces: list[list[int]] = []
    for number, label in enumerate(classes):
        places = np.flatnonzero(labels == label).tolist()
        rng.shuffle(places)
        cuts = shards // len(classes) + (number in more)
        pieces += [places[cut::cuts] for cut in range(cuts)]
    rng.shuffle(pieces)
    dealt = [pieces[part * shards_per_part : (part + 1) * shards_per_part] for part in range(parts)]
    return _ascending([list(itertools.chain(*mine)) for mine in dealt])


def by_group(groups: npt.NDArray[np.int64], parts: int, seed: int) -> list[Indices]:
    """Samples of one group (a speaker, a writer) stay together; parts are about equally large, each ascending.

    `groups` (samples,) names each sample's group. The groups are dealt largest first, each to the part that has least
    so far; equally large ones in an order drawn from the seed. Raises `ValueError` for fewer groups than parts.
    """
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not 1 <= parts <= len(names):
        raise ValueError(f"parts = {parts}: must be 1 to the number of groups, {len(names)}")
    order = list(range(len(names)))
    random.Random(f"by group {seed}").shuffle(order)
    owner, load = np.zeros(len(names), np.int64), [0] * parts
    for group in sorted(order, key=lambda group: -int(sizes[group])):
        owner[group] = load.index(min(load))
        load[owner[group]] += int(sizes[group])
    return [np.flatnonzero(owner[members] == part) for part in range(parts)]


def contiguous(n_samples: int, parts: int) -> list[Indices]:
    """Consecutive pieces, sizes equal to within one: chapters of a text. Raises `ValueError` for an empty part."""
    _check(n_samples, parts)
    return [np.asarray(piece, np.int64) for piece in np.array_split(np.arange(n_samples), parts)]


def _ascending(dealt: list[list[int]]) -> list[Indices]:
    """Each part sorted; to one that has nothing the largest gives its last."""
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

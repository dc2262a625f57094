"""What the same data and the same number of steps give without slices: the honest figures a demo closes with.

Three trainings in this process, round by round as a swarm would, without any network: one node *alone* with the full
model on its own part; everybody training the *small* model, as wide as a slice (what each could have trained without
p2pfusion); everybody training the *full* model (what the slices are spared). Every round each node starts from the
common model, trains the task's steps on its part, and the mean is taken by the same fold.

It says nothing about time or traffic and chooses no winner.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.genesis import genesis
from p2pfusion.core.submodel import Vector
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.core.training import evaluate, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Accuracies on the task's validation data, 0..1; None without such data."""

    alone_accuracy: float | None
    small_accuracy: float | None
    full_accuracy: float | None


def compare(task: Task, *, nodes: int, rate: float, rounds: int, seed: int) -> Comparisons:
    """Train the three comparisons on the split `nodes` nodes have. Raises `TaskError`, `TrainingError`."""
    parts = [prepare(task, seed, (index, nodes)) for index in range(nodes)]
    full = parts[0].blueprint
    small = full.narrow(rate)
    return Comparisons(
        alone_accuracy=_accuracy(full, parts[:1], parts[0].genesis, rounds),
        small_accuracy=_accuracy(small, parts, genesis(small, seed), rounds),
        full_accuracy=_accuracy(full, parts, parts[0].genesis, rounds),
    )


def _accuracy(blueprint: Blueprint, parts: Sequence[Prepared], start: Vector, rounds: int) -> float | None:
    """Train `rounds` synchronous rounds from `start`; the accuracy of what comes out."""
    model = start
    streams = [part.train.batches(random.Random(f"comparison {index}")) for index, part in enumerate(parts)]
    for round_index in range(1, rounds + 1):
        model = _round(blueprint, parts, streams, model, round_index)
    validation = parts[0].validation
    return None if validation is None else evaluate(blueprint, model, validation)


def _round(
    blueprint: Blueprint, parts: Sequence[Prepared], streams: Sequence[Iterator[Batch]], model: Vector, round_index: int
) -> Vector:
    whole = blueprint.whole()
    contributions = []
    for index, (part, stream) in enumerate(zip(parts, streams, strict=True)):
        trained = train(blueprint, whole, model, stream, part.recipe, seed=round_index)
        contributions.append(Weighted(index.to_bytes(16, "big"), 1, whole, trained.after - model))
    return fold(blueprint, whole, model, contributions)

"""What the same data and the same number of steps give without slices: the honest figures a demo closes with.

Three trainings in this process, round by round as a swarm would, without any network (`lab.rounds`): one node *alone*
with the full model on its own part; everybody training the *small* model, as wide as a slice (what each could have
trained without p2pfusion); everybody training the *full* model (what the slices are spared).

It says nothing about time or traffic and chooses no winner.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from p2pfusion.algorithms.presets import PRESETS, Terms, made
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.lab.rounds import rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Accuracies on the task's validation data, 0..1; None without such data."""

    alone_accuracy: float | None
    small_accuracy: float | None
    full_accuracy: float | None


def compare(task: Task, *, nodes: int, rate: float, rounds: int, seed: int) -> Comparisons:
    """Train the three comparisons on the split `nodes` nodes have. Raises `TaskError`, `TrainingError`."""
    parts = [prepare(task, seed, (index, nodes)) for index in range(nodes)]
    terms = Terms(common_rate=rate)
    return Comparisons(
        alone_accuracy=_accuracy("full", parts[:1], terms, rounds),
        small_accuracy=_accuracy("small", parts, terms, rounds),
        full_accuracy=_accuracy("full", parts, terms, rounds),
    )


def _accuracy(name: str, parts: Sequence[Prepared], terms: Terms, count: int) -> float | None:
    """Of what comes out of so many rounds."""
    algorithms = [made(PRESETS[name], part, terms, seed=index) for index, part in enumerate(parts)]
    play = rounds(algorithms, [1.0] * len(parts), "all")
    *_, last = itertools.islice(play, count)
    found = algorithms[0].evaluate(last.models[0])
    return None if found is None else found.accuracy

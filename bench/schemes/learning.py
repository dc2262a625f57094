"""One run: a cell and a seed become a line of results. All randomness comes from the seed; nothing is timed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.datasets import images, texts
from bench.schemes.cells import INNER, Cell
from bench.schemes.rows import ROWS
from p2pfusion.algorithms.presets import Terms, made
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import as_data
from p2pfusion.core.submodel import extract
from p2pfusion.core.task import Task, prepare
from p2pfusion.core.training import Optimizer, Sgd, score
from p2pfusion.lab.rounds import Played, rounds
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.partition import contiguous, dirichlet
from p2pfusion.zoo.text import vocabulary, windows
from p2pfusion.zoo.transformers import gpt

TRAIN_IMAGES, VALIDATION_IMAGES = 20_000, 2_000
FINAL_LR = 0.02
"""Of the first learning rate; a cosine leads there, so that the last rounds are not noise."""
LOOKS = 8
"""Points of a learning curve."""
TEST_LABELS = 3200
"""In a batch of an evaluation."""
TIME = 64
"""Characters that a language model sees."""
VALIDATION_WINDOWS = 2_000
"""Of a text; as many as images. They only choose a width and draw a curve."""
Samples = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Material:
    """What is learnt: the whole model, samples to deal out, and what measures."""

    blueprint: Blueprint
    train: Samples
    validation: Samples
    test: Samples
    batch: int
    lr: float


@cache
def material(data: str) -> Material:
    """Read once per process. `-inner`: the residual streams of the network stay whole in every slice."""
    if data.endswith(INNER):
        found = material(data.removesuffix(INNER))
        return replace(found, blueprint=found.blueprint.inner())
    return _text(data) if data in ("shakespeare", "wikitext2") else _pictures(data)


def _pictures(data: str) -> Material:
    """`fashion-mlp`: the same images as rows of pixels, for a network a tenth as dear."""
    is_flat = data == "fashion-mlp"
    found = images("fashion" if is_flat else data, shards=3)
    end = TRAIN_IMAGES + VALIDATION_IMAGES
    parts = [found.train.fetch(range(TRAIN_IMAGES)), found.train.fetch(range(TRAIN_IMAGES, end)),
             found.test.fetch(range(len(found.test)))]  # fmt: skip
    if is_flat:
        parts = [(x.reshape(len(x), -1), y) for x, y in parts]
        return Material(mlp(parts[0][0].shape[1], (256, 256), 10), *parts, batch=32, lr=0.1)
    widths, blocks = ((32, 64, 128), 1) if data == "fashion" else ((16, 32, 64, 128), 2)
    blueprint = residual_cnn(found.channels, widths, 10, blocks_per_stage=blocks, groups=8, stem_stride=2)
    return Material(blueprint, *parts, batch=32, lr=0.1)


def _text(data: str) -> Material:
    """Characters; the test text is what `texts` holds back, the validation text begins the last ninth of the rest."""
    found = texts(data)
    names = vocabulary(tuple(found.train))
    train, test = (names.encode(part) for part in (found.train, found.validation))
    cut = len(train) * 8 // 9
    end = cut + VALIDATION_WINDOWS * TIME + 1
    parts = [windows([part], TIME) for part in (train[:cut], train[cut:end], test)]
    blueprint = gpt(len(names), TIME, 128, 2, 8, 512, tied=True)
    return Material(blueprint, *(part.fetch(range(len(part))) for part in parts), batch=16, lr=0.2)


def run(cell: Cell, seed: int) -> dict[str, Any]:
    """The line of results: accuracy and loss on test data of every width, which one validation chose, and costs."""
    torch.set_num_threads(1)
    stuff = material(cell.data)
    algorithms = _algorithms(cell, stuff, seed)
    rates, reach = cell.rates[: len(algorithms)], ROWS[cell.row].preset.reach
    curve: list[dict[str, float]] = []
    flops = 0
    played: Played | None = None
    play = rounds(algorithms, rates, reach, seed)
    for index in range(cell.rounds):
        if index == 1:
            with FlopCounterMode(display=False) as counter:
                played = next(play)
            flops = counter.get_total_flops()
        else:
            played = next(play)
        if (index + 1) % max(1, cell.rounds // LOOKS) == 0 or index + 1 == cell.rounds:
            curve.append({name: round(one.loss, 4) for name, one in algorithms[0].scores(played.models[0]).items()})
    assert played is not None
    return {**asdict(cell), "seed": seed, **_measured(algorithms[0], played, stuff), "curve": curve,
            "flops_per_node": flops / len(algorithms),
            "sent_per_node": sum(one.delta.size for one in played.contributed) / len(algorithms)}  # fmt: skip


def _measured(first: Sliced, played: Played, stuff: Material) -> dict[str, Any]:
    """On test data; of several models (a ring) the mean."""
    test = as_data(stuff.test, TEST_LABELS // stuff.test[1][:1].size, "test")
    blueprint, whole = first.blueprint, {"100%": first.blueprint.whole()}
    loss = first.prepared.loss
    validated = first.scores(played.models[0])
    served = min(validated, key=lambda name: validated[name].loss)
    scores = {
        name: [score(blueprint, width, extract(blueprint, model, width), test, loss) for model in played.models]
        for name, width in (first.way.widths or whole).items()
    }
    return {
        "served": served,
        "accuracy": round(float(np.mean([one.accuracy for one in scores[served]])), 5),
        "loss": round(float(np.mean([one.loss for one in scores[served]])), 5),
        "widths": {name: round(float(np.mean([one.accuracy for one in found])), 5) for name, found in scores.items()},
        "losses": {name: round(float(np.mean([one.loss for one in found])), 5) for name, found in scores.items()},
        "parameters": blueprint.size,
    }


def _algorithms(cell: Cell, stuff: Material, seed: int) -> list[Sliced]:
    """One per node; `alone` is the first node, `centralised` one node with everybody's data and steps."""
    row = ROWS[cell.row]
    parts = _parts(cell, stuff, seed)
    steps = cell.steps
    if row.is_pooled:
        parts, steps = [np.sort(np.concatenate(parts))], cell.steps * cell.nodes
    elif row.preset.reach == "none":
        parts = parts[:1]

    settings = {"lr": cell.lr_factor * stuff.lr, "momentum": 0.9}

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Sgd(parameters, **settings)

    def factor(round_index: int) -> float:
        return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, round_index / cell.rounds)))

    algorithms = []
    for number, part in enumerate(parts):
        task = Task(
            stuff.blueprint,
            (stuff.train[0][part], stuff.train[1][part]),
            stuff.validation,
            optimizer=optimizer,
            batch_size=stuff.batch,
            steps_per_round=steps,
            lr_schedule=factor,
            calibrate=cell.calibrate,
        )
        terms = Terms(common_rate=cell.common, outer_momentum=0.0 if len(parts) == 1 else cell.outer_momentum)
        algorithm = made(row.preset, prepare(task, seed), terms, 100 * seed + number)
        if row.start is not None:
            first = row.start(algorithm.blueprint, cell.rates[number], algorithm.genesis)
            algorithm.prepared = replace(algorithm.prepared, genesis=first)
        if row.optimizer is not None:
            other = partial(row.optimizer(algorithm.way.objective), **settings)
            algorithm.prepared = replace(algorithm.prepared, optimizer=other)
        algorithms.append(algorithm)
    return algorithms


def _parts(cell: Cell, stuff: Material, seed: int) -> list[npt.NDArray[np.int64]]:
    count = round(cell.share * len(stuff.train[1]))
    chosen = np.array(sorted(random.Random(f"share {seed}").sample(range(len(stuff.train[1])), count)))
    if cell.alpha is None:
        return [chosen[part] for part in contiguous(count, cell.nodes)]
    return [chosen[part] for part in dirichlet(stuff.train[1][chosen], cell.nodes, cell.alpha, seed)]

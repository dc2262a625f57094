"""One run: a cell and a seed become a line of results. Time is virtual; nothing is timed but the run itself."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.co_s2p.cells import Cell, Testbed, bed_of
from bench.co_s2p.rows import ROWS, Row
from bench.datasets import texts
from bench.schemes.learning import FINAL_LR, Material, material
from p2pfusion.algorithms.presets import Terms, made
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.config import GossipConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import as_data
from p2pfusion.core.depth import at_exits, beginning
from p2pfusion.core.footprint import Kept, load_of, training_bytes
from p2pfusion.core.objectives import LATER_ROUND
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.core.task import Task, prepare
from p2pfusion.core.training import Optimizer, Sgd, score, train
from p2pfusion.core.transfer import Transfer
from p2pfusion.net.settling import slice_at
from p2pfusion.node.node import Node
from p2pfusion.sim.world import LinkModel, Result, Scenario, World, simulate
from p2pfusion.zoo.partition import contiguous, dirichlet
from p2pfusion.zoo.text import vocabulary, windows
from p2pfusion.zoo.transformers import gpt, vit

LINK = LinkModel(latency_s=0.005, jitter_s=0.005)
GOSSIP = GossipConfig(coalesce_s=0.1, gossip_interval_s=2.0, gossip_interval_max_s=8.0, probe_interval_s=10.0)
"""Fewer calls to simulate. Rounds here take 9 s and nobody fails: 0.1 s later is 1 % of one, for all rows."""
PATCH, TIME = 8, 64
TEXT_CHARACTERS = 1_000_000
"""Of WikiText-2's training text, read as characters: its words alone would be most of the network."""


def stuff(data: str) -> Material:
    """The same samples as `bench.schemes`, and a network with four exits."""
    if data == "wikitext2":
        return _text()
    found = material(data)
    size = found.train[0].shape[-1]
    network = vit(size, PATCH, found.train[0].shape[1], 64, 4, 4, 128, 10, exits=4)
    return replace(found, blueprint=network, lr=0.1)


def _text() -> Material:
    found = texts("wikitext2")
    train, test = found.train[:TEXT_CHARACTERS], found.test[: TEXT_CHARACTERS // 10]
    names = vocabulary(tuple(train))
    cut = len(train) * 9 // 10
    pieces = [windows([names.encode(piece)], TIME) for piece in (train[:cut], train[cut:], test)]
    network = gpt(len(names), TIME, 64, 4, 4, 128, exits=4)
    return Material(network, *(piece.fetch(range(len(piece))) for piece in pieces), batch=16, lr=0.2)


class Head:
    """A watch that keeps the first node, to read its model in the end."""

    def __init__(self) -> None:
        self.node: Node | None = None

    def __call__(self, world: World, index: int) -> None:
        self.node = world.nodes.get(0, self.node)

    @property
    def model(self) -> Vector:
        assert self.node is not None
        return self.node.state.replica.sealed


def run(cell: Cell, seed: int) -> dict[str, Any]:
    """Accuracy and loss of every exit on test data, virtual time, utilisation, and predicted memory."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    row, bed, what = ROWS[cell.row], bed_of(cell.slow), stuff(cell.data)
    algorithms = _algorithms(cell, row, bed, what, seed)
    rates = bed.rates if row.rate is None else (row.rate,) * len(bed.rates)
    scenario = Scenario(nodes=len(bed.rates), rounds=cell.rounds, rates=rates, speeds=bed.speeds, cadence=row.cadence,
                        gossip=GOSSIP, link=LINK, codec="fp32", until_s=1e7)  # fmt: skip
    watch = Head()
    result = simulate(scenario, lambda index: algorithms[index], seed, watch=watch, is_checked=False)
    return {
        **asdict(cell), "seed": seed, "parameters": algorithms[0].blueprint.size,
        **_exits(algorithms[0], watch.model, what), **_times(result), **_memory(result, algorithms),
        "cpu_s": round(time.monotonic() - begun),
    }  # fmt: skip


def _algorithms(cell: Cell, row: Row, bed: Testbed, what: Material, seed: int) -> list[Sliced]:
    count, labels = len(bed.rates), what.train[1]
    parts = contiguous(len(labels), count) if cell.alpha is None else dirichlet(labels, count, cell.alpha, seed)

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Sgd(parameters, lr=what.lr, momentum=0.9)

    def factor(round_index: int) -> float:
        return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, round_index / cell.rounds)))

    algorithms = []
    for number, part in enumerate(parts):
        task = Task(what.blueprint, (what.train[0][part], labels[part]), optimizer=optimizer, batch_size=what.batch,
                    steps_per_round=cell.steps, lr_schedule=factor)  # fmt: skip
        one = made(row.preset, prepare(task, seed), Terms(), 100 * seed + number)
        # The smaller network's round is shorter by its share of the parameters.
        one.step_cost_s = bed.whole_round_s / cell.steps * one.blueprint.size / what.blueprint.size
        algorithms.append(one)
    return algorithms


def _exits(first: Sliced, model: Vector, what: Material) -> dict[str, Any]:
    test = as_data(what.test, 250, "test")
    found = {
        name: score(first.blueprint, one, extract(first.blueprint, model, one), test, first.prepared.loss)
        for name, one in at_exits(first.blueprint).items()
    }
    return {
        "widths": {name: round(one.accuracy, 5) for name, one in found.items()},
        "losses": {name: round(one.loss, 5) for name, one in found.items()},
    }


def _times(result: Result) -> dict[str, Any]:
    """Of the rounds after the warm-up, which all schemes leave out: seconds, and utilisation (PAPERS.md 2.6)."""
    reports = [report for outcome in result.outcomes for report in outcome.reports[2:]]
    gaps_s = [float(gap) for outcome in result.outcomes for gap in np.diff(outcome.reported_s)[2:]]
    trained, all_s = sum(one.seconds["train"] for one in reports), sum(sum(one.seconds.values()) for one in reports)
    end_s = max(outcome.reported_s[-1] for outcome in result.outcomes)
    return {
        "round_s": round(float(np.median(gaps_s)), 3),
        "run_s": round(end_s, 1),
        "utilisation": round(trained / all_s, 4),
        "contributions": len(reports) + 2 * len(result.outcomes),
    }


def _memory(result: Result, algorithms: list[Sliced]) -> dict[str, Any]:
    """Predicted peak of each device, MB, while slices are chosen and after; the mean over devices and the largest."""
    known: dict[SubModel, float] = {}
    blueprint = algorithms[0].blueprint
    found: list[tuple[float, float]] = []
    for algorithm, outcome in zip(algorithms, result.outcomes, strict=True):
        rate = result.scenario.rate_of(len(found))
        held = [_built(blueprint, outcome.reports[0].sub_model, rate), slice_at(algorithm, rate)]
        for one in held:
            if one not in known:
                known[one] = _bytes(algorithm, blueprint, one) / 1e6
        found.append((known[held[0]], known[held[1]]))
    return {
        "memory_first_mb": round(fmean(first for first, _ in found), 3),
        "memory_mb": round(fmean(last for _, last in found), 3),
        "memory_max_mb": round(max(last for _, last in found), 3),
    }


def _built(blueprint: Blueprint, contributed: SubModel, rate: float) -> SubModel:
    """The network it is of: where only masks were learnt, with the layers that stayed as they were."""
    return contributed if blueprint.members_in(contributed) else beginning(blueprint, rate)


def _bytes(algorithm: Sliced, blueprint: Blueprint, held: SubModel) -> float:
    kept = Kept(Transfer())
    prepared = algorithm.prepared
    start, batches = extract(blueprint, prepared.genesis, held), prepared.train.batches(random.Random(0))
    train(blueprint, held, start, batches, replace(prepared.recipe, steps=1, round=LATER_ROUND, objective=kept))
    way = algorithm.way
    load = load_of(blueprint, held, way.extra_vectors, model_vectors=way.model_vectors(blueprint, held))
    return training_bytes(load, kept.batch_bytes)

"""What the devices of these runs train: a network of typed-in costs, a wide one for memory, images and text.

Every process makes it anew from its name, as devices make theirs from a task file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.datasets import images, texts
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.core.task import Task
from p2pfusion.core.training import Sgd
from p2pfusion.net.chained import ChainRole, Piecewise, piecewise
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.partition import contiguous, dirichlet
from p2pfusion.zoo.text import vocabulary, windows
from p2pfusion.zoo.transformers import gpt

TOY_MS = (12, 20, 16, 24, 12, 28, 20, 16)
"""Milliseconds forward of the middle blocks; twice that backward, a tenth for the step: no two cuts are alike."""
ENDS_MS = 4
SAMPLES, TESTED = 8_000, 2_000
CHARACTERS = 400_000


@dataclass(frozen=True)
class Stuff:
    """A task, and whose part of its data is whose."""

    blueprint: Blueprint
    train: tuple[torch.Tensor, torch.Tensor]
    validation: tuple[torch.Tensor, torch.Tensor]
    batch: int
    steps: int
    lr: float
    alpha: float | None = 0.5

    def parts(self, count: int, seed: int) -> list[np.ndarray[Any, Any]]:
        labels = self.train[1]
        if self.alpha is None:
            return list(contiguous(len(labels), count))
        return list(dirichlet(labels, count, self.alpha, seed))

    def task(self, part: np.ndarray[Any, Any] | None = None) -> Task:
        x, y = self.train
        own = (x, y) if part is None else (x[part], y[part])
        return Task(
            self.blueprint, own, self.validation, optimizer=lambda tensors: Sgd(tensors, lr=self.lr, momentum=0.9),
            batch_size=self.batch, steps_per_round=self.steps, calibrate=False,
        )  # fmt: skip


def toy() -> Stuff:
    """Costs are typed in, arithmetic takes next to nothing."""
    return _random(mlp(16, (32,) * (len(TOY_MS) + 1), 4), 16, 8, 8)


def wide() -> Stuff:
    """12 middle blocks of 2048 x 2048: 201 MB of parameters, of which no device holds more than a third."""
    return _random(mlp(64, (2048,) * 13, 10), 64, 8, 3)


def _random(blueprint: Blueprint, inputs: int, batch: int, steps: int) -> Stuff:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((512, inputs)).astype(np.float32))
    y = x[:, :4].argmax(1)
    return Stuff(blueprint, (x[:448], y[:448]), (x[448:], y[448:]), batch, steps, 0.05)


def fashion() -> Stuff:
    """A residual CNN of 32-64-128 channels, as `bench.schemes` has it."""
    found = images("fashion", shards=1)
    network = residual_cnn(1, (32, 64, 128), 10, blocks_per_stage=1, stem_stride=2)
    return Stuff(network, found.train.fetch(range(SAMPLES)), found.test.fetch(range(TESTED)), 32, 20, 0.1)


def wikitext2() -> Stuff:
    """A causal Transformer that reads the beginning of WikiText-2 by characters."""
    found = texts("wikitext2")
    text = found.train[:CHARACTERS]
    names = vocabulary(tuple(text))
    cut = len(text) * 9 // 10
    train, validation = (windows([names.encode(piece)], 64) for piece in (text[:cut], text[cut:]))
    network = gpt(len(names), 64, 64, 4, 4, 128, tied=False)
    return Stuff(network, train.fetch(range(len(train))), validation.fetch(range(400)), 16, 20, 0.2, None)


STUFF = {"toy": toy, "wide": wide, "fashion": fashion, "wikitext2": wikitext2}


def pieces(what: str, part: tuple[int, int], seed: int, role: ChainRole = "owner") -> Piecewise:
    """As a device has it: the owner's part (i, n) of the data; a toy's costs as typed in."""
    stuff = STUFF[what]()
    found = piecewise(stuff.task(stuff.parts(part[1], seed)[part[0]]), seed, role=role)
    return replace(found, split=replace(found.split, profile=typed(stuff.blueprint))) if what == "toy" else found


def typed(blueprint: Blueprint) -> Profile:
    """The toy's profile: forward, twice that backward, a tenth for the step."""
    rows = [ENDS_MS, *TOY_MS, ENDS_MS]
    return Profile(
        batch=8,
        origin="typed in",
        blocks=tuple(
            BlockCost(
                name=name, forward_s=ms / 1e3, backward_s=2 * ms / 1e3, optimiser_s=0.1 * ms / 1e3, output_bytes=1024,
                kept_bytes=1024, parameter_bytes=4224, gradient_bytes=4224, optimiser_bytes=4224,
            )
            for name, ms in zip(blueprint.blocks, rows, strict=True)
        ),
    )  # fmt: skip


def clock_s() -> float:
    """Seconds, for what is measured here."""
    return perf_counter()

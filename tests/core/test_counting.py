"""Counted profiles beside measured ones: the same bytes, the clock's seconds, and no memory for weights."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter

import pytest
import torch

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.counting import count
from p2pfusion.core.data import Batch
from p2pfusion.core.genesis import genesis
from p2pfusion.core.measuring import measure
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.training import Recipe, Sgd
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt, vit

RECIPE = Recipe(loss=cross_entropy, optimizer=lambda tensors: Sgd(tensors, lr=0.1, momentum=0.9), steps=1)
IMAGES = torch.randn(8, 3, 32, 32), torch.arange(8)
TEXT = torch.arange(64).reshape(4, 16) % 20, torch.arange(64).reshape(4, 16) % 20
NETWORKS: dict[str, tuple[Blueprint, Batch]] = {
    "mlp": (mlp(64, (128, 128), 10), (torch.randn(16, 64), torch.arange(16) % 10)),
    "cnn": (residual_cnn(3, (16, 32), 10), IMAGES),
    "vit": (vit(32, 8, 3, 32, 2, 4, 64, 10), IMAGES),
    "gpt": (gpt(20, 16, 32, 2, 4, 64, tied=False), TEXT),
    "tied gpt": (gpt(20, 16, 32, 2, 4, 64, tied=True), TEXT),
    "from a module": (
        Blueprint.from_module(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)),
                              torch.randn(2, 8)),
        (torch.randn(8, 8), torch.arange(8) % 4),
    ),
}  # fmt: skip


def clock() -> Callable[[], float]:
    """A second later each time."""
    return partial(next, itertools.count(0.0))


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_are_those_that_a_measurement_finds(name: str) -> None:
    blueprint, batch = NETWORKS[name]
    counted = count(blueprint, batch, RECIPE, clock())
    values = genesis(blueprint, 0)
    measured = measure(blueprint, values, batch, RECIPE, seconds=0.0, clock=perf_counter, origin="here")
    for one, other in zip(counted.blocks, measured.blocks, strict=True):
        assert replace(one, forward_s=0, backward_s=0, optimiser_s=0, kept_bytes=0) == replace(
            other, forward_s=0, backward_s=0, optimiser_s=0, kept_bytes=0
        )
        assert one.kept_bytes == pytest.approx(other.kept_bytes, rel=1e-3)


def test_a_backward_pass_takes_twice_as_long_as_a_forward_one() -> None:
    blueprint, batch = NETWORKS["mlp"]
    for block in count(blueprint, batch, RECIPE, clock()).blocks:
        read_s = block.parameter_bytes / 1e10
        assert (block.forward_s, block.backward_s) == pytest.approx((1 + read_s, 2 + 2 * read_s), abs=2e-9)
        assert block.optimiser_s == pytest.approx(5 * block.parameter_bytes / 1e10, abs=1e-9)


def test_an_optimisers_state_is_found_without_making_it() -> None:
    blueprint, batch = NETWORKS["mlp"]
    for factory, times in ((partial(Sgd, lr=0.1), 0), (partial(torch.optim.Adam, lr=0.1), 2)):
        blocks = count(blueprint, batch, replace(RECIPE, optimizer=factory), clock()).blocks
        assert [block.optimiser_bytes for block in blocks] == [times * block.parameter_bytes for block in blocks]


def test_weights_take_no_memory() -> None:
    """4 blocks of 64 MB, of which one would show. Of a process of its own, as the system tells it while it runs: what
    `getrusage` tells begins with the parent's.
    """
    code = (
        "import torch\n"
        "from time import perf_counter\n"
        "from p2pfusion.core.counting import count\n"
        "from p2pfusion.core.objectives import cross_entropy\n"
        "from p2pfusion.core.training import Recipe, Sgd\n"
        "from p2pfusion.zoo.blueprints import mlp\n"
        "recipe = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, 0.1, 0.9), steps=1)\n"
        "torch.set_num_threads(1)\n"
        "def peak():\n"
        "    status = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in status if line.startswith('VmHWM')).split()[1])\n"
        "batch = torch.randn(8, 64), torch.arange(8)\n"
        "count(mlp(64, (64, 64), 8), batch, recipe, perf_counter)\n"
        "before = peak()\n"
        "count(mlp(64, (4096,) * 5, 8), batch, recipe, perf_counter)\n"
        "print(peak() - before)\n"
    )
    grown_kb = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown_kb < 32 * 1024


def test_what_fails_is_named() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")

    blueprint, batch = NETWORKS["mlp"]
    with pytest.raises(TaskError, match="out cannot be run: ValueError: no"):
        count(blueprint, batch, replace(RECIPE, loss=loss), clock())

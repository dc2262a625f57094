"""Counted profiles beside measured ones: the same bytes, seconds that compare blocks as a clock would."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_are_those_that_a_measurement_finds(name: str) -> None:
    blueprint, batch = NETWORKS[name]
    counted = count(blueprint, batch, RECIPE)
    values = genesis(blueprint, 0)
    measured = measure(blueprint, values, batch, RECIPE, seconds=0.0, clock=perf_counter, origin="here")
    for one, other in zip(counted.blocks, measured.blocks, strict=True):
        assert one.name == other.name
        for field in ("output_bytes", "parameter_bytes", "gradient_bytes", "optimiser_bytes"):
            assert getattr(one, field) == getattr(other, field), (one.name, field)
        # Attention on a processor keeps other things than on the meta device.
        assert one.kept_bytes == pytest.approx(other.kept_bytes, rel=0.3 if "layer" in one.name else 1e-9)
        assert one.forward_s > 0
        assert one.backward_s > one.forward_s or "embed" in one.name


def test_what_has_twice_the_products_takes_twice_as_long() -> None:
    batch = torch.randn(512, 256), torch.arange(512) % 10
    counted = count(mlp(256, (1024, 1024, 2048), 10), batch, RECIPE)
    first, second, third, _ = (block.forward_s for block in counted.blocks)
    assert second / first == pytest.approx(4, rel=0.2)
    assert third / second == pytest.approx(2, rel=0.2)


def test_equal_networks_have_equal_profiles() -> None:
    blueprint, batch = NETWORKS["cnn"]
    assert count(blueprint, batch, RECIPE) == count(blueprint, batch, RECIPE)


def test_a_loss_that_needs_values_is_named() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.sum() if float(output.sum()) > 0 else -output.sum()

    blueprint, batch = NETWORKS["mlp"]
    with pytest.raises(TaskError, match="out cannot be counted without values"):
        count(blueprint, batch, Recipe(loss=loss, optimizer=RECIPE.optimizer, steps=1))

"""Where a network trains: what moves, what stays as it was, and what a lower precision may change."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.data import as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.place import CPU, Place
from p2pfusion.core.training import Recipe, Sgd, Trained, loaded, score, train
from p2pfusion.errors import TrainingError
from p2pfusion.zoo.blueprints import mlp

BLUEPRINT = mlp(4, (8,), 2)
WHOLE = BLUEPRINT.whole()
GENESIS = genesis(BLUEPRINT, 0)
X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
DATA = as_data((X, (X.sum(1) > 0).long()), 16, "train")
LOWER = Place("cpu", "bfloat16")
NOWHERE: Any = "meta"
"""A device that holds shapes only: whoever gets there was moved."""


def trained(place: Place, seen: list[torch.dtype] | None = None) -> Trained:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if seen is not None:
            seen.append(output.dtype)
        return cross_entropy(output, target)

    recipe = Recipe(loss=loss, optimizer=lambda parameters: Sgd(parameters, 0.5), steps=40, place=place)
    return train(BLUEPRINT, WHOLE, GENESIS, DATA.batches(random.Random(0)), recipe)


def test_network_and_batches_go_to_the_device() -> None:
    place = Place(NOWHERE)
    assert {tensor.device.type for tensor in place.batch(X, X)} == {"meta"}
    module = loaded(BLUEPRINT, WHOLE, GENESIS, place=place)
    assert {tensor.device.type for tensor in module.parameters()} == {"meta"}
    assert CPU.batch(X, X)[0] is X


def test_training_and_evaluation_use_the_place() -> None:
    class Noted(Place):
        moved = 0

        def batch(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            Noted.moved += 1
            return x, y

    trained(Noted())
    assert Noted.moved == 40
    score(BLUEPRINT, WHOLE, GENESIS, DATA, place=Noted())
    assert Noted.moved == 44


def test_bfloat16_is_for_the_products_only() -> None:
    seen: list[torch.dtype] = []
    lower, usual = trained(LOWER, seen), trained(CPU)
    assert set(seen) == {torch.bfloat16}
    assert lower.after.dtype == np.float32
    assert (lower.after != usual.after).any()
    assert np.linalg.norm(lower.after - usual.after) < 0.1 * np.linalg.norm(usual.after - GENESIS)
    finer = lower.after.view(np.uint32) & 0xFFFF  # bfloat16 has none of these bits
    assert np.count_nonzero(finer) > finer.size // 2, "parameters and optimizer stay float32"


def test_evaluation_is_float32_everywhere() -> None:
    assert score(BLUEPRINT, WHOLE, GENESIS, DATA, cross_entropy, place=LOWER) == score(
        BLUEPRINT, WHOLE, GENESIS, DATA, cross_entropy
    )


def test_a_device_without_room_is_a_training_error_with_the_fix() -> None:
    class Full(nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(TrainingError, match="cpu: out of memory; train a smaller --slice"):
        CPU.network(Full(1, 1))


@pytest.mark.parametrize("place", [CPU, LOWER])
def test_seeding_leaves_the_generator_as_it_was(place: Place) -> None:
    state = torch.get_rng_state()
    with place.seeded(7):
        first = torch.rand(3)
    assert torch.equal(state, torch.get_rng_state())
    with place.seeded(7):
        assert torch.equal(first, torch.rand(3))


def test_a_place_reads_as_words() -> None:
    assert str(CPU) == "cpu in float32"
    assert str(Place("cuda", "bfloat16")) == "cuda in bfloat16"

"""Every network of the zoo trains at every rate, as a slice and as a small network of its own."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import Recipe, Sgd, loaded, train
from p2pfusion.zoo.blueprints import mlp, residual_cnn, resnet18
from p2pfusion.zoo.transformers import gpt, vit

IMAGES, TOKENS, VECTORS = torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4, 6)
NETWORKS: dict[str, tuple[Blueprint, torch.Tensor]] = {
    "mlp": (mlp(6, (16, 24), 5), VECTORS),
    "residual": (residual_cnn(3, (8, 16), 5, blocks_per_stage=1), IMAGES),
    "resnet18": (resnet18(outputs=5, widths=(8, 16, 16, 32)), IMAGES),
    "gpt": (gpt(5, 8, 64, 2, 8, 96), TOKENS),
    "untied": (gpt(5, 8, 64, 2, 8, 96, tied=False), TOKENS),
    "vit": (vit(8, 2, 3, 64, 2, 8, 96, 5), IMAGES),
    "token": (vit(8, 2, 3, 64, 2, 8, 96, 5, pooling="token"), IMAGES),
}
RATES = (1.0, 0.5, 0.25, 0.125)
BY_NETWORK = pytest.mark.parametrize("name", NETWORKS)
BY_RATE = pytest.mark.parametrize("rate", RATES)


def batch(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if not like.is_floating_point():
        x = torch.randint(5, like.shape, generator=generator)
        return x, x.roll(-1, 1)
    return torch.randn(like.shape, generator=generator), torch.arange(len(like)) % 5


def losses_of(blueprint: Blueprint, sub_model: SubModel, like: torch.Tensor) -> tuple[float, float]:
    """The loss before, and after five steps on one batch."""
    x, y = batch(like)
    start = extract(blueprint, genesis(blueprint, 1), sub_model)
    recipe = Recipe(loss=cross_entropy, optimizer=partial(Sgd, lr=0.05), steps=5, clip_norm=1.0)
    trained = train(blueprint, sub_model, start, iter([(x, y)] * 5), recipe)
    assert trained.steps == 5
    assert np.isfinite(trained.after).all()
    before, after = (loaded(blueprint, sub_model, values).train() for values in (start, trained.after))
    assert not np.array_equal(start, trained.after)
    with torch.no_grad():
        return float(cross_entropy(before(x), y)), float(cross_entropy(after(x), y))


@BY_NETWORK
@BY_RATE
def test_a_slice_learns_one_batch(name: str, rate: float) -> None:
    blueprint, like = NETWORKS[name]
    seat = Seat(rank=1, peers=2, round=4, rates=(rate, rate))
    sub_model = double_shift()(blueprint, seat, random.Random(0))
    assert sub_model.share(blueprint) < 1.3 * rate or rate == 1.0
    before, after = losses_of(blueprint, sub_model, like)
    assert after < before


@BY_NETWORK
@BY_RATE
def test_the_small_network_learns_one_batch(name: str, rate: float) -> None:
    blueprint, like = NETWORKS[name]
    small = blueprint.narrow(rate)
    before, after = losses_of(small, small.whole(), like)
    assert after < before


@BY_NETWORK
def test_at_rate_1_the_slice_is_the_module_to_the_last_bit(name: str) -> None:
    blueprint, like = NETWORKS[name]
    x, values = batch(like)[0], genesis(blueprint, 3)
    as_slice = loaded(blueprint, blueprint.whole(), values).train()
    assert torch.equal(as_slice(x), loaded(blueprint, blueprint.whole(), values, scaled=False).eval()(x))


@BY_NETWORK
def test_the_output_layer_reads_the_representation(name: str) -> None:
    blueprint, like = NETWORKS[name]
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 0)).eval()
    seen: list[torch.Tensor] = []
    assert blueprint.output_layer is not None
    layer = module.get_submodule(blueprint.output_layer)
    assert isinstance(layer, torch.nn.Linear)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    output = module(batch(like)[0])
    assert seen[0].shape[-1] == layer.in_features
    assert layer.out_features == output.shape[1] == 5
    rebuilt = layer(seen[0])
    torch.testing.assert_close(rebuilt.movedim(-1, 1), output)

"""Networks declared by hand: what is declared is what is built, and a slice is the masked network."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import Seat, random_dropout, rolling
from p2pfusion.core.sequential import blueprint_of
from p2pfusion.core.submodel import extract, scatter
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import mlp, residual_cnn

NETWORKS = {
    "mlp": (mlp(6, (8, 12), 3), (4, 6)),
    "residual": (residual_cnn(2, (8, 16), 5, blocks_per_stage=2, groups=4), (2, 2, 8, 8)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Blueprint, torch.Tensor]:
    blueprint, shape = NETWORKS[request.param]
    return blueprint, torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scheme", [rolling(), random_dropout()])
def test_a_slice_is_the_masked_full_network(network: tuple[Blueprint, torch.Tensor], scheme: object) -> None:
    blueprint, x = network
    values = genesis(blueprint, 1)
    seat = Seat(rank=0, peers=1, round=3, rates=(0.5,))
    sub_model = scheme(blueprint, seat, random.Random(2))
    masked = np.zeros_like(values)
    scatter(blueprint, masked, sub_model, extract(blueprint, values, sub_model))
    narrow = loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).eval()
    full = loaded(blueprint, blueprint.whole(), masked).eval()
    assert sum(tensor.numel() for tensor in narrow.parameters()) == sub_model.size(blueprint) < blueprint.size / 2
    torch.testing.assert_close(narrow(x), full(x))


def test_building_draws_no_random_numbers(network: tuple[Blueprint, torch.Tensor]) -> None:
    blueprint, x = network
    state = torch.get_rng_state()
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 0)).train()
    assert torch.equal(torch.get_rng_state(), state)
    assert module(x).shape[0] == len(x)


def test_the_mlp_is_the_sequential_one() -> None:
    by_hand = mlp(6, (8, 12), 3)
    layers = [torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)]
    found = blueprint_of(torch.nn.Sequential(*layers), torch.zeros(1, 6))
    assert [by_hand.shape(a) for a in by_hand.parameters] == [found.shape(a) for a in found.parameters]
    assert [axis.size for axis in by_hand.axes] == [axis.size for axis in found.axes]


def test_widths_must_hold_whole_groups() -> None:
    with pytest.raises(ValueError, match="divisible"):
        residual_cnn(3, (12,), 10, groups=8)


def test_describing_slicing_and_folding_need_no_torch() -> None:
    code = (
        "import sys, p2pfusion.zoo.blueprints as zoo, p2pfusion.core.fold, p2pfusion.core.replica;"
        "from p2pfusion.core.genesis import genesis;"
        "genesis(zoo.residual_cnn(3, (16,), 10), 0); genesis(zoo.mlp(4, (4,), 2), 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)

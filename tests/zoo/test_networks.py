"""Networks declared by hand: what is declared is what is built, and a slice is the masked network."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import Seat, random_dropout, rolling, static
from p2pfusion.core.sequential import blueprint_of
from p2pfusion.core.submodel import extract, scatter
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import mlp, residual_cnn, resnet18

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


REFERENCE = {
    1.0: (11_172_170, 555.4),
    0.5: (2_796_714, 139.3),
    0.375: (1_574_530, 78.5),
    0.25: (701_018, 35.0),
    0.1875: (395_014, 19.8),
    0.125: (176_178, 8.9),
    0.0625: (44_510, 2.3),
}
"""PAPERS.md 1.9: parameters, normalisations among them, and millions of multiplications for one 32 x 32 image."""


@pytest.mark.parametrize(("rate", "groups"), [(rate, 16) for rate in REFERENCE] + [(0.125, 8), (0.5, 4)])
def test_resnet18_is_heterofls_at_every_width(rate: float, groups: int) -> None:
    assert resnet18(groups=groups).narrow(rate).size == REFERENCE[rate][0]
    sliced = static()(resnet18(groups=groups), Seat(rank=0, peers=1, round=0, rates=(rate,)), random.Random(0))
    assert sliced.size(resnet18(groups=groups)) == REFERENCE[rate][0]


@pytest.mark.parametrize("rate", [0.25, 0.125])
def test_resnet18_multiplies_as_often_as_heterofls(rate: float) -> None:
    blueprint = resnet18().narrow(rate)
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 0)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2e6 == pytest.approx(REFERENCE[rate][1], abs=0.05)


def test_describing_slicing_and_folding_need_no_torch() -> None:
    code = (
        "import sys, p2pfusion.zoo.blueprints as zoo, p2pfusion.core.fold, p2pfusion.core.replica;"
        "from p2pfusion.zoo.transformers import gpt, vit;"
        "from p2pfusion.core.genesis import genesis;"
        "genesis(zoo.residual_cnn(3, (16,), 10), 0); genesis(zoo.mlp(4, (4,), 2), 0);"
        "genesis(gpt(9, 4, 8, 1, 2, 8), 0); genesis(vit(4, 2, 1, 8, 1, 2, 8, 3), 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)

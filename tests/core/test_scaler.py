"""The Scaler keeps the expected pre-activation of a slice at the full network's; in eval mode it is nothing."""

from __future__ import annotations

import random

import pytest
import torch

from p2pfusion.core.genesis import genesis
from p2pfusion.core.scaler import Scaler
from p2pfusion.core.schemes import Seat, rolling
from p2pfusion.core.submodel import extract
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import mlp


@pytest.mark.parametrize("rate", [0.125, 0.5, 1.0])
def test_over_all_windows_the_expected_pre_activation_is_the_full_networks(rate: float) -> None:
    blueprint = mlp(5, (16,), 4)
    values = genesis(blueprint, 2)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    outputs = []
    for round_index in range(16):
        seat = Seat(rank=0, peers=1, round=round_index, rates=(rate,))
        sub_model = rolling()(blueprint, seat, random.Random(0))
        outputs.append(loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).train()(x))
    full = loaded(blueprint, blueprint.whole(), values).eval()
    torch.testing.assert_close(torch.stack(outputs).mean(0), full(x))


def test_it_scales_in_training_only() -> None:
    x = torch.ones(2, 3)
    scaler = Scaler(0.25)
    assert torch.equal(scaler.train()(x), 4 * x)
    assert scaler.eval()(x) is x
    assert Scaler(1.0).train()(x) is x
    assert repr(scaler) == "Scaler(rate=0.25)"


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_its_rate_is_checked(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Scaler(rate)

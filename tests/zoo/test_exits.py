"""Networks with exits: the same network where whole, a shorter one where cut, and slices of any depth that compose."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.exits import Exit, depths
from p2pfusion.core.schemes import Seat, random_dropout
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter
from p2pfusion.core.training import loaded
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import residual_cnn, resnet18
from p2pfusion.zoo.transformers import gpt, vit

NETWORKS: dict[str, Callable[[int], Blueprint]] = {
    "vit": lambda exits: vit(4, 2, 1, 16, 4, 4, 32, 3, exits=exits),
    "token": lambda exits: vit(4, 2, 1, 16, 4, 4, 32, 3, pooling="token", exits=exits),
    "gpt": lambda exits: gpt(7, 5, 16, 4, 4, 32, exits=exits),
    "untied": lambda exits: gpt(7, 5, 16, 4, 4, 32, tied=False, exits=exits),
    "cnn": lambda exits: residual_cnn(1, (8, 16), 3, blocks_per_stage=2, groups=4, exits=exits),
}
FINGERPRINTS = {
    "vit": "8ac2d29a8ca6",
    "gpt": "d5ae07d0aac8",
    "cnn": "8203c1f115b6",
    "resnet18": "c618b6834886",
}


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def inputs(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if name in ("gpt", "untied"):
        return torch.randint(7, (2, 5), generator=generator)
    return torch.randn(2, 1, 4, 4, generator=generator)


def alive(blueprint: Blueprint) -> Vector:
    return np.random.default_rng(3).normal(0, 0.3, blueprint.size).astype(np.float32)


def answers(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        found: tuple[torch.Tensor, ...] = module.eval().answers(x)  # type: ignore[operator]
    return found


def test_without_exits_nothing_is_another_network() -> None:
    found = {
        "vit": vit(8, 2, 3, 32, 4, 4, 64, 10),
        "gpt": gpt(10, 8, 32, 2, 4, 64),
        "cnn": residual_cnn(3, (16, 32), 10, blocks_per_stage=2),
        "resnet18": resnet18(),
    }
    assert {name: one.fingerprint().hex()[:12] for name, one in found.items()} == FINGERPRINTS


@pytest.mark.parametrize(("layers", "expected"), [(4, (1, 2, 3, 4)), (12, (3, 6, 9, 12)), (7, (1, 3, 5, 7))])
def test_exits_stand_at_quarter_depths(layers: int, expected: tuple[int, ...]) -> None:
    """PAPERS.md 2.2: floor(L * {1/4, 1/2, 3/4, 1})."""
    assert depths(layers, 4) == expected


@pytest.mark.parametrize("exits", [-1, 5])
def test_every_exit_has_a_layer_of_its_own(name: str, exits: int) -> None:
    with pytest.raises(ValueError, match="exits"):
        NETWORKS[name](exits)


def test_whole_it_says_what_the_network_without_exits_says(name: str) -> None:
    plain, with_exits = NETWORKS[name](0), NETWORKS[name](4)
    values = alive(with_exits)
    places = with_exits.parameter_slices
    same = np.concatenate([values[places[parameter.name]] for parameter in plain.parameters])
    x = inputs(name)
    with torch.no_grad():
        expected = loaded(plain, plain.whole(), same).eval()(x)
    assert torch.equal(answers(loaded(with_exits, with_exits.whole(), values), x)[-1], expected)


def test_every_exit_alone_says_what_it_says_in_the_whole(name: str) -> None:
    blueprint, x = NETWORKS[name](4), inputs(name)
    values = alive(blueprint)
    whole = answers(loaded(blueprint, blueprint.whole(), values), x)
    assert len(whole) == 4
    for one, expected in zip(blueprint.exits, whole, strict=True):
        alone = SubModel.of(blueprint, {}, (*one.trunk, one.head))
        module = loaded(blueprint, alone, extract(blueprint, values, alone)).eval()
        with torch.no_grad():
            assert torch.equal(module(x), expected)
        assert alone.size(blueprint) < blueprint.size
        assert blueprint.members_in(alone) == (alone.blocks,)


def test_a_slice_is_the_whole_network_with_the_rest_at_zero(name: str) -> None:
    """PAPERS.md 2.3: outputs are put back into the full width, zeros elsewhere, before they are added."""
    blueprint, x = NETWORKS[name](4), inputs(name)
    cut = random_dropout()(blueprint, Seat(rank=0, peers=1, round=0, rates=(0.5,)), random.Random(5))
    deep = blueprint.exits[2]
    slices = replace(cut, blocks=(*deep.trunk, *(one.head for one in blueprint.exits[:3])))
    assert slices.width(blueprint, blueprint.axes[2].name) < blueprint.axes[2].size
    values, zeroed = alive(blueprint), np.zeros(blueprint.size, np.float32)
    held = extract(blueprint, values, slices)
    scatter(blueprint, zeroed, slices, held)
    found = answers(loaded(blueprint, slices, held, scaled=False), x)
    expected = answers(loaded(blueprint, blueprint.whole(), zeroed), x)
    assert len(found) == 3
    for one, other in zip(found, expected, strict=False):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_stream_takes_rows_and_gives_their_gradients_back() -> None:
    blueprint = vit(4, 2, 1, 16, 1, 4, 32, 3, exits=1)
    cut = SubModel.of(blueprint, {"layer0.o": [(0, 2), (5, 6)], "layer0.linear2": [(7, 9)]})
    module = loaded(blueprint, cut, extract(blueprint, alive(blueprint), cut))
    module(inputs("vit")).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in module.parameters())


@pytest.mark.parametrize(
    "blocks",
    [
        ("embedding", "layer0"),
        ("embedding", "layer0", "exit2"),
        ("embedding", "layer0", "layer2", "exit1"),
        ("embedding", "layer0", "layer1", "exit1"),
        ("exit1",),
    ],
    ids=" ".join,
)
def test_what_is_no_network_is_not_built(blocks: tuple[str, ...]) -> None:
    """A head without its trunk, a trunk with a gap, layers that no head reads."""
    blueprint = NETWORKS["vit"](4)
    with pytest.raises(ValueError, match="leaves blocks out"):
        blueprint.build(SubModel.of(blueprint, {}, blocks))


@pytest.mark.parametrize(
    "exits",
    [
        (Exit("head", (), 0),),
        (Exit("nowhere", ("embedding",), 1),),
        (Exit("head", ("embedding", "head"), 1),),
        (Exit("exit1", ("embedding", "layer1"), 1), Exit("head", ("embedding", "layer0"), 1)),
        (Exit("head", ("embedding",), 1), Exit("head", ("embedding", "layer0"), 1)),
    ],
    ids=["no trunk", "no block", "head in trunk", "trunks fork", "twice"],
)
def test_exits_that_contradict_the_blocks_are_refused(exits: tuple[Exit, ...]) -> None:
    with pytest.raises(TaskError, match="exit"):
        replace(NETWORKS["vit"](4), exits=exits)


def test_answering_leaves_out_the_shallower_heads() -> None:
    blueprint = NETWORKS["vit"](4)
    assert blueprint.answering(blueprint.whole()).blocks == (*blueprint.exits[-1].trunk, "head")
    plain = NETWORKS["vit"](0)
    assert plain.answering(plain.whole()) == plain.whole()

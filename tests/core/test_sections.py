"""Traced networks in pieces: cut where one value passes, refused where a residual or a weight spans the cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.stages import cut, held
from p2pfusion.core.submodel import extract
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError


class Block(nn.Module):
    """A residual inside; parameters in another order than they are used, and a ReLU before the first of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.second = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))
        self.first = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.dropout(torch.relu(self.first(torch.relu(x))), 0.0, self.training)) * self.scale


class Net(nn.Module):
    def __init__(self, mode: str = "clean") -> None:
        super().__init__()
        self.mode = mode
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([Block(6), Block(6)])
        self.head = nn.Linear(6, 3, bias=mode != "no bias")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels = x.shape[0], 6
        stem = self.stem(x)
        x = self.blocks[0](stem)
        if self.mode == "turns":
            x = self.stem(x[:, :4])
        x = self.blocks[1](x.reshape(batch, channels))
        return self.head(x + stem if self.mode == "residual" else x)


def described(mode: str = "clean") -> Blueprint:
    torch.manual_seed(0)
    return Blueprint.from_module(Net(mode), torch.rand(2, 4))


@pytest.mark.parametrize("mode", ["clean", "no bias"])
@pytest.mark.parametrize("training", [True, False])
def test_the_sections_of_a_traced_network_are_the_network(mode: str, training: bool) -> None:
    blueprint = described(mode)
    assert blueprint.blocks == ("stem", "blocks.0", "blocks.1", "head")
    vector, x = genesis(blueprint, 1), torch.rand(5, 4)
    out, parts = x, []
    for block in blueprint.blocks:
        (stage,) = cut(blueprint, [[block]], extract(blueprint, vector, held(blueprint, [[block]])))
        parts.append(flattened(stage))
        out = stage.train(training)(out)
    assert torch.equal(out, loaded(blueprint, blueprint.whole(), vector).train(training)(x))
    assert np.array_equal(np.concatenate(parts), vector), "in the blueprint's order, not in that of use"


def test_a_cut_moves_to_where_one_value_passes() -> None:
    """Behind the ReLU in front of a block's first parameter two values are alive: its input and what ReLU gives."""
    blueprint = described()
    vector = genesis(blueprint, 1)
    (first,) = cut(blueprint, [["stem"]], extract(blueprint, vector, held(blueprint, [["stem"]])))
    x = torch.rand(5, 4)
    weight, bias = first.parameters()
    assert torch.equal(first(x), F.linear(x, weight, bias)), "the ReLU is behind the cut"


def refused(mode: str) -> str:
    blueprint = described(mode)
    with pytest.raises(TaskError) as caught:
        cut(blueprint, [["stem"]], np.zeros(held(blueprint, [["stem"]]).size(blueprint), np.float32))
    return str(caught.value)


def test_a_residual_that_spans_a_cut_is_refused() -> None:
    text = refused("residual")
    assert "the blocks stem and blocks.0 cannot be parted, because more than one value passes" in text or (
        "the blocks blocks.0 and blocks.1 cannot be parted, because more than one value passes" in text
    )
    assert "declare both as one block" in text


def test_blocks_that_are_used_by_turns_are_refused() -> None:
    assert "stem and blocks.0 cannot be parted, because the network does not use first all of one" in refused("turns")


class Late(nn.Module):
    """Asks for the batch's size when the input is long gone."""

    def __init__(self, asks: str) -> None:
        super().__init__()
        self.asks = asks
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(h.view(x.size(0) if self.asks == "size" else x.shape[0], -1))


@pytest.mark.parametrize("asks", ["size", "shape"])
@pytest.mark.parametrize("training", [True, False])
def test_a_late_question_for_the_size_of_the_batch_passes_no_cut(asks: str, training: bool) -> None:
    blueprint = Blueprint.from_module(Late(asks), torch.rand(2, 4))
    vector, x = genesis(blueprint, 1), torch.rand(5, 4)
    out = x
    for block in blueprint.blocks:
        (stage,) = cut(blueprint, [[block]], extract(blueprint, vector, held(blueprint, [[block]])))
        out = stage.train(training)(out)
    assert torch.equal(out, loaded(blueprint, blueprint.whole(), vector).train(training)(x))


def test_what_passes_a_cut_is_a_batch() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).transpose(0, 1)).transpose(0, 1)

    blueprint = Blueprint.from_module(Turned(), torch.rand(2, 4, 3))
    run = [["a"]]
    (stage,) = cut(blueprint, run, extract(blueprint, genesis(blueprint, 0), held(blueprint, run)))
    with pytest.raises(ValueError, match="is not one batch"):
        stage(torch.rand(2, 4, 3))

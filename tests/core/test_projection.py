"""A projection head is part of the model and of no answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint, Dim
from p2pfusion.core.genesis import genesis
from p2pfusion.core.projection import SIZE, representation, with_projection
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt

GPT = gpt(11, 6, 32, 1, 4, 32)
NETWORKS = {
    "mlp": (mlp(5, (8, 12), 3), torch.linspace(-1, 1, 20).view(4, 5)),
    "cnn": (residual_cnn(1, (8, 16), 3, blocks_per_stage=1, groups=4), torch.linspace(-1, 1, 256).view(4, 1, 8, 8)),
    "tied gpt": (GPT, torch.arange(24).view(4, 6) % 11),
    "gpt": (gpt(11, 6, 32, 1, 4, 32, tied=False), torch.arange(24).view(4, 6) % 11),
}
EACH = pytest.mark.parametrize(("blueprint", "x"), NETWORKS.values(), ids=NETWORKS.keys())


def slice_of(blueprint: Blueprint) -> SubModel:
    seat = Seat(rank=1, peers=2, round=3, rates=(0.5, 0.5))
    return double_shift()(blueprint, seat, random.Random(0))


@EACH
def test_it_stands_at_the_end_reads_the_features_axis_and_changes_no_answer(
    blueprint: Blueprint, x: torch.Tensor
) -> None:
    projected = with_projection(blueprint)
    *before, head = projected.parameters
    assert tuple(before) == blueprint.parameters
    assert (head.name, head.block, projected.blocks[-1]) == ("projection.weight", "projection", "projection")
    last = next(axis for axis in reversed(blueprint.axes) if head.dims[1].axis == axis.name)
    assert head.dims == (Dim(None, SIZE), Dim(last.name))
    vector = genesis(projected, 4)
    assert vector[: blueprint.size].tobytes() == genesis(blueprint, 4).tobytes()
    for plain in (blueprint.whole(), slice_of(blueprint)):
        wide = replace(plain, blocks=projected.blocks)
        values = extract(projected, vector, wide)
        module, inner = loaded(projected, wide, values), loaded(blueprint, plain, values[: plain.size(blueprint)])
        assert flattened(module).tobytes() == values.tobytes()
        for mode in (True, False):
            module.train(mode)
            inner.train(mode)
            assert torch.equal(module(x), inner(x))


@EACH
def test_what_is_projected_is_what_the_output_layer_reads(blueprint: Blueprint, x: torch.Tensor) -> None:
    projected = with_projection(blueprint, 7)
    layer = blueprint.output_layer
    assert layer is not None
    module = loaded(projected, projected.whole(), genesis(projected, 1)).eval()
    output, view = representation(module, layer, x)
    assert torch.equal(output, module(x))
    assert view.shape == (4, 7)
    seen: list[torch.Tensor] = []
    handle = module.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(x)
    handle.remove()
    features = seen[0] if seen[0].dim() == 2 else seen[0].mean(1)
    assert torch.allclose(view, features @ module.get_parameter("projection.weight").T, atol=1e-6)
    assert not module.get_submodule(layer)._forward_pre_hooks, "no hook may stay"


def test_no_hook_stays_when_the_network_raises() -> None:
    blueprint = with_projection(mlp(5, (8,), 3))
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 1))
    with pytest.raises(RuntimeError):
        representation(module, "out", torch.zeros(2, 4))
    assert not module.get_submodule("out")._forward_pre_hooks


def test_projections_are_a_matter_of_the_fold_like_any_parameter() -> None:
    """Another network: who has no projection cannot be in the same run."""
    blueprint = mlp(5, (8,), 3)
    assert with_projection(blueprint).fingerprint() != blueprint.fingerprint()
    assert with_projection(blueprint, 64).fingerprint() != with_projection(blueprint).fingerprint()
    narrow = with_projection(blueprint).narrow(0.25)
    assert narrow.shape(narrow.parameters[-1]) == (SIZE, 2)
    assert narrow == with_projection(blueprint.narrow(0.25))


def test_modes_and_moves_reach_the_network_inside() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.out = nn.Linear(2, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.out(x * self.scale)
            return out if self.training else 2 * out

    plain = mlp(2, (), 1)
    scale, weight = (replace(plain.parameters[0], name=name) for name in ("scale", "out.weight"))
    blueprint = replace(plain, parameters=(replace(scale, dims=(Dim(None, 1),)), weight), factory=lambda spec: Asks())
    projected = with_projection(blueprint, 3)
    module = loaded(projected, projected.whole(), genesis(projected, 1))
    x = torch.ones(1, 2)
    assert torch.equal(2 * module.train()(x), module.eval()(x))
    assert module.to(torch.float64)(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("blueprint", "text"),
    [
        (replace(mlp(5, (8,), 3), output_layer=None), "choose --algorithm double_shift, nested or members$"),
        (replace(mlp(5, (8,), 3), output_layer="elsewhere"), "is no matrix"),
        (replace(residual_cnn(1, (8,), 3, groups=4), output_layer="stem.conv"), "is no matrix"),
        (with_projection(mlp(5, (8,), 3)), "already"),
        (replace(mlp(5, (8,), 3), members=(("hidden1", "out"),)), "side by side"),
    ],
)
def test_what_cannot_be_projected_is_refused_with_the_fix(blueprint: Blueprint, text: str) -> None:
    with pytest.raises(TaskError, match=text):
        with_projection(blueprint)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size = 0"):
        with_projection(mlp(5, (8,), 3), 0)


def test_an_output_layer_that_is_never_called_is_told() -> None:
    blueprint = with_projection(mlp(5, (8, 8), 3))
    module = loaded(blueprint, blueprint.whole(), genesis(blueprint, 1))
    with pytest.raises(TaskError, match="does not call 'projection'"):
        representation(module, "projection", torch.zeros(2, 5))

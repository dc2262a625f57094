"""An `nn.Sequential` described: full rate is the module, a slice is the masked module, the rest is refused by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Axis, Blueprint
from p2pfusion.core.layers import is_known
from p2pfusion.core.scaler import Scaler
from p2pfusion.core.sequential import blueprint_of
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 12), nn.Tanh()), nn.Linear(12, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=2, bias=False),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(12 * 3 * 3, 10),
        nn.LayerNorm(10),
        nn.Linear(10, 4),
        nn.LogSoftmax(dim=1),
    )


def sound() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(8, 6, 2, padding_mode="circular"),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 2),
    )  # fmt: skip


CASES = {
    "perceptron": (perceptron, (5, 6)),
    "convolutional": (convolutional, (5, 2, 14, 14)),
    "sound": (sound, (5, 3, 20)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Sequential, torch.Tensor]:
    make, shape = CASES[request.param]
    torch.manual_seed(3)
    return make().eval(), torch.randn(shape)


def test_full_rate_reproduces_the_module_exactly(case: tuple[nn.Sequential, torch.Tensor]) -> None:
    module, x = case
    before = copy.deepcopy(module.state_dict())
    blueprint = blueprint_of(module, x)
    built = loaded(blueprint, blueprint.whole(), flattened(module))
    assert torch.equal(built.eval()(x), module(x))
    assert [name for name, _ in built.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_extract_of_a_full_rate_slice_is_the_model(case: tuple[nn.Sequential, torch.Tensor]) -> None:
    module, x = case
    blueprint = blueprint_of(module, x)
    everything = SubModel.of(blueprint, {axis.name: [range(axis.size)] for axis in blueprint.axes})
    assert everything == blueprint.whole()
    assert (extract(blueprint, flattened(module), everything) == flattened(module)).all()


def halves(blueprint: Blueprint) -> SubModel:
    """The first and the last quarter of every axis, in units."""
    kept = {}
    for axis in blueprint.axes:
        quarter = max(1, axis.units // 4) * axis.unit
        kept[axis.name] = [(0, quarter), (axis.size - quarter, axis.size)]
    return SubModel.of(blueprint, kept)


def masked(blueprint: Blueprint, values: Vector, sub_model: SubModel) -> Vector:
    zeros = np.zeros(blueprint.size, np.float32)
    scatter(blueprint, zeros, sub_model, extract(blueprint, values, sub_model))
    return zeros


@pytest.mark.parametrize("name", ["perceptron", "grouped"])
def test_a_slice_is_the_masked_full_network(name: str) -> None:
    torch.manual_seed(5)
    if name == "perceptron":
        # ReLU only: what is masked must stay zero.
        module: nn.Sequential = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
        x = torch.randn(5, 6)
    else:
        module = convolutional()[:7].append(nn.Linear(108, 4))
        x = torch.randn(5, 2, 14, 14)
    blueprint = blueprint_of(module, x)
    sub_model = halves(blueprint)
    values = flattened(module)
    narrow = loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).eval()
    full = loaded(blueprint, blueprint.whole(), masked(blueprint, values, sub_model)).eval()
    assert sum(tensor.numel() for tensor in narrow.parameters()) == sub_model.size(blueprint) < blueprint.size // 2
    torch.testing.assert_close(narrow(x), full(x))


def test_axes_blocks_and_units() -> None:
    blueprint = blueprint_of(convolutional(), torch.zeros(1, 2, 14, 14))
    assert blueprint.blocks == ("0", "4", "7", "9")
    assert blueprint.axes == (Axis("0.out", 8, 2), Axis("4.out", 12), Axis("7.out", 10))
    described = dict(blueprint.describe())
    assert described["0.weight"] == "8x2x3x3 float32 0 0.out/2,-,-,-"
    assert described["1.bias"] == "8 float32 0 0.out/2"
    assert described["7.weight"] == "10x108 float32 7 7.out/1,4.out/1"
    assert described["9.weight"] == "4x10 float32 9 -,7.out/1"
    narrow = blueprint.build(SubModel.of(blueprint, {"0.out": [(2, 4), (6, 8)], "4.out": [1, 2, 11]}))
    assert narrow.get_submodule("1").num_groups == 2
    assert narrow.get_submodule("7").in_features == 27


def test_scalers_stand_before_layers_with_sliced_inputs_only() -> None:
    blueprint = blueprint_of(convolutional(), torch.zeros(1, 2, 14, 14))
    narrow = blueprint.build(SubModel.of(blueprint, {"0.out": [(0, 2)], "4.out": [range(6)]}))
    scalers = {name: module.rate for name, module in narrow.named_modules() if isinstance(module, Scaler)}
    assert scalers == {"4_scaler": 0.25, "7_scaler": 0.5, "9_scaler": 1.0}


def test_a_scaler_goes_before_the_relu_which_changes_nothing_but_memory() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 6)
    blueprint = blueprint_of(module, x)
    sub_model = SubModel.of(blueprint, {"0.out": [range(3)]})
    narrow = loaded(blueprint, sub_model, extract(blueprint, flattened(module), sub_model)).train()
    assert [name for name, _ in narrow.named_children()] == ["0", "2_scaler", "1", "2"]
    hidden, last = narrow.get_submodule("0"), narrow.get_submodule("2")
    assert torch.equal(narrow(x), last(torch.relu(hidden(x)) / (3 / 8)))


def test_frozen_parameters_stay_frozen_and_rebuilding_draws_no_random_numbers() -> None:
    module = perceptron()
    module[0].weight.requires_grad_(False)
    blueprint = blueprint_of(module, torch.zeros(1, 6))
    state = torch.get_rng_state()
    built = blueprint.build(blueprint.whole())
    assert torch.equal(torch.get_rng_state(), state)
    assert [tensor.requires_grad for tensor in built.parameters()] == [False, *[True] * 5]


def test_one_activation_may_stand_in_two_places() -> None:
    relu = nn.ReLU()
    module = nn.Sequential(nn.Linear(4, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 2))
    blueprint = blueprint_of(module, torch.zeros(1, 4))
    x = torch.randn(7, 4)
    assert torch.equal(loaded(blueprint, blueprint.whole(), flattened(module))(x), module(x))


def test_norms_of_other_dimensions() -> None:
    module = nn.Sequential(
        nn.LayerNorm(4),
        nn.Linear(4, 8, bias=False),
        nn.LayerNorm(8, bias=False),
        nn.Linear(8, 6),
        nn.LayerNorm(6, elementwise_affine=False),
        nn.GroupNorm(3, 3),
        nn.Linear(6, 2),
        nn.Softmax(dim=-1),
        nn.Flatten(0 + 1),
    )
    x = torch.randn(5, 3, 4)
    blueprint = blueprint_of(module, x)
    assert [axis.name for axis in blueprint.axes] == ["1.out", "3.out"]
    assert blueprint.blocks[0] == "0"
    assert torch.equal(loaded(blueprint, blueprint.whole(), flattened(module))(x), module(x))
    half = SubModel.of(blueprint, {"1.out": [range(4)], "3.out": [range(3)]})
    assert loaded(blueprint, half, extract(blueprint, flattened(module), half))(x).shape == (5, 6)


def test_flatten_beside_the_sliced_dimension() -> None:
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(2), nn.Conv1d(6, 4, 3), nn.Flatten(), nn.Linear(28, 2))
    blueprint = blueprint_of(module, torch.zeros(1, 1, 5, 5))
    assert dict(blueprint.describe())["2.weight"] == "4x6x3 float32 2 2.out/1,0.out/1,-"
    module = nn.Sequential(nn.Linear(3, 6), nn.Flatten(1, 2), nn.Linear(6, 2))
    blueprint = blueprint_of(module, torch.zeros(1, 2, 2, 3))
    assert dict(blueprint.describe())["2.weight"] == "2x6 float32 2 -,0.out/1"


LINEAR = (nn.Linear(4, 8), nn.Linear(8, 2))
CONV = (nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
IMAGE = (2, 1, 9, 9)


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        ([LINEAR[0], nn.BatchNorm1d(8), LINEAR[1]], (2, 4), ["1: BatchNorm1d", "statistics", "GroupNorm"]),
        ([CONV[0], nn.SyncBatchNorm(4), CONV[1]], IMAGE, ["1: SyncBatchNorm", "GroupNorm"]),
        ([nn.Sequential(nn.Embedding(3, 4)), LINEAR[0]], (2, 4), ["0.0: Embedding", "not known", "Blueprint"]),
        ([nn.LSTM(4, 8), LINEAR[1]], (2, 4), ["0: LSTM", "Blueprint"]),
        ([LINEAR[0], LINEAR[1], LINEAR[0]], (2, 4), ["2: shares", "with 0"]),
        ([nn.Linear(4, 2).double()], (2, 4), ["0: parameters are torch.float64", ".float()"]),
        ([nn.ReLU()], (2, 4), ["no Linear or Conv"]),
        ([nn.Linear(5, 2)], (2, 4), ["0: Linear", "(2, 4)"]),
        ([CONV[0], nn.Conv2d(4, 4, 3, groups=2), CONV[1]], IMAGE, ["1: grouped", "groups=1"]),
        ([CONV[0], nn.Linear(7, 3), nn.Linear(3, 2)], IMAGE, ["1: Linear", "Flatten"]),
        ([nn.Linear(9, 9), CONV[0], CONV[1]], IMAGE, ["1: convolution over a sliced feature", "before the Linear"]),
        ([LINEAR[0], nn.Softmax(dim=1), LINEAR[1]], (2, 4), ["1: a softmax", "last layer"]),
        ([LINEAR[0], nn.Flatten(0), nn.Linear(16, 2)], (2, 4), ["1: Flatten", "batch", "start_dim=1"]),
        ([LINEAR[0], nn.Flatten(), nn.Linear(24, 2)], (2, 3, 4), ["1: Flatten", "interleave"]),
        ([LINEAR[0], nn.MaxPool1d(2), nn.Linear(4, 2)], (2, 3, 4), ["1: MaxPool1d", "sliced"]),
        ([CONV[0], nn.Flatten(), nn.GroupNorm(7, 196), nn.Linear(196, 2)], IMAGE, ["2: a group", "whole channels"]),
        ([CONV[0], nn.MaxPool2d(2, return_indices=True), CONV[1]], IMAGE, ["1: MaxPool2d"]),
    ],
)  # fmt: skip
def test_what_cannot_be_sliced_is_refused_with_name_reason_and_fix(
    layers: list[nn.Module], shape: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(TaskError) as caught:
        blueprint_of(nn.Sequential(*layers), torch.zeros(shape))
    for word in words:
        assert word in str(caught.value)


def test_hooks_are_refused() -> None:
    layer = nn.Linear(4, 2)
    layer.register_forward_hook(lambda *_: None)
    with pytest.raises(TaskError, match="hooks"):
        blueprint_of(nn.Sequential(layer), torch.zeros(1, 4))


def test_a_subclass_with_its_own_forward_is_no_known_layer() -> None:
    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert not is_known(Twice(4, 2))

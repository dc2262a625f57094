"""Modules by other people's conventions: a full-rate slice is the module, a slice is a network, or a refusal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from p2pfusion.algorithms.co_s2p import Choice, way
from p2pfusion.core.blueprint import Axis, Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.task import Task, prepare
from p2pfusion.core.tracing import blueprint_of_module
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt, vit
from tests.foreign.modules import GPT, CausalLM, GPTConfig, LSTMClassifier, MobileNet, ResNet, UNet


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (3, 12))


def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32)


@dataclass(frozen=True)
class Case:
    """A module, an input, and the axes that must come out: (name, size, unit)."""

    make: Callable[[], nn.Module]
    example: Callable[[], torch.Tensor]
    axes: tuple[tuple[str, int, int], ...]
    whole: str = ""
    """What its findings must name, with the reason."""


GPT_AXES = (
    ("transformer.wte.out", 32, 1),
    ("transformer.h.0.mlp.c_fc.out", 128, 1),
    ("transformer.h.1.mlp.c_fc.out", 128, 1),
)
FUSED = "transformer.h.0.attn.c_attn.out, transformer.h.1.attn.c_attn.out: whole, because its pieces become"
CASES = {
    "gpt": Case(lambda: GPT(GPTConfig()), tokens, GPT_AXES, FUSED),
    "gpt-manual": Case(lambda: GPT(GPTConfig(flash=False, bias=False)), tokens, GPT_AXES, FUSED),
    "causal-lm": Case(
        CausalLM,
        tokens,
        (
            ("model.embed_tokens.out", 32, 1),
            ("model.layers.0.self_attn.k_proj.out", 16, 8),
            ("model.layers.0.mlp.gate_proj.out", 96, 1),
            ("model.layers.1.self_attn.k_proj.out", 16, 8),
            ("model.layers.1.mlp.gate_proj.out", 96, 1),
        ),
    ),
    "resnet": Case(
        lambda: ResNet((1, 2), 16, group_norm),
        images,
        (
            ("conv1.out", 16, 4),
            ("layer1.0.conv1.out", 16, 4),
            ("layer2.0.conv1.out", 32, 8),
            ("layer2.0.conv2.out", 32, 8),
            ("layer2.1.conv1.out", 32, 8),
        ),
    ),
    "mobilenet": Case(
        MobileNet,
        images,
        (
            ("features.0.0.out", 16, 4),
            ("features.1.conv.0.0.out", 32, 4),
            ("features.2.conv.0.0.out", 64, 4),
            ("features.2.conv.2.out", 24, 4),
            ("features.3.conv.0.0.out", 96, 4),
            ("features.4.fc1.out", 8, 1),
            ("features.5.0.out", 64, 4),
        ),
    ),
    "unet": Case(
        UNet,
        lambda: torch.randn(2, 1, 20, 20),
        (
            ("inc.double_conv.0.out", 8, 2),
            ("down1.1.double_conv.0.out", 16, 4),
            ("down2.1.double_conv.0.out", 32, 8),
            ("down2.1.double_conv.3.out", 32, 8),
            ("up1.conv.double_conv.0.out", 16, 4),
            ("up1.conv.double_conv.3.out", 16, 4),
            ("up2.conv.double_conv.0.out", 8, 2),
            ("up2.conv.double_conv.3.out", 8, 2),
        ),
        "inc.double_conv.3.out, down1.1.double_conv.3.out and 2 more: whole, because concatenated",
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower in several threads, on a busy computer by far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(4)
    return CASES[request.param]


def halves(blueprint: Blueprint) -> SubModel:
    """Every second unit of every axis."""
    kept = {
        axis.name: [(unit * axis.unit, (unit + 1) * axis.unit) for unit in range(0, axis.units, 2)]
        for axis in blueprint.axes
    }
    return SubModel.of(blueprint, kept)


def test_a_foreign_module(case: Case) -> None:
    """All that item 7 asks for, of one tracing each: it is the slowest thing here."""
    module, x = case.make(), case.example()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    blueprint = Blueprint.from_module(module, x)
    assert torch.equal(torch.get_rng_state(), state), "describing draws no random numbers"
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert blueprint.axes == tuple(Axis(*axis) for axis in case.axes)
    assert any(finding.startswith(case.whole) for finding in blueprint.findings) == bool(case.whole)
    full_rate_is_the_module(blueprint, module, x)
    a_slice_trains(blueprint, x)
    a_slice_trains(blueprint.inner(), x)


def full_rate_is_the_module(blueprint: Blueprint, module: nn.Module, x: torch.Tensor) -> None:
    built = loaded(blueprint, blueprint.whole(), flattened(module))
    assert [name for name, _ in built.named_parameters()] == [name for name, _ in module.named_parameters()]
    for batch in (x, x[:1], *([x[:, :5]] if x.dim() == 2 else [])):
        assert torch.equal(built.eval()(batch), module.eval()(batch))
        torch.manual_seed(1)
        wanted = module.train()(batch)
        torch.manual_seed(1)
        assert torch.equal(built.train()(batch), wanted), "dropout included"


def a_slice_trains(blueprint: Blueprint, x: torch.Tensor) -> None:
    half = halves(blueprint)
    assert half.share(blueprint) < 0.9
    narrow = loaded(blueprint, half, extract(blueprint, genesis(blueprint, 0), half)).train()
    assert sum(tensor.numel() for tensor in narrow.parameters()) == half.size(blueprint)
    output = narrow(x)
    assert output.shape == loaded(blueprint, blueprint.whole(), genesis(blueprint, 0))(x).shape
    output.square().mean().backward()
    assert all(tensor.grad is not None for tensor in narrow.parameters())
    copy.deepcopy(narrow).eval()(x[:1])
    small = blueprint.narrow(0.5)
    assert loaded(small, small.whole(), genesis(small, 0)).train()(x).shape == output.shape
    assert narrow.to("meta")(x.to("meta")).shape == output.shape, "whatever forward makes is made where the input is"


@pytest.mark.parametrize(
    ("module", "x", "words"),
    [
        (lambda: ResNet((1, 1), 8, nn.BatchNorm2d), images, ["bn1: BatchNorm2d", "statistics", "GroupNorm"]),
        (LSTMClassifier, tokens, ["lstm: LSTM", "gates", "Blueprint"]),
    ],
)
def test_what_cannot_be_sliced_is_refused_by_name(
    module: Callable[[], nn.Module], x: Callable[[], torch.Tensor], words: list[str]
) -> None:
    with pytest.raises(TaskError) as caught:
        Blueprint.from_module(module(), x())
    assert all(word in str(caught.value) for word in words)


def test_a_task_takes_any_module() -> None:
    module = ResNet((1, 1), 8, group_norm)
    task = Task(module, (torch.randn(8, 3, 16, 16), torch.arange(8) % 10), init="given")
    assert (prepare(task, 0).genesis == flattened(module)).all()


HAND = {
    "mlp": (mlp(10, (16, 12), 3), lambda: torch.randn(4, 10)),
    "cnn": (residual_cnn(3, (8, 16), 5, groups=4, blocks_per_stage=1), lambda: torch.randn(2, 3, 12, 12)),
    "gpt": (gpt(40, 16, 32, 2, 4, 64), tokens),
    "gpt-untied": (gpt(40, 16, 32, 2, 4, 64, tied=False), tokens),
    "vit": (vit(16, 4, 3, 32, 2, 4, 64, 5), lambda: torch.randn(2, 3, 16, 16)),
    "vit-token": (vit(16, 4, 3, 32, 1, 4, 64, 5, pooling="token"), lambda: torch.randn(2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", HAND)
def test_a_zoo_model_is_traced_to_what_its_author_declared(name: str) -> None:
    """The same parameters share the same axes, and a slice computes the same while it trains, Scalers included."""
    hand, example = HAND[name]
    x, values = example(), genesis(hand, 3)
    traced = blueprint_of_module(loaded(hand, hand.whole(), values), x)
    names: dict[str, str] = {}
    for own, theirs in zip(traced.parameters, hand.parameters, strict=True):
        assert own.name == theirs.name
        for found, declared in zip(own.dims, theirs.dims, strict=True):
            assert (found.axis is None, found.size) == (declared.axis is None, declared.size)
            if found.axis is not None and declared.axis is not None:
                assert names.setdefault(found.axis, declared.axis) == declared.axis
    assert len(set(names.values())) == len(names) == len(hand.axes)
    kept = halves(hand)
    same = SubModel.of(traced, {own: kept.ranges(hand, theirs) for own, theirs in names.items()})
    networks = [
        loaded(blueprint, sub_model, extract(blueprint, values, sub_model)).train()
        for blueprint, sub_model in ((traced, same), (hand, kept))
    ]
    torch.testing.assert_close(networks[0](x), networks[1](x))


EXITS = {
    "cnn": (partial(residual_cnn, 3, (8, 16), 5, groups=4, blocks_per_stage=1), lambda: torch.randn(2, 3, 12, 12)),
    "gpt": (partial(gpt, 40, 16, 32, 2, 4, 64), tokens),
    "gpt-untied": (partial(gpt, 40, 16, 32, 2, 4, 64, tied=False), tokens),
    "vit": (partial(vit, 16, 4, 3, 32, 2, 4, 64, 5), lambda: torch.randn(2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", EXITS)
def test_a_network_with_exits_is_traced_as_one_that_answers_at_its_end(name: str) -> None:
    """Its axes are those of the network without exits, the heads are told of, and `co_s2p` refuses it with the fix."""
    make, example = EXITS[name]
    hand, plain, x = make(exits=2), make(), example()
    values = genesis(hand, 3)
    module = loaded(hand, hand.whole(), values)
    traced = Blueprint.from_module(module, x)
    assert (len(hand.exits), traced.exits) == (2, ())
    assert traced.findings == ("exit1: never trained, because forward does not read it while training",)
    assert sorted(axis.size for axis in traced.axes) == sorted(axis.size for axis in plain.axes)
    assert torch.equal(loaded(traced, traced.whole(), values).eval()(x), module.eval()(x))
    half = halves(traced)
    narrow = loaded(traced, half, extract(traced, values, half)).train()
    narrow(x).square().mean().backward()
    idle = {name.split(".")[0] for name, tensor in narrow.named_parameters() if tensor.grad is None}
    assert idle == {"exit1"}
    with pytest.raises(TaskError, match=r"at its end only; make it with exits, .* give the task that Blueprint"):
        way(traced, Choice())

"""What tracing makes of single turns of phrase in a forward: an axis, a finding with its reason, or a refusal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from p2pfusion.core import recorder, tracing_rules
from p2pfusion.core.blueprint import Axis, Blueprint
from p2pfusion.core.flows import Classes, Part
from p2pfusion.core.recording import Recording
from p2pfusion.core.replay import Replay
from p2pfusion.core.scaler import Scaler
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.tracing import blueprint_of_module
from p2pfusion.core.tracing_shapes import regroup
from p2pfusion.core.tracing_walk import Walk
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Forward = Callable[[Any, torch.Tensor], Any]


class Net(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.body = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def flat(forward: Forward, **more: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    """(batch, 8) -> a: 16 -> b: 3, with `forward` between."""
    return Net(forward, a=nn.Linear(8, 16), b=nn.Linear(16, 3), **more), torch.randn(4, 8)


def image(forward: Forward, **layers: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    return Net(forward, a=nn.Conv2d(3, 16, 1), **layers), torch.randn(3, 3, 6, 6)


def shuffled(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.a(x)
    batch, channels, height, width = y.shape
    y = y.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    return net.b(y).mean((2, 3))


def in_place(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(net.a(x), inplace=True)
    z = y
    y += 1
    y = y * 2
    return net.b(net.c(z) + y)


def by_mode(net: Any, x: torch.Tensor) -> Any:
    y = net.a(x)
    y = y + net.c(y) * (torch.rand(len(y), 1) > 0.5) if net.training else y + net.c(y) * 0.5
    return {"logits": net.b(y), "none": None, "pair": (y.mean(), [net.b(y)])}


AXES: Mapping[str, tuple[Callable[[], tuple[nn.Module, torch.Tensor]], tuple[Axis, ...]]] = {
    "len of a batch": (lambda: flat(lambda net, x: net.b(net.a(x).view(len(x), -1))), (Axis("a.out", 16),)),
    "int of a batch": (
        lambda: flat(lambda net, x: net.b(net.a(x).view(int(x.shape[0]) * 1, 16))),
        (Axis("a.out", 16),),
    ),
    "in place": (lambda: flat(in_place, c=nn.Linear(16, 16, bias=False)), (Axis("a.out", 16),)),
    "by mode": (lambda: flat(by_mode, c=nn.Linear(16, 16)), (Axis("a.out", 16),)),
    "matmul": (lambda: flat(lambda net, x: net.a(x).sigmoid() @ net.b.weight.T + net.b.bias), (Axis("a.out", 16),)),
    "prelu": (
        lambda: image(lambda net, x: net.b(net.p(net.a(x))).mean((2, 3)), p=nn.PReLU(16), b=nn.Conv2d(16, 3, 1)),
        (Axis("a.out", 16),),
    ),
    "groups": (
        lambda: image(
            lambda net, x: net.b(F.relu(net.g(net.a(x)))).mean((2, 3)),
            g=nn.Conv2d(16, 32, 3, groups=4),
            b=nn.Conv2d(32, 3, 1),
        ),
        (Axis("a.out", 16, 4),),
    ),
    "flatten": (
        lambda: image(lambda net, x: net.b(F.max_pool2d(net.a(x), 2).flatten(1)), b=nn.Linear(16 * 9, 3)),
        (Axis("a.out", 16),),
    ),
    "upwards": (
        lambda: image(
            lambda net, x: net.b(net.u(F.interpolate(net.a(x), scale_factor=2))),
            u=nn.ConvTranspose2d(16, 8, 2, 2),
            b=nn.Conv2d(8, 2, 1),
        ),
        (Axis("a.out", 16), Axis("u.out", 8)),
    ),
    "stack": (lambda: flat(lambda net, x: net.b(torch.stack([net.a(x), net.a(x) * 2]).mean(0))), (Axis("a.out", 16),)),
}


@pytest.mark.parametrize("name", AXES)
def test_what_can_be_sliced(name: str) -> None:
    make, axes = AXES[name]
    module, x = make()
    blueprint = blueprint_of_module(module, x)
    assert blueprint.axes == axes
    built = loaded(blueprint, blueprint.whole(), flattened(module)).eval()
    torch.testing.assert_close(built(x), module.eval()(x), rtol=0, atol=0)


WHOLE = {
    "shuffle": (lambda: image(shuffled, b=nn.Conv2d(16, 3, 1)), "a view mixes it"),
    "roll": (lambda: flat(lambda net, x: net.b(torch.roll(net.a(x), 1, -1))), "roll is a function"),
    "index": (lambda: flat(lambda net, x: net.b(net.a(x)[:, torch.arange(15, -1, -1)])), "only some of it"),
    "constant": (lambda: flat(lambda net, x: net.b(net.a(x) * torch.arange(16.0))), "meets something"),
    "softmax": (lambda: flat(lambda net, x: net.b(net.a(x).softmax(-1))), "softmax runs over it"),
    "sum": (lambda: flat(lambda net, x: net.b(net.a(x) / net.a(x).sum(-1, keepdim=True))), "sum runs over it"),
    "width": (lambda: flat(lambda net, x: net.b(net.a(x) + torch.ones(net.a(x).shape[1]))), "computes with its width"),
    "gram": (lambda: flat(lambda net, x: net.b(net.a(x)) + (net.a(x) @ net.a(x).T).mean()), "two activations"),
    "glu": (lambda: flat(lambda net, x: net.b(torch.cat([F.glu(net.a(x))] * 2, -1))), "glu is a function"),
    "odd form": (lambda: flat(lambda net, x: net.b(torch.max(net.a(x), net.a(x)))), "a form whose axes"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_stays_whole_is_said_with_its_reason(name: str) -> None:
    make, reason = WHOLE[name]
    blueprint = blueprint_of_module(*make())
    assert blueprint.axes == ()
    (finding,) = blueprint.findings
    assert finding.startswith("a.out: whole, because ")
    assert reason in finding


class Early(nn.Module):
    """Two heads, of which forward asks one; a scale that it reads in evaluation only, and a layer half used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        early = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
        self.heads = nn.ModuleDict({"early": early, "end": nn.Linear(16, 3)})
        self.scale = nn.Parameter(torch.ones(3))
        self.mixed = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.heads["end"](self.body(x).relu()) + self.mixed.bias
        return y if self.training else y * self.scale


def test_what_forward_never_reads_is_said() -> None:
    blueprint = blueprint_of_module(Early(), torch.randn(4, 8))
    assert blueprint.axes == (Axis("body.out", 16),)
    (finding,) = blueprint.findings
    assert finding == "scale, heads.early, mixed.weight: never trained, because forward does not read it while training"


def counting(net: Any, x: torch.Tensor) -> torch.Tensor:
    net.calls = getattr(net, "calls", 0) + 1
    return net.b(net.a(x)) * net.calls


def per_sample(net: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([net.b(net.a(row)) for row in x])


class Mean(nn.Module):
    """Remembers something in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))


def mutating(net: Any, x: torch.Tensor) -> torch.Tensor:
    net.n.mean.mul_(0.9)
    return net.b(net.a(x))


REFUSED = {
    "branch": (flat(lambda net, x: net.b(net.a(x)) if x.sum() > 0 else x), ["model: forward looks at", "bool"]),
    "item": (flat(lambda net, x: net.b(net.a(x)) * x.mean().item()), ["values", "item"]),
    "state": (flat(counting), ["the second time", "state"]),
    "buffer": (flat(mutating, n=Mean()), ["in place", "mul"]),
    "running": (
        image(lambda net, x: net.n(net.a(x)), n=nn.InstanceNorm2d(16, track_running_stats=True)),
        ["n: InstanceNorm", "running"],
    ),
    "functional": (
        flat(lambda net, x: net.b(F.batch_norm(net.a(x), None, None, training=True))),
        ["model: BatchNorm", "GroupNorm"],
    ),
    "samples": (flat(per_sample), ["another number of samples", "alike"]),
    "gru": (flat(lambda net, x: net.b(net.a(x)), c=nn.GRUCell(3, 3)), ["c: GRUCell", "gates"]),
    "no tensor": (flat(lambda net, x: 3), ["returns int"]),
    "raises": (flat(lambda net, x: net.b(x)), ["b: forward raised RuntimeError"]),
    "double": ((nn.Bilinear(3, 3, 3).double(), torch.zeros(2, 3)), ["weight: ", ".float()"]),
    "empty": ((nn.Bilinear(3, 3, 3), torch.zeros(0, 8)), ["example"]),
    "nothing": ((nn.ReLU6(), torch.zeros(2, 3)), ["no parameter to train"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_never_be_right_is_refused_by_name(name: str) -> None:
    (module, x), words = REFUSED[name]
    with pytest.raises(TaskError) as caught:
        blueprint_of_module(module, x)
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net under all rules: claim that `roll` leaves an axis as it is."""
    rules = {**tracing_rules.RULES, "roll": tracing_rules.RULES["relu"]}
    monkeypatch.setattr("p2pfusion.core.tracing.RULES", rules)
    module, x = flat(lambda net, x: net.b(torch.roll(net.a(net.c(x)), 1, -1)), c=nn.Linear(8, 8))
    with pytest.raises(TaskError, match=r"a\.out: was traced, but its order matters"):
        blueprint_of_module(module, x)


def test_a_wrong_size_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow network that computes something else than the masked one: claim that `sum` may be sliced like a mean."""

    def half_ones(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.a(x)
        return net.b(y + torch.logsumexp(y, -1, keepdim=True))

    rules = {**tracing_rules.RULES, "logsumexp": lambda walk, call: (None, None)}
    monkeypatch.setattr("p2pfusion.core.tracing.RULES", rules)
    with pytest.raises(TaskError, match=r"a\.out: was traced, but a narrow network does not compute"):
        blueprint_of_module(*flat(half_ones))


def test_forward_may_not_be_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "STEPS_MAX", 2)
    blueprint_of_module(*flat(lambda net, x: net.b(net.a(x))))
    with pytest.raises(TaskError, match="more than 2 functions"):
        blueprint_of_module(*flat(lambda net, x: net.b(net.a(x).relu())))


def test_scalers_stand_where_layers_sum_over_what_is_sliced() -> None:
    """One for both layers that read `y`, before the ReLU; none in evaluation."""

    def twice(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(net.a(x))
        return net.b(y) + net.c(y)

    module, x = flat(twice, c=nn.Linear(16, 3))
    blueprint = blueprint_of_module(module, x)
    half = SubModel.of(blueprint, {"a.out": [range(4)]})
    narrow = loaded(blueprint, half, extract(blueprint, flattened(module), half))
    assert [part.rate for part in narrow.modules() if isinstance(part, Scaler)] == [0.25]
    a, b, c = (narrow.get_submodule(name) for name in "abc")
    hidden = F.relu(F.linear(x, a.weight, a.bias))
    for rate, mode in ((0.25, True), (1.0, False)):
        y = hidden / rate
        torch.testing.assert_close(narrow.train(mode)(x), F.linear(y, b.weight, b.bias) + F.linear(y, c.weight, c.bias))


ONE_OUTPUT: Mapping[str, tuple[nn.Module, torch.Tensor]] = {
    "head": (Net(lambda net, x: net.b(net.a(x).relu()), a=nn.Linear(8, 16), b=nn.Linear(16, 1)), torch.randn(4, 8)),
    "gate": (
        Net(
            lambda net, x: net.b((y := net.a(x).relu()) * net.c(y).sigmoid()),
            a=nn.Linear(8, 16), b=nn.Linear(16, 3), c=nn.Linear(16, 1),
        ),
        torch.randn(4, 8),
    ),
    "squeeze": (
        Net(
            lambda net, x: net.b((y := net.a(x).relu()) * net.c(y.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)),
            a=nn.Conv2d(3, 16, 1), b=nn.Conv2d(16, 3, 1), c=nn.Conv2d(16, 1, 1),
        ),
        torch.randn(4, 3, 6, 6),
    ),
    "embedding": (
        Net(lambda net, x: net.b(net.a(net.e(x).squeeze(-1)).relu()), e=nn.Embedding(9, 1), a=nn.Linear(8, 16),
            b=nn.Linear(16, 3)),
        torch.arange(32).view(4, 8) % 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_a_layer_with_one_output_is_no_axis_and_hinders_none(name: str) -> None:
    module, x = ONE_OUTPUT[name]
    blueprint = blueprint_of_module(module, x)
    assert blueprint.axes == (Axis("a.out", 16),)
    half = SubModel.of(blueprint, {"a.out": [range(4)]})
    assert loaded(blueprint, half, extract(blueprint, flattened(module), half))(x).shape == module(x).shape


def test_a_frozen_replay_has_scalers_and_no_chance() -> None:
    """Dropout of a layer, of a function and by hand are off; evaluation stays as it was."""

    def chancy(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(net.d(F.relu(net.a(x))), 0.5, net.training)
        return net.b(y * (torch.rand(len(y), 1) > 0.5) * 2) if net.training else net.b(y)

    module, x = flat(chancy, d=nn.Dropout(0.5))
    blueprint = blueprint_of_module(module, x)
    half = SubModel.of(blueprint, {"a.out": [range(4)]})
    narrow = loaded(blueprint, half, extract(blueprint, flattened(module), half))
    assert isinstance(narrow, Replay)
    before = narrow.eval()(x)
    narrow.freeze()
    assert torch.equal(narrow.eval()(x), before)
    a, b = (narrow.get_submodule(name) for name in "ab")
    hidden = F.relu(F.linear(x, a.weight, a.bias)) / 0.25
    torch.testing.assert_close(narrow.train()(x), F.linear(hidden, b.weight, b.bias))


def test_the_output_layer_can_be_hooked() -> None:
    module, x = flat(lambda net, x: net.b(net.a(x)))
    blueprint = blueprint_of_module(module, x)
    assert blueprint.output_layer == "b"
    built, seen = blueprint.build(blueprint.whole()), list[tuple[int, ...]]()
    built.get_submodule("b").register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    built(x)
    assert seen == [(4, 16)]


def test_inputs_may_have_another_length_unless_forward_fixed_it() -> None:
    def free(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.b(net.a(x) + torch.arange(x.shape[1])[:, None]).mean(1)

    def fixed(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.b(net.a(x) * torch.arange(int(x.shape[1]))[:, None].sum()).mean(1)

    x = torch.randn(2, 5, 8)
    for forward, findings in ((free, 0), (fixed, 1)):
        module, _ = flat(forward)
        blueprint = blueprint_of_module(module, x)
        assert len(blueprint.findings) == findings
        built = loaded(blueprint, blueprint.whole(), flattened(module))
        assert torch.equal(built(x), module(x))
        if findings:
            assert "5 in dimension 1" in blueprint.findings[0]
            with pytest.raises(ValueError, match="dimension 1 must be 5"):
                built(x[:, :3])
        else:
            assert torch.equal(built(x[:, :3]), module(x[:, :3]))


def test_genesis_keeps_what_the_owner_set_to_one_number() -> None:
    module = Net(
        lambda net, x: net.b(net.n(net.a(x))) + net.s, a=nn.Linear(8, 16), n=nn.LayerNorm(16), b=nn.Linear(16, 3)
    )
    module.register_parameter("s", nn.Parameter(torch.full((3,), 0.25)))
    nn.init.zeros_(module.get_submodule("a").bias)
    nn.init.normal_(module.get_submodule("n").weight)
    blueprint = blueprint_of_module(module, torch.randn(2, 8))
    inits = {parameter.name: parameter.init for parameter in blueprint.parameters}
    assert (inits["s"].fan_in, inits["s"].value) == (None, 0.25)
    assert (inits["a.bias"].fan_in, inits["a.bias"].value) == (None, 0.0)
    assert (inits["n.weight"].fan_in, inits["n.weight"].value) == (None, 1.0)
    assert [dim.axis for dim in inits["b.bias"].fan_in or ()] == ["a.out"]


def test_frozen_parameters_stay_frozen_and_a_sequential_keeps_its_own_way() -> None:
    module, x = flat(lambda net, x: net.b(net.a(x)))
    module.get_submodule("a").requires_grad_(False)
    built = blueprint_of_module(module, x)
    assert [tensor.requires_grad for tensor in built.build(built.whole()).parameters()] == [False, False, True, True]
    assert isinstance(
        Blueprint.from_module(nn.Sequential(nn.Linear(3, 4)), x[:, :3]).build(SubModel(("0",))), nn.Sequential
    )
    mixed = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(24, 3))
    (axis,) = Blueprint.from_module(mixed, torch.zeros(2, 3, dtype=torch.long)).axes or (None,)
    assert axis is None, "places x width: flattening interleaves them"


def test_a_sequential_that_its_own_way_refuses_is_traced_and_else_the_first_refusal_counts() -> None:
    depthwise = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(32, 2))
    assert Blueprint.from_module(depthwise, torch.randn(2, 3, 4, 4)).axes == (Axis("0.out", 8),)
    with pytest.raises(TaskError, match=r"0: Linear cannot take an input of shape \(2, 3\)"):
        Blueprint.from_module(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 3))


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """A shape, another one of as many entries, and the place of a sliced dimension."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=5))

    def shape() -> tuple[int, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(factors) - 1)), max_size=3)))
        ends = [0, *(cut for cut in cuts if cut < len(factors)), len(factors)]
        return tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise(ends))

    first, second = shape(), shape()
    return first, second, draw(st.integers(0, len(first) - 1))


@given(views(), st.randoms(use_true_random=False))
def test_a_view_of_what_is_kept_is_what_is_kept_of_the_view(
    view: tuple[tuple[int, ...], tuple[int, ...], int], rng: Any
) -> None:
    before, after, place = view
    if before[place] == 1:
        return
    classes = Classes()
    part = classes.open("axis", before[place])
    flow = tuple(part if at == place else None for at in range(len(before)))
    out = regroup(Walk(Recording(), classes, {}), flow, before, after)
    found = classes.of(part)
    if found.whole:
        assert out == (None,) * len(after)
        return
    units = sorted(rng.sample(range(found.size // found.unit), rng.randint(1, found.size // found.unit)))
    kept = np.array([unit * found.unit + index for unit in units for index in range(found.unit)])
    (there,) = [at for at, item in enumerate(out) if item is not None]
    span = classes.find(out[there] or Part("axis")).span
    entries = sorted({int(index * span + extra) for index in kept for extra in range(max(1, int(span)))})
    array = np.arange(math.prod(before)).reshape(before)
    narrow = array.take(kept, place)
    wanted = array.reshape(after).take(entries, there)
    assert (narrow.reshape(wanted.shape) == wanted).all()

"""Stages: a network in pieces is the network, and a cut that is not clean is refused with the fix."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint, Dim, Init, ModuleSpec, Parameter
from p2pfusion.core.ensemble import ensemble
from p2pfusion.core.genesis import genesis
from p2pfusion.core.stages import check_chain, cut, held, one_by_one
from p2pfusion.core.submodel import extract
from p2pfusion.core.training import flattened, loaded
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt, vit

NETWORKS = {
    "mlp": (mlp(6, (8, 4), 3), torch.rand(5, 6)),
    "cnn": (residual_cnn(1, (8, 16), 3, blocks_per_stage=1, groups=4), torch.rand(2, 1, 8, 8)),
    "vit": (vit(8, 4, 1, 8, 2, 2, 16, 3, pooling="token"), torch.rand(2, 1, 8, 8)),
    "gpt": (gpt(11, 6, 8, 2, 2, 16, tied=False), torch.randint(0, 11, (2, 6))),
    "sequential": (
        Blueprint.from_module(
            nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 6), nn.Linear(6, 2)),
            torch.rand(2, 2, 2),
        ),
        torch.rand(3, 2, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_single_blocks_is_the_network(name: str) -> None:
    blueprint, x = NETWORKS[name]
    vector = genesis(blueprint, 1)
    expected = loaded(blueprint, blueprint.whole(), vector).train()(x)
    parts, out = [], x
    for block in blueprint.blocks:
        values = extract(blueprint, vector, held(blueprint, [[block]]))
        (stage,) = cut(blueprint, [[block]], values)
        assert np.array_equal(flattened(stage), values)
        parts.append(flattened(stage))
        out = stage(out)
    assert torch.equal(out, expected)
    assert np.array_equal(np.concatenate(parts), vector), "every parameter is in one stage, in the blueprint's order"


def test_a_stage_is_a_run_of_blocks_and_names_its_parameters() -> None:
    blueprint, x = NETWORKS["cnn"]
    vector = genesis(blueprint, 0)
    runs = [["stem", "stage0_0"], ["stage1_0", "head"]]
    first, last = cut(blueprint, runs, extract(blueprint, vector, held(blueprint, runs)))
    assert first.blocks == ("stem", "stage0_0")
    assert first.names[:2] == ("stem.conv.weight", "stage0_0.norm1.weight")
    assert torch.equal(last(first(x)), loaded(blueprint, blueprint.whole(), vector)(x))


def test_nothing_but_the_stage_takes_memory() -> None:
    """A model of 4 GB, of which a block of 36 kB is built."""
    blueprint = mlp(32, (32_000, 32_000, 4), 2)
    assert blueprint.size > 10**9
    run = [["out"]]
    (stage,) = cut(blueprint, run, np.zeros(held(blueprint, run).size(blueprint), np.float32))
    assert [tuple(tensor.shape) for tensor in stage.parameters()] == [(2, 4), (2,)]


def test_tied_embeddings_stay_with_the_owner_or_are_refused() -> None:
    blueprint = gpt(11, 6, 8, 2, 2, 16)
    vector, x = genesis(blueprint, 0), torch.randint(0, 11, (2, 6))
    ends, middle = [["embedding"], ["head"]], [["layer0", "layer1"]]
    first, last = cut(blueprint, ends, extract(blueprint, vector, held(blueprint, ends)))
    assert first.pieces[0].get_parameter("tokens.weight") is last.pieces[0].get_parameter("linear.weight")
    (relay,) = cut(blueprint, middle, extract(blueprint, vector, held(blueprint, middle)))
    assert torch.equal(last(relay(first(x))), loaded(blueprint, blueprint.whole(), vector).train()(x))
    for runs in ([["embedding", "layer0"]], [["layer1", "head"]]):
        with pytest.raises(TaskError, match=r"embedding and head share embedding.tokens.weight.*tied=False"):
            cut(blueprint, runs, extract(blueprint, vector, held(blueprint, runs)))
    *_, head = one_by_one(blueprint, vector)
    assert head.names == ("head.norm.weight", "head.norm.bias", "embedding.tokens.weight")


@pytest.mark.parametrize(
    "runs", [[[]], [["stem", "head"]], [["head"], ["stem"]], [["stage0_0", "stem"]], [["nothing"]]]
)
def test_blocks_that_do_not_follow_each_other_are_no_stage(runs: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="blocks"):
        held(NETWORKS["cnn"][0], runs)


def test_values_of_another_size_are_refused() -> None:
    blueprint = NETWORKS["mlp"][0]
    with pytest.raises(ValueError, match="3 values for stages of 15"):
        cut(blueprint, [["out"]], np.zeros(3, np.float32))


class Crossed(nn.Module):
    """Two layers; `chain` says how they run, if it is there."""

    def __init__(self, chain: list[str] | None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if chain is not None:
            self.chain = lambda: chain


def declared(network: nn.Module, blocks: tuple[str, ...] = ("a", "b")) -> Blueprint:
    dims = (Dim(None, 2), Dim(None, 2))
    parameters = [
        Parameter(f"{path}.weight", block, dims, Init(dims)) for path, block in zip("ab", blocks, strict=True)
    ]

    def factory(spec: ModuleSpec) -> nn.Module:
        return network.to("meta")

    return Blueprint(tuple(dict.fromkeys(blocks)), (), tuple(parameters), factory)


class Whole(nn.Sequential):
    """A list that does more than run its parts, so it is not one of blocks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](x)) + x


class Buffered(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2, bias=False)
        self.register_buffer("scale", torch.ones(2))


def refused(blueprint: Blueprint, block: str = "a") -> str:
    with pytest.raises(TaskError) as caught:
        cut(blueprint, [[block]], np.zeros(held(blueprint, [[block]]).size(blueprint), np.float32))
    return str(caught.value)


def test_what_does_not_say_how_it_runs_cannot_be_cut() -> None:
    assert "does not say which of its parts run one after the other" in refused(declared(Crossed(None)))


def test_a_chain_must_hold_every_parameter_in_the_blueprints_order() -> None:
    assert "b.weight is in no part of the chain" in refused(declared(Crossed(["a"])))
    assert "run through the blocks b, a, but the blueprint lists" in refused(declared(Crossed(["b", "a"])))


def test_a_module_that_holds_two_blocks_cannot_be_parted() -> None:
    network = Crossed(["both"])
    network.both = Whole(network.a, network.b)
    del network.a, network.b
    dims = (Dim(None, 2), Dim(None, 2))
    parameters = tuple(Parameter(f"both.{n}.weight", f"b{n}", dims, Init(dims)) for n in range(2))
    blueprint = Blueprint(("b0", "b1"), (), parameters, lambda spec: network.to("meta"))
    assert "both holds the blocks b0 and b1" in refused(blueprint, "b0")


def test_a_buffer_that_only_the_whole_network_could_fill_is_refused() -> None:
    network = Crossed(["a", "b"])
    network.a = Buffered()
    assert "a.scale is a buffer" in refused(declared(network))


def test_networks_side_by_side_are_no_chain() -> None:
    blueprint = ensemble(mlp(4, (4,), 2), 2)
    assert "several networks side by side" in refused(blueprint, blueprint.blocks[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_true_chain_is_believed(name: str) -> None:
    blueprint, x = NETWORKS[name]
    check_chain(blueprint, genesis(blueprint, 0), x)


def test_a_chain_that_leaves_something_out_is_found() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

        def chain(self) -> list[str]:
            return ["a", "b"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.b(self.a(x))

    dims = (Dim(None, 2), Dim(None, 2))
    parameters = tuple(Parameter(f"{name}.weight", name, dims, Init(dims)) for name in "ab")
    blueprint = Blueprint(("a", "b"), (), parameters, lambda spec: Doubled())
    with pytest.raises(TaskError, match="gives another output than as a whole"):
        check_chain(blueprint, genesis(blueprint, 0), torch.rand(3, 2))


def test_a_network_that_answers_in_several_places_is_no_chain() -> None:
    blueprint = vit(8, 4, 1, 8, 2, 2, 16, 3, exits=2)
    with pytest.raises(TaskError, match="make it without exits"):
        next(one_by_one(blueprint, genesis(blueprint, 0)))


def test_blocks_one_by_one_build_the_network_once_and_are_forgotten() -> None:
    inner = mlp(4, (5, 6), 3)
    built: list[ModuleSpec] = []

    def factory(spec: ModuleSpec) -> nn.Module:
        built.append(spec)
        return inner.factory(spec)

    blueprint = replace(inner, factory=factory)
    alive: list[weakref.ref[nn.Parameter]] = []
    for stage in one_by_one(blueprint, genesis(blueprint, 0)):
        assert [one() for one in alive] == [None] * len(alive)
        alive += [weakref.ref(tensor) for tensor in stage.parameters()]
        del stage
    assert len(built) == 1
    assert len(alive) == len(blueprint.parameters)

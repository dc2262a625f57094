"""What autograd keeps of a batch, counted on networks small enough to count by hand."""

from __future__ import annotations

import torch
from torch import nn

from p2pfusion.core.contrastive import Contrastive
from p2pfusion.core.ensemble import ensemble
from p2pfusion.core.footprint import Kept, Load, kept_by, load_of, training_bytes
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import Job, Plain, cross_entropy
from p2pfusion.core.submodel import SubModel
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import mlp

BATCH = 16


def test_a_linear_layer_keeps_its_input_and_not_its_weight() -> None:
    module, x = nn.Linear(4, 8), torch.randn(BATCH, 4)
    value, found = kept_by(lambda: module(x).sum(), module)
    assert found == [4 * BATCH * 4]
    assert value.requires_grad


def test_what_is_kept_grows_with_the_width_and_the_batch() -> None:
    def kept(width: int, batch: int) -> int:
        module = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        x = torch.randn(batch, 4)
        return sum(kept_by(lambda: module(x).sum(), module)[1])

    assert kept(8, BATCH) == 4 * BATCH * (4 + 8)  # the input, and what ReLU gives
    assert kept(16, BATCH) == 4 * BATCH * (4 + 16)
    assert kept(8, 2 * BATCH) == 2 * kept(8, BATCH)


def test_a_tensor_kept_twice_counts_once() -> None:
    module, x = nn.Linear(4, 8), torch.randn(BATCH, 4)
    assert kept_by(lambda: (module(x) + module(x)).sum(), module)[1] == [4 * BATCH * 4]


def test_the_objective_is_the_other_one_and_remembers_the_most() -> None:
    blueprint = mlp(4, (8,), 2)
    whole, start = blueprint.whole(), genesis(blueprint, 0)
    job = Job(blueprint=blueprint, sub_model=whole, start=start, loss=cross_entropy, seed=0)
    module, objective = loaded(blueprint, whole, start), Kept(Plain())
    step_loss = objective.begin(job)
    found = []
    for batch in (4, 16, 8):
        x, y = torch.randn(batch, 4), torch.zeros(batch, dtype=torch.int64)
        assert step_loss(module, x, y).equal(Plain().begin(job)(module, x, y))
        found.append(objective.bytes)
    assert 0 < found[0] < found[1] == found[2]
    assert 0 < objective.largest_bytes < objective.bytes
    assert objective.batch_bytes == objective.bytes + 2 * objective.largest_bytes


def test_five_vectors_and_what_is_kept() -> None:
    assert training_bytes(Load(1000, 1000), 7) == 20_007


def test_what_an_objective_holds_counts_and_kept_passes_it_on() -> None:
    assert Kept(Contrastive()).extra_vectors == Contrastive().extra_vectors == 3
    assert training_bytes(Load(1000, 1000, 3), 7) == 32_007


def test_of_networks_trained_by_turns_the_largest_counts_and_the_values_of_all() -> None:
    one = mlp(4, (8,), 2)
    both = ensemble(one, 2)
    load = load_of(both, both.whole())
    assert load == Load(2 * one.size, one.size, networks=2, networks_all=2)
    assert load.value_bytes == 4 * (5 + 2) * one.size
    single = load_of(both, SubModel(both.members[1]))
    assert (single.parameters, single.networks, single.value_bytes) == (one.size, 1, 20 * one.size)

"""Split training gives the weights of unsplit training, whatever the hops, and refuses calls out of order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.contrastive import Contrastive
from p2pfusion.core.data import Batch, as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.splitting import Copy, Ends
from p2pfusion.core.stages import held
from p2pfusion.core.submodel import Vector, extract, scatter
from p2pfusion.core.training import Recipe, Sgd, score, train
from p2pfusion.errors import TrainingError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt, vit

BATCHES = 50
RECIPE = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, lr=0.05, momentum=0.9), steps=BATCHES)
NETWORKS = {
    "cnn": (residual_cnn(1, (4, 8), 3, groups=2), (1, 4, 4)),
    "vit": (vit(8, 4, 1, 8, 4, 2, 16, 3), (1, 8, 8)),
    "transformer": (gpt(11, 6, 8, 4, 2, 16), None),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(shape: tuple[int, ...] | None, seed: int = 0) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        if shape is None:
            words = torch.randint(0, 11, (4, 7), generator=generator)
            yield words[:, :-1], words[:, 1:]
        else:
            yield torch.rand(4, *shape, generator=generator), torch.randint(0, 3, (4,), generator=generator)


class Split:
    """One owner and as many relays as asked for, who pass tensors to each other as they are."""

    def __init__(self, blueprint: Blueprint, vector: Vector, hops: int, recipe: Recipe = RECIPE) -> None:
        first, *middle, last = blueprint.blocks
        ends = [round(place * len(middle) / hops) for place in range(hops + 1)]
        self.blueprint, self.recipe = blueprint, recipe
        self.ends = [[first], [last]]
        self.runs = [[middle[a:b]] for a, b in itertools.pairwise(ends)]
        own = extract(blueprint, vector, held(blueprint, self.ends))
        self.owner = Ends(blueprint, *self.ends, own, recipe)
        self.relays = [
            Copy(blueprint, *run, extract(blueprint, vector, held(blueprint, run)), recipe) for run in self.runs
        ]

    def train(self, given: Iterator[Batch], steps: int = BATCHES) -> list[float]:
        losses = []
        for x, y in itertools.islice(given, steps):
            passed = self.owner.begin(x)
            for relay in self.relays:
                passed = relay.forward(passed)
            loss, passed = self.owner.finish(passed, y)
            for relay in reversed(self.relays):
                passed = relay.backward(passed)
            self.owner.end(passed)
            for relay in self.relays:
                relay.step()
            losses.append(loss)
        return losses

    def vector(self) -> Vector:
        whole = np.zeros(self.blueprint.size, np.float32)
        scatter(self.blueprint, whole, held(self.blueprint, self.ends), self.owner.values)
        for run, relay in zip(self.runs, self.relays, strict=True):
            scatter(self.blueprint, whole, held(self.blueprint, run), relay.values)
        return whole


@pytest.mark.parametrize("name", NETWORKS)
def test_any_number_of_hops_gives_the_weights_of_no_hop_bit_for_bit(name: str) -> None:
    blueprint, shape = NETWORKS[name]
    start = genesis(blueprint, 3)
    whole = train(blueprint, blueprint.whole(), start, batches(shape), RECIPE)
    assert np.abs(whole.after - start).max() > 0.01
    for hops in (1, 2, 3, 4):
        split = Split(blueprint, start, hops)
        assert len(split.relays) == hops
        losses = split.train(batches(shape))
        assert np.array_equal(split.vector(), whole.after)
        assert sum(losses) / BATCHES == whole.loss


def test_owners_that_share_relays_train_as_if_each_were_alone() -> None:
    """The relays' copies of both go through their batches in turn, one batch of each under way at the same time."""
    blueprint, shape = NETWORKS["cnn"]
    start = genesis(blueprint, 3)
    alone = [Split(blueprint, start, 2) for _ in range(2)]
    for seed, split in enumerate(alone):
        split.train(batches(shape, seed), 3)
    both = [Split(blueprint, start, 2) for _ in range(2)]
    data = [batches(shape, seed) for seed in range(2)]
    for _ in range(3):
        given = [next(one) for one in data]
        out = [split.owner.begin(x) for split, (x, _) in zip(both, given, strict=True)]
        for hop in range(2):
            out = [split.relays[hop].forward(x) for split, x in zip(both, out, strict=True)]
        back = [split.owner.finish(x, y)[1] for split, x, (_, y) in zip(both, out, given, strict=True)]
        for hop in (1, 0):
            back = [split.relays[hop].backward(x) for split, x in zip(both, back, strict=True)]
        for split, x in zip(both, back, strict=True):
            split.owner.end(x)
            for relay in split.relays:
                relay.step()
    for one, other in zip(alone, both, strict=True):
        assert np.array_equal(one.vector(), other.vector())


def small() -> tuple[Blueprint, Split, Batch]:
    blueprint = mlp(4, (5, 6), 3)
    split = Split(blueprint, genesis(blueprint, 0), 1)
    return blueprint, split, (torch.rand(2, 4), torch.tensor([0, 1]))


def test_the_gradient_is_there_before_the_step_and_nothing_has_moved() -> None:
    _, split, (x, y) = small()
    (relay,) = split.relays
    before = relay.values
    assert not relay.is_busy
    _, gradient = split.owner.finish(relay.forward(split.owner.begin(x)), y)
    assert relay.backward(gradient).shape == (2, 5)
    assert np.array_equal(relay.values, before)
    assert relay.is_busy
    relay.step()
    assert not relay.is_busy
    assert not np.array_equal(relay.values, before)


def test_what_leaves_an_owner_carries_no_history_and_no_label() -> None:
    _, split, (x, y) = small()
    sent = split.owner.begin(x)
    _, gradient = split.owner.finish(split.relays[0].forward(sent), y)
    for tensor in (sent, gradient):
        assert tensor.grad_fn is None
        assert tensor.dtype == torch.float32


def test_what_comes_back_in_evaluation_is_judged_as_the_whole_network_is() -> None:
    blueprint, split, (x, y) = small()
    passed = split.owner.evaluate_first(x)
    for relay in split.relays:
        passed = relay.evaluate(passed)
    right, loss = split.owner.judge(passed, y)
    whole = score(blueprint, blueprint.whole(), split.vector(), as_data((x, y), len(y), "validation"), cross_entropy)
    assert (right / len(y), loss) == (whole.accuracy, whole.loss)


def test_a_dropped_batch_leaves_no_trace() -> None:
    blueprint, split, (x, y) = small()
    other = Split(blueprint, genesis(blueprint, 0), 1)
    relay = split.relays[0]
    _, gradient = split.owner.finish(relay.forward(split.owner.begin(x)), y)
    relay.backward(gradient)
    relay.drop()
    split.owner = other.owner
    data = [(x, y)] * 2
    split.train(iter(data), 2)
    alone = Split(blueprint, genesis(blueprint, 0), 1)
    alone.train(iter(data), 2)
    assert np.array_equal(relay.values, alone.relays[0].values)


def test_calls_out_of_order_are_refused() -> None:
    _, split, (x, y) = small()
    owner, (relay,) = split.owner, split.relays
    with pytest.raises(ValueError, match="no such batch is on its way"):
        owner.finish(torch.rand(2, 6), y)
    with pytest.raises(ValueError, match="has not been through the last stage"):
        owner.end(torch.rand(2, 5))
    for call in (lambda: relay.backward(torch.rand(2, 6)), relay.step):
        with pytest.raises(ValueError, match="comes first"):
            call()
    with pytest.raises(ValueError, match=r"an activation of torch\.int64"):
        relay.forward(torch.zeros(2, 5, dtype=torch.int64))
    sent = owner.begin(x)
    with pytest.raises(ValueError, match="one at a time"):
        owner.begin(x)
    out = relay.forward(sent)
    with pytest.raises(ValueError, match="under way"):
        relay.forward(sent)
    with pytest.raises(ValueError, match=r"a gradient \(2, 5\) for an output \(2, 6\)"):
        relay.backward(torch.rand(2, 5))
    owner.finish(out, y)
    with pytest.raises(ValueError, match="no such batch is on its way"):
        owner.finish(out, y)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_micro_batches_come_to_what_the_whole_batch_comes_to(order: tuple[int, ...]) -> None:
    """Three of different sizes, several under way at once, coming back in any order; then one step."""
    blueprint = mlp(4, (5, 6), 3)
    x, y = torch.rand(7, 4), torch.arange(7) % 3
    whole, cut = (Split(blueprint, genesis(blueprint, 0), 1, RECIPE) for _ in range(2))
    (loss,) = whole.train(iter([(x, y)]), 1)
    owner, (relay,) = cut.owner, cut.relays
    pieces = list(zip(x.split(3), y.split(3), strict=True))
    outs = [relay.forward(owner.begin(piece, part, 3), part, 3) for part, (piece, _) in enumerate(pieces)]
    losses = []
    for part in order:
        labels = pieces[part][1]
        mine, gradient = owner.finish(outs[part], labels, part, len(labels) / 7)
        losses.append(mine)
        assert not relay.is_due
        owner.end(relay.backward(gradient, part), part)
    assert relay.is_due
    relay.step()
    assert sum(losses) == pytest.approx(loss, rel=1e-5)
    assert np.allclose(owner.values, whole.owner.values, atol=1e-6)
    assert np.allclose(relay.values, whole.relays[0].values, atol=1e-6)
    assert not relay.is_busy


def test_micro_batches_of_two_batches_do_not_mix() -> None:
    _, split, (x, _) = small()
    owner, (relay,) = split.owner, split.relays
    relay.forward(owner.begin(x, 0, 2), 0, 2)
    for call in (lambda: relay.forward(torch.rand(2, 5), 0, 2), lambda: relay.forward(torch.rand(2, 5), 1, 3)):
        with pytest.raises(ValueError, match="under way"):
            call()
    for part, parts in ((0, 2), (1, 3)):
        with pytest.raises(ValueError, match="one at a time"):
            owner.begin(x, part, parts)
    relay.drop()
    owner.drop()
    relay.forward(owner.begin(x, 0, 3), 0, 3)


def test_what_the_network_or_the_loss_raises_is_a_training_error() -> None:
    _, split, (x, _) = small()
    with pytest.raises(TrainingError, match="forward: RuntimeError"):
        split.relays[0].forward(torch.rand(2, 99))
    out = split.relays[0].forward(split.owner.begin(x))
    with pytest.raises(TrainingError, match="the loss is nan"):
        split.owner.finish(out * math.nan, torch.tensor([0, 1]))


def test_an_objective_that_needs_the_whole_network_is_refused() -> None:
    blueprint = mlp(4, (5, 6), 3)
    recipe = Recipe(loss=cross_entropy, optimizer=RECIPE.optimizer, steps=1, objective=Contrastive())
    with pytest.raises(ValueError, match="the owner's loss and nothing else"):
        Split(blueprint, genesis(blueprint, 0), 1, recipe)


def test_gradients_are_clipped_by_a_devices_own_norm() -> None:
    blueprint = mlp(4, (5, 6), 3)
    recipe = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, lr=1.0), steps=1, clip_norm=0.01)
    start = genesis(blueprint, 0)
    split = Split(blueprint, start, 1, recipe)
    split.train(iter([(torch.rand(2, 4) * 10, torch.tensor([0, 1]))]), 1)
    for runs, values in ((split.ends, split.owner.values), (split.runs[0], split.relays[0].values)):
        moved = values - extract(blueprint, start, held(blueprint, runs))
        assert np.linalg.norm(moved) == pytest.approx(0.01, rel=1e-3)


def test_a_stage_that_is_frozen_passes_gradients_on() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].requires_grad_(False)
    blueprint = Blueprint.from_module(model, torch.rand(2, 4))
    split = Split(blueprint, genesis(blueprint, 0), 1)
    before, own = split.relays[0].values, split.owner.values
    split.train(iter([(torch.rand(2, 4), torch.tensor([0, 1]))]), 1)
    assert np.array_equal(split.relays[0].values, before)
    assert not np.array_equal(split.owner.values, own)

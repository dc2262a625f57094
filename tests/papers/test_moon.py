"""The contrastive objective: MOON's formula on slices, as MSfusion uses it (PAPERS.md 1.6 and 4.4)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.contrastive import Contrastive, _frozen, contrast
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import Job, Objective, Plain, cross_entropy
from p2pfusion.core.projection import representation, with_projection
from p2pfusion.core.scaler import Scaler
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.core.training import Recipe, Sgd, Trained, flattened, loaded, train
from p2pfusion.errors import TaskError, UsageError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from p2pfusion.zoo.transformers import gpt

BLUEPRINT = with_projection(mlp(5, (8, 12), 3), 6)
START = genesis(BLUEPRINT, 2)
X, Y = torch.linspace(-1, 1, 20).view(4, 5), torch.tensor([0, 1, 2, 1])


def taken(round_index: int, rate: float = 0.5) -> SubModel:
    seat = Seat(rank=0, peers=2, round=round_index, rates=(rate, rate))
    return double_shift()(BLUEPRINT, seat, random.Random(0))


def job(round_index: int, blueprint: Blueprint = BLUEPRINT) -> Job:
    sub_model = taken(round_index)
    values = extract(blueprint, START, sub_model)
    return Job(blueprint=blueprint, sub_model=sub_model, start=values, loss=cross_entropy, seed=0)


def moved(values: Vector, by: float) -> Vector:
    return values + np.float32(by) * np.cos(np.arange(values.size, dtype=np.float32))


def view(sub_model: SubModel, values: Vector) -> list[list[float]]:
    """Projections of the batch by a slice in training mode."""
    with torch.no_grad():
        found: list[list[float]] = representation(loaded(BLUEPRINT, sub_model, values).train(), "out", X)[1].tolist()
    return found


def cosine_of(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 0.5), (5.0, 0.2)])
def test_the_loss_is_the_papers_formula_by_hand(weight: float, temperature: float) -> None:
    objective = Contrastive(weight, temperature)
    past = []
    for round_index in range(2):  # one more than is kept: the older is forgotten
        one = job(round_index)
        past.append((one.sub_model, moved(one.start, 0.1)))
        objective.done(one, past[-1][1])
    now = job(9)
    current = moved(now.start, 0.05)
    loss = objective.begin(now)(loaded(BLUEPRINT, now.sub_model, current).train(), X, Y)

    mine, positive = view(now.sub_model, current), view(now.sub_model, now.start)
    negative = view(*past[1])
    lost = []
    for sample in range(4):
        near = math.exp(cosine_of(mine[sample], positive[sample]) / temperature)
        far = math.exp(cosine_of(mine[sample], negative[sample]) / temperature)
        lost.append(-math.log(near / (near + far)))
    task = cross_entropy(loaded(BLUEPRINT, now.sub_model, current).train()(X), Y)
    assert float(loss.detach()) == pytest.approx(float(task.detach()) + weight * sum(lost) / 4, rel=1e-5)


def test_it_is_the_cross_entropy_of_moons_code() -> None:
    """There: logits = cat(posi, nega) / temperature, labels = zeros, criterion(logits, labels)."""
    mine, positive, negative = (torch.cos(torch.arange(24.0) * step).view(4, 6) for step in (1.0, 1.1, 3.0))
    cosine_similarity = torch.nn.CosineSimilarity(dim=-1)
    positives = cosine_similarity(mine, positive).reshape(-1, 1)
    logits = torch.cat((positives, cosine_similarity(mine, negative).reshape(-1, 1)), dim=1) / 0.5
    theirs = F.cross_entropy(logits, torch.zeros(4).long())
    assert torch.equal(contrast(mine, positive, negative, 0.5), theirs)


def test_near_the_start_and_far_from_the_last_slice_costs_least() -> None:
    z, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    near, far = contrast(z, z, other, 0.5), contrast(z, other, z, 0.5)
    assert float(near) == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)
    assert float(far) == pytest.approx(math.log(1 + math.exp(4)), rel=1e-5)


def test_the_gradient_reaches_the_network_that_trains_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[torch.nn.Module] = []
    objective = Contrastive()
    objective.done(job(0), moved(job(0).start, 0.1))
    monkeypatch.setattr("p2pfusion.core.contrastive.loaded", lambda *given: frozen.append(loaded(*given)) or frozen[-1])
    now = job(1)
    module = loaded(BLUEPRINT, now.sub_model, moved(now.start, 0.1)).train()
    step = objective.begin(now)
    (step(module, X, Y) - cross_entropy(module(X), Y)).backward()  # type: ignore[no-untyped-call]
    gradients = {name: tensor.grad for name, tensor in module.named_parameters()}
    assert all(gradients[name] is not None for name in ("projection.weight", "hidden1.weight", "hidden2.bias"))
    assert float(gradients["projection.weight"].abs().sum()) > 0  # type: ignore[union-attr]
    assert len(frozen) == 2
    for network, values in zip(frozen, (now.start, moved(job(0).start, 0.1)), strict=True):
        assert all(tensor.grad is None for tensor in network.parameters())
        assert flattened(network).tobytes() == values.tobytes()


def test_what_is_frozen_keeps_its_scalers_and_loses_its_dropout() -> None:
    network = _frozen(torch.nn.Sequential(Scaler(0.25), torch.nn.Dropout(0.5)).eval())
    assert network(torch.ones(1000)).tolist() == [4.0] * 1000


class Dropping(torch.nn.Module):
    """Not an `nn.Sequential`, so it is traced: its dropout layer becomes a call of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out, self.dropout = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.out(self.dropout(torch.relu(self.hidden(x))))
        return answer


def test_what_is_frozen_of_a_traced_module_too() -> None:
    blueprint = with_projection(Blueprint.from_module(Dropping(), X), 6)
    half = SubModel.of(blueprint, {"hidden.out": [range(4)]})
    network = _frozen(loaded(blueprint, half, extract(blueprint, genesis(blueprint, 2), half)))
    weights = dict(network.named_parameters())
    hidden = torch.relu(F.linear(X, weights["hidden.weight"], weights["hidden.bias"])) / 0.5
    torch.testing.assert_close(representation(network, "out", X)[1], F.linear(hidden, weights["projection.weight"]))


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return itertools.repeat((X, Y))


def trained(objective: Objective, round_index: int) -> Trained:
    recipe = Recipe(
        loss=cross_entropy, optimizer=lambda given: Sgd(given, 0.1, 0.9), steps=5, clip_norm=1.0, objective=objective
    )
    one = job(round_index)
    return train(BLUEPRINT, one.sub_model, one.start, batches(), recipe, seed=round_index)


def test_the_first_round_is_plain_and_the_second_is_not() -> None:
    objective, plain, twin = Contrastive(), Plain(), Contrastive()
    assert trained(objective, 0).after.tobytes() == trained(plain, 0).after.tobytes()
    second = trained(objective, 1)
    assert second.after.tobytes() != trained(plain, 1).after.tobytes()
    trained(twin, 0)
    assert trained(twin, 1).after.tobytes() == second.after.tobytes(), "the same past, the same future"


def test_without_weight_it_is_plain_in_every_round() -> None:
    objective = Contrastive(weight=0.0)
    for round_index in range(3):
        assert trained(objective, round_index).after.tobytes() == trained(Plain(), round_index).after.tobytes()


def test_it_trains_networks_for_images_and_for_text() -> None:
    cnn = residual_cnn(1, (8,), 3, blocks_per_stage=1, groups=4)
    text = gpt(11, 6, 32, 1, 4, 32, dropout=0.2)
    tokens = torch.arange(24).view(4, 6) % 11
    for plain, batch in ((cnn, (torch.ones(4, 1, 8, 8), Y)), (text, (tokens, tokens))):
        blueprint, objective = with_projection(plain), Contrastive()
        vector = genesis(blueprint, 3)
        recipe = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, 0.05), steps=2, objective=objective)
        for round_index in range(2):
            seat = Seat(rank=0, peers=1, round=round_index, rates=(0.5,))
            sub_model = double_shift()(blueprint, seat, random.Random(0))
            values = extract(blueprint, vector, sub_model)
            done = train(blueprint, sub_model, values, itertools.repeat(batch), recipe)
            head = slice(-sub_model.width(blueprint, blueprint.axes[0].name) * 128, None)
            assert (done.after[head].tobytes() == values[head].tobytes()) is (round_index == 0)


def test_it_needs_a_projection() -> None:
    blueprint = mlp(5, (8, 12), 3)
    plain = Job(blueprint=blueprint, sub_model=blueprint.whole(), start=START, loss=cross_entropy, seed=0)
    with pytest.raises(TaskError, match="with_projection"):
        Contrastive().begin(plain)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"temperature": 0.0}])
def test_impossible_contrasts_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="needs a weight"):
        Contrastive(**wrong)

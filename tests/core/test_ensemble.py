"""Networks side by side: each trains as if alone, all answer together, and turns are fair."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.data import as_data
from p2pfusion.core.ensemble import ensemble, members_of, rotating
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import Recipe, Sgd, loaded, train, train_members
from p2pfusion.zoo.blueprints import mlp
from p2pfusion.zoo.transformers import vit

ONE = mlp(4, (8,), 3)
FOUR = ensemble(ONE, 4)
VALUES = genesis(FOUR, 1)
_GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=_GENERATOR)
DATA = as_data((X, X[:, :3].argmax(1)), 16, "train")


def members(*numbers: int) -> SubModel:
    return SubModel.of(FOUR, {}, [block for number in numbers for block in FOUR.members[number]])


def test_the_whole_answers_with_the_mean_of_its_members() -> None:
    alone = [
        loaded(FOUR, members(number), extract(FOUR, VALUES, members(number))).eval()(X).detach() for number in range(4)
    ]
    whole = loaded(FOUR, FOUR.whole(), VALUES).eval()(X)
    assert torch.allclose(whole, torch.stack(alone).mean(0), atol=1e-6)
    assert len({tuple(output.flatten().tolist()) for output in alone}) == 4, "every member has its own start"
    assert FOUR.size == 4 * ONE.size


def test_a_member_is_the_small_network_itself() -> None:
    mine = extract(FOUR, VALUES, members(2))
    ours = loaded(FOUR, members(2), mine).eval()(X)
    assert torch.equal(ours, loaded(ONE, ONE.whole(), mine).eval()(X))


def test_part_of_a_member_is_no_network() -> None:
    half = SubModel.of(FOUR, {}, [*FOUR.members[0], FOUR.members[1][0]])
    with pytest.raises(ValueError, match="leaves blocks out"):
        FOUR.build(half)


def test_members_are_trained_one_by_one_and_count_as_one() -> None:
    recipe = Recipe(loss=cross_entropy, optimizer=lambda parameters: Sgd(parameters, lr=0.1), steps=3)
    pair = members(1, 3)
    start = extract(FOUR, VALUES, pair)
    both = train_members(FOUR, pair, start, DATA.batches(random.Random(0)), recipe, seed=5)
    stream = DATA.batches(random.Random(0))
    first = train(FOUR, members(1), start[: ONE.size], stream, recipe, seed=5)
    second = train(FOUR, members(3), start[ONE.size :], stream, recipe, seed=6)
    assert both.after.tobytes() == np.concatenate([first.after, second.after]).tobytes()
    assert (both.steps, both.samples) == (first.steps, first.samples), "twice the work is not twice the weight"
    assert both.loss == (first.loss + second.loss) / 2


@given(st.integers(1, 12), st.integers(2, 8), st.integers(0, 500))
def test_equal_seats_share_the_members_evenly(peers: int, count: int, round_index: int) -> None:
    blueprint = ensemble(ONE, count)
    held: Counter[str] = Counter()
    for rank in range(peers):
        seat = Seat(rank=rank, peers=peers, round=round_index, rates=(0.25,) * peers)
        sub_model = rotating(0.25)(blueprint, seat, random.Random(rank))
        held.update(sub_model.blocks)
        assert len(blueprint.members_in(sub_model)) == 1
    loads = [held[member[0]] for member in blueprint.members]
    assert max(loads) - min(loads) <= 1


def test_every_device_meets_every_member_and_strong_ones_train_more() -> None:
    rates = (1.0, 0.5, 0.25, 0.25)
    met: list[set[tuple[str, ...]]] = [set() for _ in rates]
    for round_index in range(40):
        for rank in range(4):
            seat = Seat(rank=rank, peers=4, round=round_index, rates=rates)
            held = FOUR.members_in(rotating(0.25)(FOUR, seat, random.Random(0)))
            assert len(held) == (4, 4, 1, 1)[rank]
            met[rank].update(held)
    assert all(len(mine) == 4 for mine in met)


@pytest.mark.parametrize(("rate", "count"), [(0.1, 1), (0.25, 1), (0.35, 1), (0.36, 2), (0.5, 4), (1.0, 4)])
def test_how_many_members_a_device_has_arithmetic_for(rate: float, count: int) -> None:
    assert members_of(rate, 0.25, 4) == count


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ensemble(ONE, 1)


def test_members_of_a_network_with_exits_answer_at_the_end_only() -> None:
    """Nothing trains the other heads of an ensemble, so nobody holds them."""
    deep, plain = vit(4, 2, 1, 8, 2, 2, 8, 3, exits=2), vit(4, 2, 1, 8, 2, 2, 8, 3)
    both = ensemble(deep, 2)
    assert both.members[0] == ("0.embedding", "0.layer0", "0.layer1", "0.head")
    assert both.size == 2 * plain.size < 2 * deep.size
    assert both.build(both.whole())(torch.zeros(5, 1, 4, 4)).shape == (5, 3)


def test_a_narrower_ensemble_narrows_all_its_members() -> None:
    narrow = FOUR.narrow(0.5)
    assert narrow.size == 4 * ONE.narrow(0.5).size
    assert narrow.build(narrow.whole())(X).shape == (48, 3)
    with pytest.raises(ValueError, match="unknown block"):
        SubModel.of(replace(FOUR, members=()), {}, ["9.hidden1"])

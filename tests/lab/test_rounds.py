"""Rounds without a network: the same models as a swarm's, averages over exactly the neighbours, nothing unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.algorithms.base import Algorithm, RoundContext
from p2pfusion.algorithms.presets import PRESETS, Reach, Terms, algorithm, made
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.config import CadenceConfig
from p2pfusion.core.submodel import extract
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.lab.rounds import Played, neighbours, rounds
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.world import simulate


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def part(index: int, nodes: int) -> Prepared:
    x = np.random.default_rng(0).standard_normal((96, 6)).astype(np.float32)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    task = Task(model, (x, x[:, :3].argmax(1)), batch_size=8, steps_per_round=2)
    return prepare(task, 0, (index, nodes))


def trained(name: str, nodes: int, count: int, reach: Reach) -> list[Played]:
    nodes_of = [made(PRESETS[name], part(index, nodes), Terms(), index) for index in range(nodes)]
    return list(islice(rounds(nodes_of, [0.5] * nodes, reach), count))


@pytest.mark.parametrize("name", ["heterofl", "nested", "full"])
def test_it_is_the_model_of_a_swarm_bit_for_bit(name: str) -> None:
    """Of two nodes, whose order does not change a sum; quorum 1 and float32: the papers' synchronous round.

    Training takes long there, so that nobody begins a round with what another has already published to it.
    """
    scenario = Scenario(nodes=2, rounds=6, rate=0.5, codec="fp32", cadence=CadenceConfig(quorum=1.0))
    parts = [part(index, 2) for index in range(2)]

    def learner(index: int) -> Sliced:
        made_one = algorithm(name, parts[index], seed=index)
        made_one.step_cost_s = 2.0
        return made_one

    result = simulate(scenario, learner, 1)
    assert {outcome.done.round for outcome in result.outcomes if outcome.done is not None} == {6}
    (played,) = trained(name, 2, 6, "all")[-1:]
    assert played.models[0].tobytes() == result.outcomes[0].model.tobytes() == result.outcomes[1].model.tobytes()


@pytest.mark.parametrize("reach", ["ring", "none"])
def test_a_model_is_the_mean_of_exactly_its_neighbours(reach: Reach) -> None:
    """Of five in a ring, by hand: what each neighbour's model became, where all train the whole and as many samples."""
    count, nodes = 3, 5
    played = trained("full", nodes, count, reach)
    before = [played[0].models[0] * 0 + part(0, nodes).genesis] * nodes
    for one in played:
        assert len(one.models) == nodes
        after = [model + given.delta for model, given in zip(before, one.contributed, strict=True)]
        for rank in range(nodes):
            heard = [(rank - 1) % nodes, rank, (rank + 1) % nodes] if reach == "ring" else [rank]
            mean = np.mean([after[other].astype(np.float64) for other in heard], axis=0)
            assert np.allclose(one.models[rank], mean, atol=1e-6)
        before = list(one.models)
    assert len({model.tobytes() for model in before}) == nodes, "they have drifted apart"


def test_in_a_ring_only_what_both_hold_is_averaged() -> None:
    """Elements that no neighbour trained stay one's own."""
    first = trained("dpsgd", 3, 1, "ring")[0]
    all_equal = [made(PRESETS["heterofl"], part(index, 4), Terms(), index) for index in range(4)]
    (played,) = islice(rounds(all_equal, [0.5, 0.5, 0.25, 0.25], "ring"), 1)
    blueprint = all_equal[0].blueprint
    untouched = np.ones(blueprint.size, bool)
    untouched[played.contributed[0].sub_model.positions(blueprint)] = False
    for model in played.models:
        assert (model[untouched] == all_equal[0].genesis[untouched]).all()
    assert len({model.tobytes() for model in first.models}) == 1, "in a ring of three everybody is a neighbour"


def test_who_hears_whom() -> None:
    assert neighbours(0, 5, "ring") == (0, 1, 4)
    assert neighbours(2, 3, "ring") == (0, 1, 2)
    assert neighbours(1, 2, "ring") == (0, 1)
    assert neighbours(0, 1, "ring") == (0,)
    assert neighbours(3, 5, "none") == (3,)
    assert neighbours(3, 5, "all") == (0, 1, 2, 3, 4)


def test_alone_is_training_alone() -> None:
    apart = trained("alone", 3, 4, "none")[-1]
    for index in range(3):
        one = made(PRESETS["alone"], part(index, 3), Terms(), index)
        (by_itself,) = list(islice(rounds([one], [1.0], "all"), 4))[-1:]
        assert apart.models[index].tobytes() == by_itself.models[0].tobytes()


def test_all_have_one_model_and_start_from_it() -> None:
    played = trained("double_shift", 3, 2, "all")
    assert [len(one.models) for one in played] == [1, 1]
    assert [one.round for one in played] == [0, 1]
    given = played[0].contributed[1]
    again = made(PRESETS["double_shift"], part(1, 3), Terms(), 1)
    assert given.delta.size == extract(again.blueprint, again.genesis, given.sub_model).size


class Silent(Sliced):
    """Trains for nobody."""

    async def round(self, ctx: RoundContext) -> None:
        await ctx.extract(self.blueprint.whole())


class Waiting(Sliced):
    """Waits for what there is not."""

    async def round(self, ctx: RoundContext) -> None:
        import asyncio

        await asyncio.sleep(0)


@pytest.mark.parametrize(("kind", "words"), [(Silent, "contributed nothing"), (Waiting, "waits for something")])
def test_a_round_that_cannot_be_is_an_error(kind: type[Sliced], words: str) -> None:
    sliced = made(PRESETS["full"], part(0, 1), Terms())
    bad: Algorithm = kind(sliced.prepared, sliced.way)
    with pytest.raises(ValueError, match=words):
        next(rounds([bad], [1.0], "all"))


def test_any_algorithm_can_play_and_equal_seeds_are_equal_games() -> None:
    learner = light_learner()
    one, again = (list(islice(rounds([learner(0), learner(1)], [0.5, 0.5], "all"), 3)) for _ in range(2))
    assert one[-1].models[0].tobytes() == again[-1].models[0].tobytes()
    drawn = [made(PRESETS["random_dropout"], part(index, 2), Terms(), index) for index in range(2)]
    slices = [next(rounds(drawn, [0.5, 0.5], "all", seed)).contributed[0].sub_model for seed in (0, 1)]
    assert slices[0] != slices[1]

"""Candidates do what their names say, on a network small enough to count by hand."""

import random
from functools import partial
from itertools import repeat

import numpy as np
import torch

from bench.schemes.candidates import GROW_ROUNDS, Carried, Taught, WholeForward, grown, permuted, strangers_at_zero
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import Job, cross_entropy
from p2pfusion.core.schemes import Seat, double_shift, static
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import Recipe, loaded, train
from p2pfusion.core.transfer import told
from p2pfusion.zoo.blueprints import mlp

BLUEPRINT = mlp(3, (16, 16), 2)
RATES = (0.25,) * 8


def seat(rank: int, round_index: int) -> Seat:
    return Seat(rank=rank, peers=8, round=round_index, rates=RATES)


def test_groups_are_disjoint_cover_every_axis_and_are_dealt_anew_in_common() -> None:
    scheme = permuted(5)
    dealt = []
    for round_index in (0, 4, 5):
        slices = [scheme(BLUEPRINT, seat(rank, round_index), random.Random(rank)) for rank in range(8)]
        for axis in BLUEPRINT.axes:
            units = [slice_.indices(BLUEPRINT, axis.name).tolist() for slice_ in slices]
            assert sorted(unit for group in units[:4] for unit in group) == list(range(axis.size))
            assert units[:4] == units[4:]
        dealt.append(slices)
    assert dealt[0] == dealt[1] != dealt[2]


def test_strangers_are_the_pairs_that_no_window_ever_holds() -> None:
    scheme, start = double_shift(), genesis(BLUEPRINT, 0)
    met = np.zeros((16, 16), bool)
    for round_index in range(300):
        for rank in range(8):
            slice_ = scheme(BLUEPRINT, seat(rank, round_index), random.Random(0))
            met[np.ix_(slice_.indices(BLUEPRINT, "hidden2"), slice_.indices(BLUEPRINT, "hidden1"))] = True
    changed = strangers_at_zero(BLUEPRINT, 0.25, start)
    (weight,) = (one for one in BLUEPRINT.parameters if BLUEPRINT.shape(one) == (16, 16))
    place = BLUEPRINT.parameter_slices[weight.name]
    before, after = (values[place].reshape(16, 16) for values in (start, changed))
    assert np.array_equal(after != 0, met & (before != 0))
    assert np.allclose(after[met], before[met] * np.sqrt(256 / met.sum()))
    rest = np.delete(np.arange(BLUEPRINT.size), np.arange(place.start, place.stop))
    assert np.array_equal(changed[rest], start[rest])


def test_a_whole_forward_pass_says_what_the_whole_network_says_and_teaches_the_slice_its_part_of_the_gradient() -> None:
    model, slice_ = genesis(BLUEPRINT, 0), double_shift()(BLUEPRINT, seat(3, 7), random.Random(0))
    start = extract(BLUEPRINT, model, slice_)
    job = Job(blueprint=BLUEPRINT, sub_model=slice_, start=start, loss=cross_entropy, seed=0, model=model)
    module, whole = loaded(BLUEPRINT, slice_, start, scaled=False), loaded(BLUEPRINT, BLUEPRINT.whole(), model)
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    said, wanted = WholeForward().begin(job)(module, x, y), cross_entropy(whole(x), y)
    said.backward()
    wanted.backward()
    assert torch.equal(said, wanted)
    gradients = [np.concatenate([one.grad.flatten() for one in net.parameters()]) for net in (module, whole)]
    assert np.allclose(gradients[0], extract(BLUEPRINT, gradients[1], slice_), atol=1e-7)
    assert np.any(gradients[0])


def test_a_slice_is_taught_by_the_model_once_it_knows_something() -> None:
    model, slice_ = genesis(BLUEPRINT, 0), double_shift()(BLUEPRINT, seat(3, 7), random.Random(0))
    objective = Taught()
    assert [objective.sees_model(BLUEPRINT, slice_, round_index) for round_index in (9, 10)] == [False, True]
    start = extract(BLUEPRINT, model, slice_)
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    module = loaded(BLUEPRINT, slice_, start)
    plain, taught = (
        objective.begin(
            Job(blueprint=BLUEPRINT, sub_model=slice_, start=start, loss=cross_entropy, seed=0, model=shown)
        )(module, x, y)
        for shown in (None, model)
    )
    said = loaded(BLUEPRINT, BLUEPRINT.whole(), model, scaled=False)(x)
    assert torch.equal(plain, cross_entropy(module(x), y))
    assert torch.allclose(taught - plain, told(module(x), said, 1.0))


def test_a_network_that_grows_is_small_first() -> None:
    for round_index, scheme in ((GROW_ROUNDS - 1, static()), (GROW_ROUNDS, double_shift())):
        place = seat(3, round_index)
        assert grown()(BLUEPRINT, place, random.Random(0)) == scheme(BLUEPRINT, place, random.Random(0))


def test_momentum_is_carried_by_the_units_of_a_window() -> None:
    """Two rounds of one slice are one of as many steps; what the next window leaves out keeps its momentum."""
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 4)
    here, there = (double_shift()(BLUEPRINT, seat(3, round_index), random.Random(0)) for round_index in (0, 2))

    def trained(*rounds: tuple[SubModel, int]) -> tuple[np.ndarray, np.ndarray]:
        objective, model = Carried(), genesis(BLUEPRINT, 0)
        optimizer = partial(objective.optimizer, lr=0.1, momentum=0.9)
        for slice_, steps in rounds:
            recipe = Recipe(loss=cross_entropy, optimizer=optimizer, steps=steps, objective=objective)
            start = extract(BLUEPRINT, model, slice_)
            model[slice_.positions(BLUEPRINT)] = train(BLUEPRINT, slice_, start, repeat((x, y)), recipe).after
        assert objective._velocity is not None
        return model, objective._velocity

    assert np.array_equal(trained((here, 1), (here, 2)), trained((here, 3)))
    before, after = trained((here, 1))[1], trained((here, 1), (there, 1))[1]
    left = np.setdiff1d(here.positions(BLUEPRINT), there.positions(BLUEPRINT))
    assert np.any(before[left])
    assert np.array_equal(before[left], after[left])
    assert not np.array_equal(before, after)

"""A measured profile: bytes are what can be counted by hand, seconds are what the clock said."""

from __future__ import annotations

import itertools

import pytest
import torch

from p2pfusion.core.genesis import genesis
from p2pfusion.core.measuring import REPEATS_MAX, measure
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.profiles import Profile, from_json, to_json
from p2pfusion.core.training import Recipe, Sgd
from p2pfusion.errors import TrainingError
from p2pfusion.zoo.blueprints import mlp
from p2pfusion.zoo.transformers import gpt

RECIPE = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, lr=0.05, momentum=0.9), steps=1, clip_norm=1.0)


class Clock:
    """Every look takes longer than the one before; `looks` counts them."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return float(self.looks)


def measured(seconds: float = 0.0, clock: Clock | None = None) -> Profile:
    blueprint = mlp(4, (5, 6), 3)
    batch = (torch.rand(8, 4), torch.randint(0, 3, (8,)))
    return measure(
        blueprint, genesis(blueprint, 0), batch, RECIPE, seconds=seconds, clock=clock or Clock(), origin="a test"
    )


def test_bytes_are_counted() -> None:
    profile = measured()
    assert profile.batch == 8
    assert profile.names == ("hidden1", "hidden2", "out")
    first, second, last = profile.blocks
    assert [block.parameter_bytes for block in profile.blocks] == [4 * 25, 4 * 36, 4 * 21]
    for block in profile.blocks:
        assert block.gradient_bytes == block.optimiser_bytes == block.parameter_bytes, "SGD keeps one momentum"
    assert (first.output_bytes, second.output_bytes, last.output_bytes) == (4 * 8 * 5, 4 * 8 * 6, 4 * 8 * 3)
    assert first.kept_bytes == 4 * 8 * (4 + 5), "the input, and what ReLU gives"
    assert second.kept_bytes == 4 * 8 * (5 + 6)
    assert from_json(to_json(profile)) == profile


def test_seconds_are_the_clocks_and_at_least_one_repetition_is_timed() -> None:
    clock = Clock()
    profile = measured(clock=clock)
    assert {(block.forward_s, block.backward_s, block.optimiser_s) for block in profile.blocks} == {(1.0, 1.0, 1.0)}
    assert clock.looks == 3 * (1 + 4 + 4 + 1), "of three blocks: two repetitions of four looks, and when to end"


def test_no_block_is_repeated_without_end() -> None:
    clock = Clock()
    measured(seconds=1e9, clock=clock)
    assert clock.looks == 3 * (1 + 4 * (1 + REPEATS_MAX) + REPEATS_MAX - 1)


def test_a_tied_weight_is_counted_where_it_is_trained() -> None:
    blueprint = gpt(11, 6, 8, 1, 2, 16)
    words = torch.randint(0, 11, (2, 7))
    profile = measure(
        blueprint, genesis(blueprint, 0), (words[:, :-1], words[:, 1:]), RECIPE, seconds=0, clock=Clock(), origin="x"
    )
    sizes = {block.name: block.parameter_bytes for block in profile.blocks}
    assert sizes["embedding"] == 4 * 8 * (11 + 6)
    assert sizes["head"] == 4 * 2 * 8
    assert sum(sizes.values()) == 4 * blueprint.size


def test_values_and_torchs_random_numbers_stay_as_they_are() -> None:
    blueprint = mlp(4, (5, 6), 3)
    values = genesis(blueprint, 0)
    before, state = values.copy(), torch.random.get_rng_state()
    measure(blueprint, values, (torch.rand(8, 4), torch.zeros(8, dtype=torch.int64)), RECIPE, seconds=0, clock=Clock(),
            origin="x")  # fmt: skip
    assert (values == before).all()
    torch.rand(8, 4)
    moved = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    torch.rand(8, 4), torch.rand(8, 4)
    assert torch.equal(torch.random.get_rng_state(), moved)


def test_a_block_that_fails_is_named() -> None:
    blueprint = mlp(4, (5, 6), 3)
    with pytest.raises(TrainingError, match="out: "):
        measure(blueprint, genesis(blueprint, 0), (torch.rand(8, 4), torch.full((8,), 99)), RECIPE, seconds=0,
                clock=itertools.count().__next__, origin="x")  # fmt: skip

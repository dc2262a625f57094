"""The same numbers with and without a chain for networks that are not perceptrons: convolutions, attention, words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from p2pfusion.core.data import as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.training import train
from p2pfusion.sim.loop import run
from p2pfusion.zoo.blueprints import residual_cnn
from p2pfusion.zoo.transformers import gpt, vit
from tests.hops.street import Street, split_of
from tests.node.parts import until as moment

ROOM = 10**6
ROUNDS, STEPS = 2, 3
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


def data(shape: tuple[int, ...] | None, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    if shape is None:
        words = torch.randint(0, 11, (32, 7), generator=generator)
        return words[:, :-1].contiguous(), words[:, 1:].contiguous()
    return torch.rand(32, *shape, generator=generator), torch.randint(0, 3, (32,), generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_chain_of_three_relays_comes_to_what_training_without_one_comes_to(name: str) -> None:
    network, shape = NETWORKS[name]
    split = split_of(network, lr=0.05)

    async def main() -> Street:
        async with Street(split, source=lambda number: data(shape, number)) as street:
            for host in (2, 3, 4):
                street.start(host, owns=False, relay_bytes=ROOM)
            await moment(2.0)  # they know each other
            street.start(1, rounds=ROUNDS, steps=STEPS)
            await street.owners_done()
            await street.until(lambda: all(tip >= ROUNDS for tip in street.tips().values()))
        return street

    street = run(main, until_s=1000.0)
    owner = street.devices[1].owner
    assert owner is not None
    assert len(owner.linking.chain) == min(3, split.shards.count - 1)
    batches = as_data(data(shape, 1), 8, "train").batches(random.Random(1))
    model = start = genesis(network, split.seed)
    for round_ in range(1, ROUNDS + 1):
        model = train(network, network.whole(), model, batches, replace(split.recipe(round_), steps=STEPS)).after
    assert np.abs(street.model() - model).max() <= 1e-5
    assert np.abs(model - start).max() > 0.01

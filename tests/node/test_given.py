"""`Task(init="given")`: the given weights are part of what makes two runs the same."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.algorithms.presets import algorithm
from p2pfusion.config import NodeConfig
from p2pfusion.core.task import Task, prepare
from p2pfusion.errors import Refused
from p2pfusion.node import Node
from p2pfusion.node.snapshots import hash_of
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.memory import MemoryStore

X, Y = torch.ones(8, 4), torch.arange(8) % 3


def given(seed: int) -> Task:
    """Weights of one's own, as of a file: another seed, other weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return Task(model, (X, Y), steps_per_round=1, init="given")


class Lan:
    def __init__(self) -> None:
        self.network, self.registry = Network(random.Random(0), LinkModel()), Registry()

    def node(self, index: int, task: Task, run_seed: int = 0) -> Node:
        return Node(
            NodeConfig(name=f"node-{index}", until_rounds=3, min_peers=2, wait_s=20.0),
            algorithm("full", prepare(task, run_seed)),
            transport=SimTransport(self.network, index),
            discovery=SimDiscovery(self.registry),
            compute=SimCompute(),
            store=MemoryStore(),
            rng=random.Random(index),
        )


async def life(node: Node) -> bytes:
    """Enter, train to the end; the hash of the final model."""
    async with node:
        async for _ in node.events():
            pass
        return hash_of(node.state.replica.sealed)


def test_equal_weights_train_together_whatever_the_seed() -> None:
    async def main() -> list[bytes]:
        lan = Lan()
        async with lan.network, asyncio.TaskGroup() as tasks:
            lives = [tasks.create_task(life(lan.node(index, given(7), run_seed=index))) for index in (1, 2)]
        return [one.result() for one in lives]

    first, second = run(main, until_s=300.0)
    assert first == second != hash_of(prepare(given(7), 0).genesis)


def test_other_weights_are_another_run_and_refused() -> None:
    async def main() -> None:
        lan = Lan()
        async with lan.network, lan.node(1, given(7)):
            with pytest.raises(
                Refused, match=r"setting genesis: swarm has [0-9a-f]{64}, you have [0-9a-f]{64}"
            ) as caught:
                await life(lan.node(2, given(8)))
        assert hash_of(prepare(given(8), 0).genesis).hex() in str(caught.value)

    run(main, until_s=300.0)


def test_one_weight_in_its_last_bit_is_enough() -> None:
    one, other = given(7), given(7)
    assert isinstance(other.model, nn.Sequential)
    with torch.no_grad():
        weight = other.model[2].bias
        weight[1] = torch.nextafter(weight[1], torch.tensor(1.0))
    first, second = prepare(one, 0), prepare(other, 0)
    assert np.count_nonzero(first.genesis != second.genesis) == 1
    assert first.blueprint.fingerprint() == second.blueprint.fingerprint()
    assert hash_of(first.genesis) != hash_of(second.genesis)

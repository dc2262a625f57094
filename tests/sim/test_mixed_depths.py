"""One swarm of shallow, narrow, rolling and whole slices of one network with exits: one chain, everything covered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from p2pfusion.algorithms.base import Algorithm
from p2pfusion.algorithms.presets import algorithm, cadence_of
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.sim.world import LinkModel, Outcome, Result, Scenario, World, simulate
from p2pfusion.zoo.transformers import vit

NAMES = ("co_s2p", "double_shift", "full", "co_s2p")
ROUNDS = 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parts() -> list[Prepared]:
    x = np.random.default_rng(0).standard_normal((80, 1, 4, 4)).astype(np.float32)
    y = x[:, 0, 0, :3].argmax(1)
    task = Task(vit(4, 2, 1, 16, 4, 4, 16, 3, exits=4), (x, y), batch_size=8, steps_per_round=2)
    return [prepare(task, 0, (index, len(NAMES))) for index in range(len(NAMES))]


class Weights:
    """A watch: the weights in the sealed rounds of the first node, and the blocks of what was contributed."""

    def __init__(self) -> None:
        self.found: set[int] = set()
        self.depths: set[int] = set()
        self._tip = 0

    def __call__(self, world: World, index: int) -> None:
        ledger = world.nodes[0].state.ledger if 0 in world.nodes else None
        while ledger is not None and self._tip < ledger.tip.round:
            self._tip += 1
            for entry in ledger.sealed_entries(self._tip) or ():
                self.found.add(entry.manifest.weight)
                self.depths.add(sum(block.startswith("layer") for block in entry.manifest.sub_model.blocks))


def test_slices_of_all_kinds_give_one_chain() -> None:
    prepared, watch = parts(), Weights()

    def learner(index: int) -> Algorithm:
        return algorithm(NAMES[index], prepared[index], seed=index)

    scenario = Scenario(
        nodes=len(NAMES),
        rounds=ROUNDS,
        rate=0.75,
        link=LinkModel(latency_s=0.005, jitter_s=0.02, loss=0.05),
        cadence=cadence_of("co_s2p"),
        speeds=(1.0, 1.0, 1.0, 0.1),
    )
    result: Result = simulate(scenario, learner, 3, watch=watch)
    assert len(result.chains) == len(result.model_hashes) == 1
    assert all(isinstance(one, Outcome) and one.done is not None for one in result.outcomes)
    assert [max(report.covered for report in one.reports) for one in result.outcomes[:3]] == [1.0] * 3
    assert watch.depths == {3, 4}, "three quarters of the layers, and all of them"
    assert 65536 in watch.found, "who counts evenly"
    assert len(watch.found) > 3, "and who weighs"

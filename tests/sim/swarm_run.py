"""One simulated swarm from a seed; prints the hash of everything that happened and the models' hashes.

    swarm_run.py light|digits NODES ROUNDS SEED

Run by `test_determinism_world` in processes of their own.
"""

from __future__ import annotations

import sys

from p2pfusion.sim.world import Learner, LinkModel, Scenario, simulate


def light() -> Learner:
    from tests.sim.learners import light_learner

    return light_learner()


def digits(nodes: int) -> Learner:
    import torch

    from p2pfusion.algorithms.presets import algorithm
    from p2pfusion.core.task import prepare
    from p2pfusion.zoo.tasks import digits_task

    torch.set_num_threads(1)
    task = digits_task()
    return lambda index: algorithm("msfusion", prepare(task, 0, (index, nodes)), seed=index)


def main(kind: str, nodes: int, rounds: int, seed: int) -> None:
    link = LinkModel(latency_s=0.02, jitter_s=0.005, loss=0.05)
    learner = digits(nodes) if kind == "digits" else light()
    result = simulate(Scenario(nodes=nodes, rounds=rounds, link=link), learner, seed)
    print(result.trace_hash, *result.model_hashes)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

"""One simulated swarm from a seed; prints the hash of everything that happened and the models' hashes.

    swarm_run.py light|digits|storm NODES ROUNDS SEED

`storm` is the light learner under every fault there is. Run by `test_determinism_world` in processes of their own.
"""

from __future__ import annotations

import sys

from p2pfusion.sim.faults import Arrival, Churn, Clog, Lag, Partition, Sleep, SpeedChange
from p2pfusion.sim.world import Learner, LinkModel, Scenario, simulate


def light(cost_s: float = 0.1) -> Learner:
    from tests.sim.learners import light_learner

    return light_learner(cost_s=cost_s)


def storm(nodes: int, rounds: int) -> Scenario:
    link = LinkModel(latency_s=0.001, jitter_s=0.049, loss=0.1, duplication=0.05, reordering=0.05)
    return Scenario(
        name="storm",
        nodes=nodes,
        rounds=rounds,
        link=link,
        speeds=(1.0, 0.5),
        arrivals=(Arrival(node=nodes - 1, at_s=7.0),),
        partitions=(
            Partition(from_s=10.0, to_s=17.0, parts=2, hold=True),
            Partition(from_s=20.0, to_s=25.0, sides=((0,), (1, 2)), one_way=True),
        ),
        clogs=(Clog(node=2, from_s=9.0, to_s=13.0),),
        sleeps=(Sleep(node=3, from_s=8.0, to_s=18.0),),
        lags=(Lag(node=1, from_s=5.0, to_s=25.0),),
        speed_changes=(SpeedChange(node=0, at_s=12.0, speed=0.3),),
        churn=Churn(from_s=4.0, to_s=25.0, period_s=4.0, share=0.2, away_s=2.0, disk_share=0.5),
        until_s=600.0,
    )


def digits(nodes: int) -> Learner:
    import torch

    from p2pfusion.algorithms.presets import algorithm
    from p2pfusion.core.task import prepare
    from p2pfusion.zoo.tasks import digits_task

    torch.set_num_threads(1)
    task = digits_task()
    return lambda index: algorithm("double_shift", prepare(task, 0, (index, nodes)), seed=index)


def main(kind: str, nodes: int, rounds: int, seed: int) -> None:
    if kind == "storm":
        result = simulate(storm(nodes, rounds), light(3.0), seed)
    else:
        link = LinkModel(latency_s=0.02, jitter_s=0.005, loss=0.05)
        learner = digits(nodes) if kind == "digits" else light()
        result = simulate(Scenario(nodes=nodes, rounds=rounds, link=link), learner, seed)
    print(result.trace_hash, *result.model_hashes)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

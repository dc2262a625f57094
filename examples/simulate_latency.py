"""The same node in virtual time: how the round time grows with the latency of the network.

Six nodes, 10 rounds, links from 1 ms to 100 ms. Same seed, same history: run it twice and compare.

    python examples/simulate_latency.py
"""

from __future__ import annotations

import torch

from p2pfusion.algorithms.presets import algorithm
from p2pfusion.config import CadenceConfig
from p2pfusion.core.task import prepare
from p2pfusion.sim.network import LinkModel
from p2pfusion.sim.world import Scenario, simulate
from p2pfusion.zoo.tasks import digits_task

NODES, ROUNDS, SEED = 6, 10, 0


def main() -> None:
    torch.set_num_threads(1)
    parts = [prepare(digits_task(), SEED, (index, NODES)) for index in range(NODES)]
    print(f"{'latency':>8} {'s/round':>8} {'accuracy':>9}  model")
    for latency_s in (0.001, 0.01, 0.1):
        scenario = Scenario(
            nodes=NODES,
            rounds=ROUNDS,
            link=LinkModel(latency_s=latency_s, loss=0.02),
            cadence=CadenceConfig(round_min_s=0.0),
        )
        result = simulate(scenario, lambda index: algorithm("msfusion", parts[index], seed=index), SEED)
        done = result.survivors()[0].done
        assert done is not None
        agreed = done.model_sha256[:16] if len(result.model_hashes) == 1 else "they disagree"
        pace_s = result.virtual_s / ROUNDS
        print(f"{latency_s * 1000:>5.0f} ms {pace_s:>8.2f} {done.accuracy or 0:>9.1%}  {agreed}")


if __name__ == "__main__":
    main()

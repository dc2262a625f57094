"""Does a slow network make the training wait? Eight nodes on 20 Mbit/s each, an 11 M parameter network, 50 % slices.

    python -m bench.overlap [--seeds 3] [--rounds 12] [--rows 0/int8 1/int8 ...]

A row is rounds trained ahead (`auto`: the node decides) / codec; the last one is what is judged. Digits with an MLP
64-3300-3300-10; steps are fixed so that a round computes for 20 virtual seconds; each host's access carries 20 Mbit/s
each way, all its links together (`slow`), or as much as one likes (`free`). Simulated network and clock, real learning.

Prints one line of JSON per run: the share of the time, from the first round's beginning to the last one's end, in which
the executor trained (median node), the final accuracy of the sealed model, bytes per round and node; then medians and
the seeds' spread, and a line for the last row.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

from p2pfusion.config import CadenceConfig
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.world import LinkModel, simulate

NODES, COMPUTE_S, STEPS = 8, 20.0, 8
HIDDEN = (3300, 3300)
ACCESS_BYTES_PER_S = 20e6 / 8


@dataclass(frozen=True, slots=True)
class Work:
    row: str
    link: str
    seed: int
    rounds: int
    hidden: tuple[int, ...]

    @property
    def ahead(self) -> int | None:
        ahead = self.row.split("/")[0]
        return None if ahead == "auto" else int(ahead)

    @property
    def codec(self) -> str:
        return self.row.split("/")[1]


def measure(work: Work) -> dict[str, Any]:
    import torch

    from p2pfusion.algorithms.presets import algorithm
    from p2pfusion.core.data import as_data
    from p2pfusion.core.task import Task, prepare
    from p2pfusion.core.training import Sgd, evaluate
    from p2pfusion.zoo import digits
    from p2pfusion.zoo.blueprints import mlp
    from p2pfusion.zoo.partition import dirichlet

    torch.set_num_threads(1)
    train, test = digits.load()
    parts = dirichlet(train.y, NODES, 0.5, work.seed)
    blueprint = mlp(64, work.hidden, 10)

    def make(index: int) -> Any:
        mine = parts[index]
        task = Task(
            model=blueprint,
            train=(train.x[mine], train.y[mine]),
            optimizer=lambda parameters: Sgd(parameters, lr=0.05, momentum=0.9),
            batch_size=32,
            steps_per_round=STEPS,
        )
        made = algorithm("double_shift", prepare(task, work.seed), seed=1000 * work.seed + index)
        share = sum(made.scheme(blueprint, seat(index, r), random_for(index)).share(blueprint) for r in range(8)) / 8
        made.step_cost_s = COMPUTE_S / STEPS / share
        return made

    def seat(index: int, round_: int) -> Any:
        from p2pfusion.core.schemes import Seat

        return Seat(rank=index, peers=NODES, round=round_, rates=(0.5,) * NODES)

    def random_for(index: int) -> Any:
        import random

        return random.Random(index)

    moments: dict[int, list[tuple[float, float]]] = {}
    models: dict[int, Any] = {}

    def watch(world: Any, index: int) -> None:
        machine = world.machines[index]
        busy_s, seen = machine.compute.busy_s["train"], moments.setdefault(index, [])
        if busy_s and (not seen or seen[-1][1] != busy_s):
            seen.append((world.now_s, busy_s))
        if index == 0 and 0 in world.nodes:
            models[0] = world.nodes[0].state.replica.sealed

    slow = LinkModel(latency_s=0.005, jitter_s=0.002, access_bytes_per_s=ACCESS_BYTES_PER_S)
    free = LinkModel(latency_s=0.005, jitter_s=0.002, bandwidth_bytes_per_s=1e12)
    scenario = Scenario(
        nodes=NODES,
        rounds=work.rounds,
        rate=0.5,
        codec=work.codec,
        link=slow if work.link == "slow" else free,
        cadence=CadenceConfig(round_min_s=0.0, adapt_steps=False, ahead_rounds=work.ahead),
        until_s=200.0 * work.rounds,
    )
    result = simulate(scenario, make, work.seed, watch=watch, is_checked=False)
    # From when the first round begins until the last one's training ends.
    busy = [seen[-1][1] / (seen[-1][0] - seen[0][0] + seen[0][1]) for seen in moments.values()]
    accuracy = evaluate(blueprint, models[0], as_data((test.x, test.y), 360, "test"))
    return {
        "row": work.row,
        "link": work.link,
        "seed": work.seed,
        "parameters": blueprint.size,
        "busy": round(median(busy), 4),
        "busy_least": round(min(busy), 4),
        "accuracy": round(accuracy, 4),
        "rounds": work.rounds,
        "mb_per_round": round(result.stats.sent_bytes / NODES / work.rounds / 1e6, 2),
        "tip_lag": result.stats.tip_lag_median,
        "virtual_s": round(result.virtual_s, 1),
        "one_hash": len(dict.fromkeys(result.model_hashes)) == 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=["0/int8", "auto/int8"])
    parser.add_argument("--links", nargs="*", default=["slow", "free"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--hidden", type=int, nargs="*", default=HIDDEN)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    works = [
        Work(row, link, seed, options.rounds, tuple(options.hidden))
        for seed in range(options.seeds)
        for row in options.rows
        for link in options.links
    ]
    runs = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for run in pool.map(measure, works):
            runs.append(run)
            print(json.dumps(run), flush=True)
    for row in options.rows:
        for link in options.links:
            mine = [run for run in runs if (run["row"], run["link"]) == (row, link)]
            reached = [run["accuracy"] for run in mine]
            line = {"summary": "overlap", "row": row, "link": link, "busy": median(run["busy"] for run in mine)}
            line |= {"accuracy": median(reached), "lowest": min(reached), "highest": max(reached)}
            print(json.dumps(line), flush=True)
    last = [run for run in runs if run["row"] == options.rows[-1]]
    on = {link: [run for run in last if run["link"] == link] for link in options.links}
    summary: dict[str, Any] = {"bench": "overlap", "row": options.rows[-1]}
    for link, mine in on.items():
        summary[f"{link}_busy"] = median(run["busy"] for run in mine)
        summary[f"{link}_accuracy"] = median(run["accuracy"] for run in mine)
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()

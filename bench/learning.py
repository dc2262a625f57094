"""How few bytes does learning take? Slices and codecs beside full-model FedAvg, counted until one accuracy.

    python -m bench.learning --data digits [--seeds 3] [--only 0.5/topk/0.05 ...]

Eight nodes, labels dealt by Dirichlet(0.5), an MLP, the same rounds and steps a round for everybody, simulated at a
calm 100 Mbit/s with a full model's round taking `--round-s` virtual seconds, a slice's as much less as it has fewer
parameters; the learning is real. The reference is FedAvg with the full model in float32: `full`, synchronous (quorum
1), and 2 x 4 bytes per parameter, node and round, as from and to a server. Our bytes are all bodies that a node sends
and receives until the sealed model reached the goal: weights, lists and gossip.

Prints one line of JSON per row and seed, then the summary: bytes per node to the goal (2 points below what FedAvg has
at its end, or the best accuracy that both reach) as ratios to FedAvg and to our own float32 slices of that rate.

Fashion-MNIST is not part of the project: name its folder with --images (the layout of `load.py` beside it).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from p2pfusion.config import CadenceConfig
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.world import World, simulate

NODES, ALPHA = 8, 0.5
IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data"
GOAL_POINTS = 0.02
ROWS = (
    *(f"{rate}/{codec}" for rate in ("1", "0.5", "0.25") for codec in ("fp32", "int8", "topk/0.05", "stc/0.05")),
    "1/stc/0.02",
    "0.5/stc/0.02",
)


@dataclass(frozen=True, slots=True)
class Work:
    """One run: `row` is rate/codec[/density], or `fedavg`."""

    data: str
    row: str
    seed: int
    rounds: int
    round_s: float
    images: str

    @property
    def rate(self) -> float:
        return 1.0 if self.row == "fedavg" else float(self.row.split("/")[0])

    @property
    def codec(self) -> str:
        return "fp32" if self.row == "fedavg" else self.row.split("/")[1]

    @property
    def density(self) -> float:
        return float(self.row.split("/")[2]) if self.row.count("/") == 2 else 0.01


def loaded(data: str, folder: str) -> tuple[Any, Any, Any, Any]:
    """Training and test images, flat float32, and labels."""
    if data == "digits":
        from p2pfusion.zoo import digits

        train, test = digits.load()
        return train.x, train.y, test.x, test.y
    spec = importlib.util.spec_from_file_location("load", Path(folder) / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parts = [module.images("fashion_mnist", name) for name in ("train", "test")]
    flat = [(x.reshape(len(x), -1).astype(np.float32) / 255, y.astype(np.int64)) for x, y in parts]
    return *flat[0], *flat[1]


def learner(work: Work) -> tuple[Callable[[int], Any], Callable[[Any], float], int]:
    """A learner per node, the accuracy of a model, and the model's size."""
    import torch

    from p2pfusion.algorithms.presets import algorithm
    from p2pfusion.core.data import as_data
    from p2pfusion.core.task import Task, prepare
    from p2pfusion.core.training import Sgd, evaluate
    from p2pfusion.zoo.blueprints import mlp
    from p2pfusion.zoo.partition import dirichlet

    torch.set_num_threads(1)
    x, y, test_x, test_y = loaded(work.data, work.images)
    parts = dirichlet(y, NODES, ALPHA, work.seed)
    blueprint = mlp(x.shape[1], (512, 512), 10)
    steps, batch, lr = (10, 32, 0.1) if work.data == "digits" else (20, 64, 0.05)

    def make(index: int) -> Any:
        mine = parts[index]
        task = Task(
            model=blueprint,
            train=(x[mine], y[mine]),
            optimizer=lambda parameters: Sgd(parameters, lr=lr, momentum=0.9),
            batch_size=batch,
            steps_per_round=steps,
        )
        name = "full" if work.rate == 1 else "double_shift"
        made = algorithm(name, prepare(task, work.seed), seed=1000 * work.seed + index)
        made.step_cost_s = work.round_s / steps
        return made

    validation = as_data((test_x, test_y), 1000, "test")
    return make, lambda model: evaluate(blueprint, model, validation), blueprint.size


def measure(work: Work) -> dict[str, Any]:
    """One run: (round, accuracy, bytes sent and received by the average node so far) at each round of node 0's tip."""
    make, accuracy, size = learner(work)
    points: list[tuple[int, float, float]] = []

    def watch(world: World, index: int) -> None:
        if index != 0 or 0 not in world.nodes:
            return
        state = world.nodes[0].state
        tip = state.ledger.tip.round
        if tip > (points[-1][0] if points else 0):
            traffics = [world.network.traffic(host) for host in range(1, NODES + 1)]
            moved = sum(one.sent_bytes + one.received_bytes for one in traffics) / NODES
            points.append((tip, accuracy(state.replica.sealed), moved))

    scenario = Scenario(
        nodes=NODES,
        rounds=work.rounds,
        rate=work.rate,
        codec=work.codec,
        codec_density=work.density,
        cadence=CadenceConfig(round_min_s=0.0, adapt_steps=False, quorum=1.0 if work.row == "fedavg" else 0.75),
        until_s=100 * work.rounds * work.round_s,
    )
    result = simulate(scenario, make, work.seed, watch=watch, is_checked=False)
    if work.row == "fedavg":  # what a server would take: the model down and up again
        points[:] = [(tip, reached, 2 * 4.0 * size * tip) for tip, reached, _ in points]
    best = [reached for _, reached, _ in points]
    return {
        "data": work.data,
        "row": work.row,
        "seed": work.seed,
        "parameters": size,
        "final": round(median(best[-5:]), 4),
        "best": round(max(best), 4),
        "bytes_per_round": round(points[-1][2] / points[-1][0]),
        "rounds": work.rounds,
        "virtual_s": round(result.virtual_s),
        "points": [(tip, round(reached, 4), round(moved)) for tip, reached, moved in points],
    }


def to_goal(run: dict[str, Any], goal: float) -> tuple[int, float] | None:
    """Rounds and bytes per node until the goal was first reached."""
    return next(((tip, moved) for tip, reached, moved in run["points"] if reached >= goal), None)


def summary(runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A line for each row: medians over the seeds."""
    by_key = {(run["row"], run["seed"]): run for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    for row in dict.fromkeys(run["row"] for run in runs):
        mine = [by_key[row, seed] for seed in seeds]
        line: dict[str, Any] = {"summary": runs[0]["data"], "row": row, "parameters": runs[0]["parameters"]}
        line["final"] = round(median(run["final"] for run in mine), 4)
        line["kb_per_round"] = round(median(run["bytes_per_round"] for run in mine) / 1000, 1)
        reached = [(seed, to_goal(by_key[row, seed], by_key["fedavg", seed]["final"] - GOAL_POINTS)) for seed in seeds]
        line["seeds_at_goal"] = sum(found is not None for _, found in reached)
        goals = {seed: by_key["fedavg", seed]["final"] - GOAL_POINTS for seed in seeds}
        if line["seeds_at_goal"] < len(seeds):  # the best accuracy that both reach
            goals = {seed: min(goals[seed], by_key[row, seed]["best"]) for seed in seeds}
        line["goal"] = round(median(goals.values()), 4)
        rounds, fewer, fewer_own, points = [], [], [], []
        for seed in seeds:
            found, theirs = to_goal(by_key[row, seed], goals[seed]), to_goal(by_key["fedavg", seed], goals[seed])
            assert found is not None
            assert theirs is not None
            rounds.append(found[0])
            fewer.append(theirs[1] / found[1])
            plain = by_key.get((f"{row.split('/')[0]}/fp32", seed))
            own = to_goal(plain, goals[seed]) if plain is not None else None
            if plain is not None:
                points.append(100 * (by_key[row, seed]["final"] - plain["final"]))
            if own is not None:
                fewer_own.append(own[1] / found[1])
        line["rounds_to_goal"] = median(rounds)
        line["times_fewer_than_fedavg"] = round(median(fewer), 2)
        line["times_fewer_than_own_fp32"] = round(median(fewer_own), 2) if fewer_own else None
        line["final_points_to_own_fp32"] = round(median(points), 2) if points else None
        yield line


def best(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows that end at most half a point below our own float32, the one with the fewest bytes."""
    fair = [line for line in lines if (points := line["final_points_to_own_fp32"]) is not None and points >= -0.5]
    chosen = max(fair, key=lambda line: line["times_fewer_than_fedavg"], default={})
    return {"bench": "learning", "data": lines[0]["summary"], "best": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "fashion"), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--round-s", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=ROWS)
    parser.add_argument("--images", default=str(IMAGES), help="folder with load.py, for fashion")
    options = parser.parse_args()
    if options.data == "fashion" and not Path(options.images, "load.py").exists():
        print(json.dumps({"left_out": "Fashion-MNIST is not here: name its folder with --images"}))
        return
    works = [
        Work(options.data, row, seed, options.rounds, options.round_s, options.images)
        for seed in range(options.seeds)
        for row in ("fedavg", *options.only)
    ]
    runs = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for run in pool.map(measure, works):
            runs.append(run)
            print(json.dumps({key: value for key, value in run.items() if key != "points"}), flush=True)
    lines = list(summary(runs))
    for line in (*lines, best(lines)):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

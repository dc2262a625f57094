"""One run of the churn scenario as a process: `python -m tests.sim.churn_run SEED [calm] [--light] [--rounds N]`.

Prints one line of JSON: what the statistics say, and, unless it is `--light`, loss of the final model on the validation
data. `calm` is the same run without churn on an undisturbed network.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch.nn import functional as F

from p2pfusion.algorithms.presets import algorithm
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.submodel import Vector
from p2pfusion.core.task import Prepared, prepare
from p2pfusion.core.training import loaded
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.loading import named
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.world import Learner, simulate
from p2pfusion.zoo.tasks import digits_task

RUN_SEED = 0


def scenario_of(arguments: argparse.Namespace) -> Scenario:
    base = named("churn")
    if arguments.calm:
        base = replace(base, churn=None, link=LinkModel())
    if arguments.rounds is None:
        return base
    churn = base.churn and replace(base.churn, to_s=base.churn.to_s * arguments.rounds / base.rounds)
    return replace(base, rounds=arguments.rounds, churn=churn)


def final_loss(blueprint: Blueprint, model: Vector, part: Prepared) -> float:
    """Cross-entropy of the full model on the validation data."""
    network = loaded(blueprint, blueprint.whole(), model).eval()
    with torch.no_grad():
        total = samples = 0.0
        assert part.validation is not None
        for x, y in part.validation.once():
            total += float(F.cross_entropy(network(x), y, reduction="sum"))
            samples += len(y)
    return total / samples


def real(scenario: Scenario, parts: Sequence[Prepared]) -> Learner:
    def learner(index: int) -> Sliced:
        made = algorithm("double_shift", parts[index], seed=index)
        made.step_cost_s = (scenario.round_cost_s or 0.0) / parts[index].steps_per_round
        return made

    return learner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("calm", nargs="?", choices=["calm"])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--light", action="store_true", help="no training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scenario, task, began_s = scenario_of(arguments), digits_task(), time.perf_counter()
    parts = [prepare(task, RUN_SEED, (index, scenario.nodes)) for index in range(scenario.nodes)]
    learns = light_learner(cost_s=scenario.round_cost_s or 0.0) if arguments.light else real(scenario, parts)
    result = simulate(scenario, learns, arguments.seed)
    model = result.survivors()[0].model
    told = {
        "seed": arguments.seed,
        "agreed": len(result.chains) == len(result.model_hashes) == 1,
        "ended": len(result.survivors()),
        "rounds": min(outcome.done.round for outcome in result.survivors() if outcome.done is not None),
        "loss": None if arguments.light else final_loss(parts[0].blueprint, model, parts[0]),
        "suspicion_s": scenario.gossip.suspicion_s,
        "real_s": round(time.perf_counter() - began_s, 1),
        **asdict(result.stats),
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `p2pfusion simulate` is asked for, and one run of it: what a sweep and a replay share.

It prints nothing and chooses no runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from p2pfusion.algorithms.sliced import Sliced
    from p2pfusion.lab.engines import Say
    from p2pfusion.lab.knobs import Order
    from p2pfusion.sim.world import Learner

EXIT_BAD = 1
"""A run ended without agreement, or broke an invariant."""
LIGHT = "light"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What `simulate` was called with; units as `values` parses them.

    What carries the name of a knob of `lab.knobs` is None (as the scenario says) or the values to be run with.
    """

    name: str
    file: Path | None = None
    nodes: tuple[int, ...] | None = None
    rounds: tuple[int, ...] | None = None
    rate: tuple[float, ...] | None = None
    task: tuple[str, ...] | None = None
    algorithm: tuple[str, ...] | None = None
    common: tuple[float, ...] | None = None
    momentum: tuple[float, ...] | None = None
    loss: tuple[float, ...] | None = None
    latency: tuple[float, ...] | None = None
    bandwidth: tuple[float, ...] | None = None
    half_life: tuple[float, ...] | None = None
    slow: tuple[float, ...] | None = None
    apart: tuple[float, ...] | None = None
    seed: tuple[int, ...] | None = None
    seeds: int = 1
    out: Path | None = None
    engine: Literal["local", "ray"] = "local"
    jobs: int | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False


def work(text: str, say: Say) -> str:
    """One run, wherever an engine does it: order -> trace. Raises what `lab.traces.perform` raises."""
    from p2pfusion.lab.traces import order_from, perform

    return perform(order_from(text), learner_of, say)


def learner_of(order: Order) -> Learner:
    """What each node learns: the task on its part of the data, or next to nothing. Raises `TaskError`, `UsageError`."""
    scenario = order.scenario
    if scenario.learns == LIGHT:
        from p2pfusion.sim.light import light_learner

        return light_learner() if scenario.round_cost_s is None else light_learner(cost_s=scenario.round_cost_s)
    from p2pfusion.algorithms.presets import Terms, algorithm
    from p2pfusion.app.tasks import find_task
    from p2pfusion.core.task import prepare

    run_seed = scenario.run.seed
    task, terms = find_task(order.task, run_seed), Terms(common_rate=order.common, outer_momentum=order.momentum)

    def learner(index: int) -> Sliced:
        prepared = prepare(task, run_seed, (index, scenario.nodes))
        made = algorithm(order.algorithm, prepared, seed=index, terms=terms)
        if scenario.round_cost_s is not None:
            made.step_cost_s = scenario.round_cost_s / prepared.steps_per_round
        return made

    return learner

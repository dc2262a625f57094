"""Named simulations as data: what `p2pfusion simulate NAME` and the benchmarks run.

A scenario is a row of `SCENARIOS`; what it is run with is a `Setting`. Everybody learns one task, each node its own
part of the data. A simulation trains in the caller's thread, and its bits hold for one number of torch's threads: set
it to one before (`app.tasks` does). This module knows no file and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from p2pfusion.algorithms.presets import algorithm
from p2pfusion.config import RunConfig
from p2pfusion.core.task import Task, prepare
from p2pfusion.errors import UsageError
from p2pfusion.sim.world import Learner, LinkModel, Result, Scenario, Watch, simulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a scenario is run with. `run_seed` is the run's own (model, split of the data); `loss` in 0..1."""

    nodes: int = 16
    rounds: int = 50
    rate: float = 0.5
    loss: float = 0.05
    latency_s: float = 0.02
    bandwidth_bytes_per_s: float = 12_500_000.0
    algorithm: str = "msfusion"
    run_seed: int = 0


def _latency(setting: Setting) -> Scenario:
    """Every link equally slow and lossy; nobody crashes. Nodes do not wait between rounds."""
    return Scenario(
        name="latency",
        nodes=setting.nodes,
        rounds=setting.rounds,
        rate=setting.rate,
        link=LinkModel(
            latency_s=setting.latency_s,
            loss=setting.loss,
            bandwidth_bytes_per_s=setting.bandwidth_bytes_per_s,
        ),
        run=RunConfig(swarm="simulated latency", seed=setting.run_seed),
    )


SCENARIOS: Mapping[str, Callable[[Setting], Scenario]] = MappingProxyType({"latency": _latency})
"""Name -> what happens."""


def scenario_named(name: str, setting: Setting) -> Scenario:
    """The scenario of that name. Raises `UsageError` naming the known ones, `ConfigError` for what cannot happen."""
    if name not in SCENARIOS:
        raise UsageError(f"no scenario is named {name!r}: choose one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name](setting)


def simulate_named(name: str, setting: Setting, task: Task, seed: int, watch: Watch | None = None) -> Result:
    """One run of a named scenario: everything the seed decides, and nothing else, is chance.

    Raises what `scenario_named` and `sim.world.simulate` raise, `TaskError` for a task that cannot be learnt so.
    """
    return simulate(scenario_named(name, setting), learners(setting, task), seed, watch)


def learners(setting: Setting, task: Task) -> Learner:
    """What node i learns: the task on part i of its data."""
    return lambda index: algorithm(
        setting.algorithm, prepare(task, setting.run_seed, (index, setting.nodes)), seed=index
    )

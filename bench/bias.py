"""Does the model lean to the data of fast devices? The bias of PROTOCOL.md 3, measured with real training.

    python bench/bias.py [--seeds 3] [--rounds 40]

Four nodes in virtual time learn digits with a small MLP, whole model each. Two fast ones hold the digits 0 to 4, two
slow ones the digits 5 to 9. A slow device publishes less often, or, with local steps adapted, as often but with fewer.
Printed for every setting, mean over the seeds after the same number of rounds: accuracy on unseen images of the fast
and of the slow devices' digits (the difference is the lean), the slow devices' part of the contributions that count,
of all local steps, the staleness of their work (rounds, mean; 1 is none), and the virtual seconds it took.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import numpy as np
import torch

from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.config import CadenceConfig
from p2pfusion.core import schemes
from p2pfusion.core.data import as_data
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.core.training import evaluate
from p2pfusion.sim.world import LinkModel, Scenario, World, simulate
from p2pfusion.wire.messages import PeerId
from p2pfusion.zoo import digits
from p2pfusion.zoo.blueprints import mlp

NODES, FAST = 4, 2
STEPS = 20
FAST_DIGITS = 5
QUORUMS = (0.0, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: how much slower the slow devices are, and the cadence."""

    slower: float
    cadence: CadenceConfig
    note: str = ""


@dataclass(slots=True)
class Seen:
    """A watch: whose work counts, with how many steps and how stale."""

    slow: dict[PeerId, None] = field(default_factory=dict)
    counted: list[tuple[PeerId, int, int]] = field(default_factory=list)
    tip: int = 0

    def __call__(self, world: World, index: int) -> None:
        for number in range(FAST, NODES):
            if number in world.nodes:
                self.slow[world.nodes[number].state.me] = None
        ledger = world.nodes[0].state.ledger if 0 in world.nodes else None
        while ledger is not None and self.tip < ledger.tip.round:
            self.tip += 1
            for entry in ledger.sealed_entries(self.tip) or ():
                manifest = entry.manifest
                self.counted.append((manifest.peer, manifest.samples, manifest.round - manifest.base_round))

    def row(self) -> list[float]:
        """The slow devices' part of contributions and of samples, and how stale theirs are."""
        slow = [line for line in self.counted if line[0] in self.slow]
        samples = [sum(line[1] for line in lines) for lines in (slow, self.counted)]
        return [len(slow) / len(self.counted), samples[0] / samples[1], mean(line[2] for line in slow)]


def parts(seed: int) -> list[Prepared]:
    """The fast nodes' halves of the low digits, the slow ones' halves of the high ones."""
    train, _ = digits.load()
    made = []
    for index in range(NODES):
        is_low = train.y < FAST_DIGITS
        own = np.flatnonzero(is_low if index < FAST else ~is_low)
        task = Task(
            mlp(64, (64,), 10),
            (train.x[own], train.y[own]),
            batch_size=16,
            steps_per_round=STEPS,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        )
        made.append(prepare(task, seed, (index % FAST, FAST)))
    return made


def measured(setting: Setting, rounds: int, seed: int) -> list[float]:
    """Accuracies, parts, staleness and virtual seconds of one run."""
    prepared, seen = parts(seed), Seen()
    scenario = Scenario(
        nodes=NODES,
        rounds=rounds,
        rate=1.0,
        link=LinkModel(latency_s=0.002),
        speeds=(1.0,) * FAST + (1 / setting.slower,) * (NODES - FAST),
        cadence=replace(setting.cadence, round_min_s=0.0),
    )
    result = simulate(
        scenario,
        lambda index: Sliced(prepared[index], schemes.full(), step_cost_s=0.05, seed=NODES * seed + index),
        seed,
        watch=seen,
        is_checked=False,
    )
    _, test = digits.load()
    model, low = result.outcomes[0].model, test.y < FAST_DIGITS
    accuracies = [
        evaluate(prepared[0].blueprint, model, as_data((test.x[own], test.y[own]), 256, "test")) for own in (low, ~low)
    ]
    return [*accuracies, *seen.row(), result.virtual_s]


def settings() -> Sequence[Setting]:
    """Quorum x slowness x adapted or not, then what weights can do."""
    rows = [Setting(1.0, CadenceConfig(quorum=0.75), "all equal")]
    for slower in (4.0, 20.0):
        for quorum in QUORUMS:
            rows += [Setting(slower, CadenceConfig(quorum=quorum, adapt_steps=adapted)) for adapted in (False, True)]
    options = (
        (4.0, True, {"weight_power": -1.0}),
        (20.0, True, {"weight_power": -1.0}),
        (20.0, True, {"weight_power": 1.0}),
        (20.0, False, {"decay": 0.8}),
        (20.0, False, {"staleness_power": 0.5}),
    )
    for slower, adapt_steps, changes in options:
        note = ", ".join(f"{name} {value:g}" for name, value in changes.items())
        rows.append(Setting(slower, CadenceConfig(adapt_steps=adapt_steps, **changes), note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| slower | quorum | steps | weights | fast's digits | slow's digits | lean | slow's part of contributions "
          "| of steps | staleness | virtual s |\n|" + "---|" * 11)  # fmt: skip
    for setting in settings():
        runs = [measured(setting, options.rounds, seed) for seed in range(options.seeds)]
        fast, slow, part, steps, stale, virtual_s = (mean(column) for column in zip(*runs, strict=True))
        adapted = "adapted" if setting.cadence.adapt_steps else "all"
        print(
            f"| {setting.slower:g}x | {setting.cadence.quorum:g} | {adapted} | {setting.note or 'alike'} "
            f"| {fast:.1%} | {slow:.1%} | {100 * (fast - slow):+.1f} | {part:.0%} | {steps:.0%} | {stale:.1f} "
            f"| {virtual_s:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What does a large swarm cost to simulate, and what does the protocol cost it? The packaged scenario `scale`.

    python bench/sim_scale.py [--nodes 100] [--rounds 200] [--loss 0.1] [--seed 1] [--real-s 600] [--checked]

Whole nodes, a light learner, one core. Progress goes to stderr, every ten rounds of node 0. After `--real-s` seconds of
real time the run is cut off and the figures are those of the rounds reached; `is_whole` says which it was. One line of
JSON: packets a second of real time and of processor time, virtual time, bytes a node sends in a round, how far the tip
lags behind a node's own round, and how long a round took.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.node import Event
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.loading import named
from p2pfusion.sim.scenario import Result, Scenario
from p2pfusion.sim.world import World, simulate

PROGRESS_ROUNDS = 10


class CutOffError(Exception):
    """The real time given is over."""


class Gauge:
    """Counts what the nodes report, and ends the run when its time is up."""

    def __init__(self, scenario: Scenario, real_s: float) -> None:
        self._scenario = scenario
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()
        self._until_s = self._began_s + real_s
        self._reports: list[tuple[float, str, RoundReport]] = []
        self._sent = {"packets": 0, "bytes": 0}
        self._virtual_s = 0.0

    def note(self, moment_s: float, name: str, event: Event | Fault) -> None:
        """What a node told."""
        if not isinstance(event, RoundReport):
            return
        self._reports.append((moment_s, name, event))
        if name == self._reports[0][1] and event.round % PROGRESS_ROUNDS == 0:
            real_s = time.perf_counter() - self._began_s
            print(f"round {event.round}: {moment_s:.0f} virtual s, {real_s:.0f} s", file=sys.stderr, flush=True)

    def watch(self, world: World, index: int) -> None:
        """Once for each packet that arrives."""
        self._virtual_s = world.now_s
        if time.perf_counter() > self._until_s:
            self.count(world)
            raise CutOffError

    def count(self, world: World) -> None:
        """What all hosts have sent so far."""
        traffic = [world.network.traffic(number + 1) for number in range(self._scenario.nodes)]
        self._sent = {"packets": sum(t.sent_packets for t in traffic), "bytes": sum(t.sent_bytes for t in traffic)}

    def figures(self, result: Result | None) -> dict[str, object]:
        """Everything, as one flat record. `result` is None when the run was cut off."""
        real_s, cpu_s = time.perf_counter() - self._began_s, time.process_time() - self._began_cpu_s
        if result is not None:
            self._sent = {"packets": result.stats.messages, "bytes": result.stats.sent_bytes}
            self._virtual_s = result.virtual_s
        lags = [report.round - report.tip_round for _, _, report in self._reports]
        node_rounds = max(1, len(self._reports))
        return {
            "nodes": self._scenario.nodes,
            "rounds": self._scenario.rounds,
            "loss": self._scenario.link.loss,
            "is_whole": result is not None,
            "rounds_reached": round(len(self._reports) / self._scenario.nodes, 1),
            "real_s": round(real_s, 1),
            "cpu_s": round(cpu_s, 1),
            "virtual_s": round(self._virtual_s, 1),
            "packets": self._sent["packets"],
            "packets_per_real_s": round(self._sent["packets"] / real_s),
            "packets_per_cpu_s": round(self._sent["packets"] / cpu_s),
            "packets_per_node_round": round(self._sent["packets"] / node_rounds, 1),
            "bytes_per_node_round": round(self._sent["bytes"] / node_rounds),
            "tip_lag_median": statistics.median(lags) if lags else None,
            "tip_lag_p90": sorted(lags)[len(lags) * 9 // 10] if lags else None,
            "round_virtual_s": self._round_s(),
            "cpu_ms_per_node_round": round(1000 * cpu_s / node_rounds, 1),
            "models": len(result.model_hashes) if result is not None else None,
            "python": platform.python_version(),
        }

    def _round_s(self) -> float | None:
        """Median virtual seconds between two reports of one node."""
        times: dict[str, list[float]] = {}
        for moment_s, name, _ in self._reports:
            times.setdefault(name, []).append(moment_s)
        gaps = [later - earlier for own in times.values() for earlier, later in pairwise(own)]
        return round(statistics.median(gaps), 2) if gaps else None


def main() -> None:
    scale = named("scale")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=scale.nodes)
    parser.add_argument("--rounds", type=int, default=scale.rounds)
    parser.add_argument("--loss", type=float, default=scale.link.loss)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real-s", type=float, default=600.0, help="cut off after so many seconds")
    parser.add_argument("--checked", action="store_true", help="with the checkers of invariants looking on")
    options = parser.parse_args()
    scenario = replace(
        scale, nodes=options.nodes, rounds=options.rounds, link=replace(scale.link, loss=options.loss), until_s=1e6
    )
    gauge, result = Gauge(scenario, options.real_s), None
    learner = light_learner() if scenario.round_cost_s is None else light_learner(cost_s=scenario.round_cost_s)
    with suppress(CutOffError):
        result = simulate(
            scenario, learner, options.seed, watch=gauge.watch, note=gauge.note, is_checked=options.checked
        )
    print(json.dumps(gauge.figures(result)))


if __name__ == "__main__":
    main()

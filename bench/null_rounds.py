"""How many rounds a second when training costs nothing? So many node processes over real HTTP on loopback.

    python bench/null_rounds.py [--nodes 8] [--rounds 200] [--repeats 5] [--store memory] [--trees A B] [--simulated]

What is left of a round is the protocol: publishing, telling, agreeing, sealing. Rounds a second are those between a
node's first and last report of a round, the median over nodes and repeats. `cpu_ms` is processor time of all processes
together for one round; bytes are bodies that one node sends for one round, `lo_bytes` what the loopback interface
carried for it, with the headers of HTTP, TCP and IP (every packet once), and whatever else ran on this machine.

`--trees` compares checkouts, in turns; `--simulated` runs the same nodes on the simulator, in one process and with
packets that take no time: real seconds, too, but no network at all. One line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

from null_swarm import Swarm, loopback_bytes, total

HERE = str(Path(__file__).resolve().parent.parent)


async def measured(options: argparse.Namespace, tree: str) -> dict[str, float]:
    """One run of real processes."""
    asked = {
        "rounds": options.rounds,
        "min_peers": options.nodes,
        "pause_round": None,
        "store": options.store,
        "mdns": False,
        "codec": options.codec,
    }
    async with Swarm(options.nodes, tree, asked, options.profile) as swarm:
        begun = await swarm.all_say("begun")
        lo_begun = loopback_bytes()
        ended = await swarm.all_say("ended")
        lo_ended = loopback_bytes()
        done = await swarm.all_say("done")
    if len({one["model"] for one in done}) != 1 or any(one["status"] != "ok" for one in done):
        raise RuntimeError(f"the nodes ended with different models: {done}")
    return summary(begun, ended, (lo_ended or 0) - (lo_begun or 0))


def summary(begun: list[dict[str, Any]], ended: list[dict[str, Any]], lo_bytes: int) -> dict[str, float]:
    pairs = list(zip(begun, ended, strict=True))
    rounds = median(e["round"] - b["round"] for b, e in pairs)

    def of_one(name: str) -> float:
        """Of one node for one round."""
        return sum(total(e, name) - total(b, name) for b, e in pairs) / rounds / len(pairs)

    return {
        "rounds_per_s": median((e["round"] - b["round"]) / (e["at_s"] - b["at_s"]) for b, e in pairs),
        "cpu_ms": 1000 * sum(e["cpu_s"] - b["cpu_s"] for b, e in pairs) / rounds,
        "calls": of_one("calls"),
        "bytes": of_one("sent"),
        "lo_bytes": lo_bytes / rounds / len(pairs),
    }


def simulated(options: argparse.Namespace) -> dict[str, float]:
    """The same nodes on the simulator."""
    from null_node import NullLearner

    from p2pfusion.sim.links import LinkModel
    from p2pfusion.sim.scenario import Scenario
    from p2pfusion.sim.world import simulate

    link = LinkModel(latency_s=0.0, jitter_s=0.0)
    scenario = Scenario(name="null", nodes=options.nodes, rounds=options.rounds, rate=1.0, link=link)
    at_s = time.perf_counter()
    cpu_s = time.process_time()
    simulate(scenario, NullLearner, 0, is_checked=False)
    return {
        "rounds_per_s": options.rounds / (time.perf_counter() - at_s),
        "cpu_ms": 1000 * (time.process_time() - cpu_s) / options.rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store", choices=("folder", "memory"), default="folder", help="where identities are kept")
    parser.add_argument("--codec", default="fp32")
    parser.add_argument("--trees", nargs="+", default=[HERE], help="checkouts to compare, in turns")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--profile", default="", help="file for the profile of one of the processes")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {tree: [] for tree in options.trees}
    for _ in range(options.repeats):
        for tree in options.trees:
            runs[tree].append(simulated(options) if options.simulated else asyncio.run(measured(options, tree)))
    result: dict[str, Any] = {
        "nodes": options.nodes,
        "rounds": options.rounds,
        "repeats": options.repeats,
        "how": "simulator, real seconds" if options.simulated else f"processes over HTTP, store in {options.store}",
        "trees": {tree: {k: round(median(r[k] for r in each), 2) for k in each[0]} for tree, each in runs.items()},
        "all_rounds_per_s": {tree: [round(r["rounds_per_s"], 1) for r in each] for tree, each in runs.items()},
        "load": [round(one, 1) for one in os.getloadavg()],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

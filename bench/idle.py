"""What does a swarm cost that has nothing to do? So many node processes that have trained some rounds and then pause.

    python bench/idle.py [--nodes 8] [--settle 20] [--window 30] [--repeats 1] [--trees A B]

The algorithm pauses for ever after ten rounds: everybody holds the same, and only beats and probes are left. After
`--settle` seconds gossip has backed off; then for `--window` seconds: bytes a second that one node sends and receives
in bodies, what the loopback interface carried for one node and second (headers of HTTP, TCP and IP included; every
packet is counted once, so a node sends that much and receives that much), calls a second, processor time as a share of
one core. `--no-mdns` leaves discovery out. One line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

from null_swarm import Swarm, loopback_bytes, total

HERE = str(Path(__file__).resolve().parent.parent)
PAUSE_ROUND = 10


async def measured(options: argparse.Namespace, tree: str) -> dict[str, float]:
    """One run; a window's figures as rates of one node."""
    asked = {
        "rounds": None,
        "min_peers": options.nodes,
        "pause_round": PAUSE_ROUND,
        "store": "folder",
        "mdns": not options.no_mdns,
        "codec": "fp32",
    }
    async with Swarm(options.nodes, tree, asked, options.profile) as swarm:
        await swarm.all_say("begun")
        await asyncio.sleep(options.settle)
        before = await swarm.all_figures()
        lo_before = loopback_bytes()
        await asyncio.sleep(options.window)
        lo_bytes = (loopback_bytes() or 0) - (lo_before or 0)
        after = await swarm.all_figures()
    if any(one["peers"] != options.nodes - 1 for one in after):
        raise RuntimeError("not everybody is alive to everybody")
    return rates(before, after, lo_bytes)


def rates(before: list[dict[str, Any]], after: list[dict[str, Any]], lo_bytes: int) -> dict[str, float]:
    pairs = list(zip(before, after, strict=True))
    seconds = median(a["at_s"] - b["at_s"] for b, a in pairs)

    def of_one(name: str) -> float:
        return sum(total(a, name) - total(b, name) for b, a in pairs) / seconds / len(pairs)

    return {
        "sent_bytes_per_s": of_one("sent"),
        "received_bytes_per_s": of_one("received"),
        "lo_bytes_per_s": lo_bytes / seconds / len(pairs),
        "calls_per_s": of_one("calls"),
        "cpu_percent": 100 * sum(a["cpu_s"] - b["cpu_s"] for b, a in pairs) / seconds / len(pairs),
        "switches_per_s": sum(a["switches"] - b["switches"] for b, a in pairs) / seconds / len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--settle", type=float, default=20.0, help="seconds before the window")
    parser.add_argument("--window", type=float, default=30.0, help="seconds that are measured")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-mdns", action="store_true")
    parser.add_argument("--trees", nargs="+", default=[HERE], help="checkouts to compare, in turns")
    parser.add_argument("--profile", default="", help="file for the profile of one of the processes")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {tree: [] for tree in options.trees}
    for _ in range(options.repeats):
        for tree in options.trees:
            runs[tree].append(asyncio.run(measured(options, tree)))
    result: dict[str, Any] = {
        "nodes": options.nodes,
        "window_s": options.window,
        "mdns": not options.no_mdns,
        "repeats": options.repeats,
        "trees": {tree: {k: round(median(r[k] for r in each), 2) for k in each[0]} for tree, each in runs.items()},
        "load": [round(one, 1) for one in os.getloadavg()],
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

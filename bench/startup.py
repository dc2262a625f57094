"""How long does `p2pfusion demo` take from the command to the first training step, and where does the time go?

    python bench/startup.py [--runs 5] [--nodes 3]

Run it in an environment that is set up, with bytecode compiled (the first of the runs warms up and is not counted).
Every process of the demo writes down when it reaches what (`P2PFUSION_MOMENTS`, see `p2pfusion.app.moments`); of each
run the node that trains last is followed, because the slowest makes the demo wait. Prints one line of JSON: medians
over the runs of wall and processor seconds by phase, the load of the machine at the start, and which phases besides
torch's import take more than half a second of wall time. On a busy machine wall times stretch; processor times do not.

Phases: `interpreter` (Python starts, the command line is read), `parent` (what the parent imports before it starts the
nodes), `spawn` (until the node's own command line is read), `imports` (without torch), `torch`, `task` (data, model,
one tried batch), `meet` (listen, announce, until all are met), `quiet` (until the first round begins).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

PHASES = ("interpreter", "parent", "spawn", "imports", "torch", "task", "meet", "quiet")
EXPECTED_S = 0.5
"""More than that, torch's import aside, is worth a look."""

Moments = dict[int, list[tuple[str, float, float]]]
Phase = dict[str, tuple[float, float]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--nodes", type=int, default=3)
    chosen = options.parse_args()
    load = os.getloadavg()[0]
    runs = [one_run(chosen.nodes) for _ in range(1 + chosen.runs)][1:]
    wall_s = {name: median(run[name][0] for run in runs) for name in PHASES}
    cpu_s = {name: median(run[name][1] for run in runs) for name in PHASES}
    totals_s = sorted(sum(wall for wall, _ in run.values()) for run in runs)
    print(
        json.dumps(
            {
                "bench": "startup",
                "runs": chosen.runs,
                "nodes": chosen.nodes,
                "cores": os.cpu_count(),
                "load": round(load, 2),
                "to_first_step_s": round(median(totals_s), 3),
                "range_s": [round(totals_s[0], 3), round(totals_s[-1], 3)],
                "wall_s": {name: round(value, 3) for name, value in wall_s.items()},
                "cpu_s": {name: round(value, 3) for name, value in cpu_s.items()},
                "over_half_a_second": [n for n in PHASES if n != "torch" and wall_s[n] > EXPECTED_S],
            }
        )
    )


def one_run(nodes: int) -> Phase:
    """(wall, processor) seconds by phase of one demo of one round."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "moments"
        started_s = time.perf_counter()
        line = [sys.executable, "-m", "p2pfusion", "demo", "--rounds", "1", "--nodes", str(nodes), "--quiet"]
        subprocess.run(line, check=True, env={**os.environ, "P2PFUSION_MOMENTS": str(file)}, stdout=subprocess.DEVNULL)
        return phases(started_s, read(file))


def read(file: Path) -> Moments:
    """Process -> (name, wall, processor) in order."""
    found: Moments = {}
    for line in file.read_text().splitlines():
        pid, name, wall, cpu = line.split()
        found.setdefault(int(pid), []).append((name, float(wall), float(cpu)))
    return found


def phases(started_s: float, moments: Moments) -> Phase:
    """Along the way of the node that begins to train last."""
    parent = next({n: (w, c) for n, w, c in found} for found in moments.values() if found[1][0] == "children")
    last = max(
        (found for found in moments.values() if any(name == "training" for name, *_ in found)),
        key=lambda found: next(wall for name, wall, _ in found if name == "training"),
    )
    child = {name: (wall, cpu) for name, wall, cpu in last if name != "met"}
    training_s = child["training"][0]
    met = [(wall, cpu) for name, wall, cpu in last if name == "met" and wall <= training_s] or [child["node"]]
    path = [
        (started_s, 0.0), parent["command"], parent["children"], child["command"], child["imports"], child["task"],
        child["node"], met[-1], (training_s, child["training"][1]),
    ]  # fmt: skip
    walls = [after[0] - before[0] for before, after in pairwise(path)]
    cpus = [after[1] - before[1] for before, after in pairwise(path)]
    cpus[2] = child["command"][1]  # another process: its own start
    return dict(zip(PHASES, zip(walls, cpus, strict=True), strict=True))


if __name__ == "__main__":
    main()

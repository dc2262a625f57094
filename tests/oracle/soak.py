"""The ledger beside the protocol model, thousands of seeds: `python -m tests.oracle.soak [--seeds 1000] [--first 0]`.

Every move of every node is compared (`twin`), so a run either ends or names the seed where ledger and model disagree.
Printed for each world: what happened, and what the model alone gives for the same seeds, its own moves unchanged.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.oracle import protocol_model as model
from tests.oracle.twin import run_world

WORLDS = {
    "loss and crashes": {"partitions": False},
    "closing lids": {"partitions": False, "lids": 0.5},
    "partitions and clogged links": {"partitions": True},
}
COMPARED = ("diverged", "lost", "twice", "work", "switches", "grafts")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="the model alone as well, for comparison")
    options = parser.parse_args()
    plain, failures = model.Node, 0
    for name, world in WORLDS.items():
        beside, alone = Counter[str](), Counter[str]()
        for seed in range(options.first, options.first + options.seeds):
            try:
                beside += run_world(setattr, seed, horizon=8, **world)
            except AssertionError as error:
                failures += 1
                print(f"{name}, seed {seed}: {error}", flush=True)
            model.Node = plain
            if options.alone:
                alone += Counter(model.run(seed, **world))
        print(f"{options.seeds} seeds, {name}, ledger: {dict(beside)}", flush=True)
        if options.alone:
            print(f"{options.seeds} seeds, {name}, model alone: { {k: alone[k] for k in COMPARED} }", flush=True)
        failures += beside["diverged"]
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Flower's simulation of the null model: how many rounds a second, all clients in Ray's workers on this machine?

    python -m bench.peers.flower_simulation --clients 8 --rounds 50

Runs in Flower's own environment, started by `bench.rounds`, which reads the moments from a file (`flower_app.nullapp`).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "flower_app"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    os.environ["P2PFUSION_BENCH_ROUNDS"] = str(options.rounds)
    os.environ["P2PFUSION_BENCH_CLIENTS"] = str(options.clients)

    import nullapp
    from flwr.simulation import run_simulation

    run_simulation(
        server_app=nullapp.server,
        client_app=nullapp.client,
        num_supernodes=options.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


if __name__ == "__main__":
    main()

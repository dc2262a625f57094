"""What fits on a device: what a node's replica takes at rest, beside what training a slice takes, at every rate.

    python -m bench.footprint [--networks resnet18 characters words] [--rates 1 0.5 0.25 0.125] [--nodes 8]

`replica`, a row per network, the same whatever slice a device trains. By arithmetic: `model_mb`, one float32 model;
`at_rest_mb`, the five a node holds (genesis, sealed, residual, two snapshots); `sealing_mb`, one more while a round is
folded; `ledger_mb`, payloads of the rounds since the older snapshot, of `--nodes` nodes that send int8 slices of 1/4,
and `ledger_max_mb`, where payloads go to disk (`NodeConfig.ledger_bytes_max`). Measured beside it in a process of its
own: `at_rest_measured_mb`, and `sealing_measured_mb`, the peak while such a round is folded into it.

`training`, a row per network and rate. By arithmetic: `head_mb`, the slice of the head it starts from, `parameters_mb`,
`gradients_mb`, `momentum_mb` (one vector: SGD), and `contribution_mb`, what leaves, in int8. Counted by asking
autograd: `kept_mb`, activations of one batch, and `batch_mb`, with the gradients of the largest of them. `sum_mb` adds
the four vectors and the batch; `peak_mb` is measured: how far resident memory rises in a process of its own that trains
for some steps, scratch space of single operations included. `over_replica` is that peak over `at_rest_measured_mb`.

One line of JSON. MB are 10^6 bytes. Residents are read from Linux; elsewhere the measured columns are rough.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.slice_cost import WORKLOADS, Workload, peak_bytes, sliced
from p2pfusion.config import NodeConfig, RunConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import as_data
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.footprint import FLOAT_BYTES, Kept
from p2pfusion.core.objectives import Plain, cross_entropy
from p2pfusion.core.replica import Replica
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.training import Recipe, Sgd, train
from p2pfusion.node.decoding import Encoded
from p2pfusion.node.snapshots import SNAPSHOTS_KEPT_MAX
from p2pfusion.swarm.thrift import Choice
from p2pfusion.wire.compression import encode

STEPS = 3
SENT_RATE = 0.25
"""The slices that others send, in `ledger_mb` and while a round is folded."""
VECTORS_AT_REST = 3 + SNAPSHOTS_KEPT_MAX
"""Genesis, which a task keeps, the sealed model, the residual, and the snapshots."""
STEADY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Without this glibc keeps freed blocks, and the peak would show its habits."""


# -- by arithmetic -----------------------------------------------------------------------------------------------------


def megabytes(vectors: int, elements: int) -> float:
    """So many float32 vectors."""
    return 1e-6 * FLOAT_BYTES * vectors * elements


def sent_bytes(elements: int) -> float:
    """A contribution in the codec that a node begins with."""
    return Choice("int8").bytes_of(elements)


def replica_row(name: str, nodes: int) -> dict[str, Any]:
    workload = WORKLOADS[name]
    blueprint = workload.blueprint()
    rounds = SNAPSHOTS_KEPT_MAX * RunConfig().snapshot_every_rounds
    payload = rounds * nodes * sent_bytes(sliced(blueprint, SENT_RATE).size(blueprint))
    return {
        "network": workload.title,
        "parameters": blueprint.size,
        "model_mb": megabytes(1, blueprint.size),
        "at_rest_mb": megabytes(VECTORS_AT_REST, blueprint.size),
        "sealing_mb": megabytes(VECTORS_AT_REST + 1, blueprint.size),
        "ledger_mb": 1e-6 * payload,
        "ledger_max_mb": 1e-6 * NodeConfig().ledger_bytes_max,
        **child(name, SENT_RATE, nodes, "replica"),
    }


def training_row(name: str, rate: float, nodes: int, at_rest_mb: float) -> dict[str, Any]:
    workload = WORKLOADS[name]
    blueprint = workload.blueprint()
    size = sliced(blueprint, rate).size(blueprint)
    found = child(name, rate, nodes, "training")
    one = megabytes(1, size)
    return {
        "network": workload.title,
        "rate": rate,
        "parameters": size,
        "head_mb": one,
        "parameters_mb": one,
        "gradients_mb": one,
        "momentum_mb": one,
        "kept_mb": found["kept_mb"],
        "batch_mb": found["batch_mb"],
        "sum_mb": 4 * one + found["batch_mb"],
        "peak_mb": found["peak_mb"],
        "over_replica": found["peak_mb"] / at_rest_mb,
        "contribution_mb": 1e-6 * sent_bytes(size),
    }


# -- measured, in a process of its own ---------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Resident memory now; where nobody says, the peak."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else peak_bytes()


def noise(size: int, seed: int) -> Vector:
    values = np.random.default_rng(seed).random(size, np.float32)
    values *= 0.02
    return values


def measure_training(workload: Workload, rate: float) -> dict[str, float]:
    blueprint = workload.blueprint()
    sub_model, batch = sliced(blueprint, rate), workload.batch()
    small = blueprint.narrow(1 / 16)
    # Warm the thread pool, autograd and the libraries on something narrow, so that they are in the baseline.
    run_training(small, small.whole(), (batch[0][:2], batch[1][:2]), 1)
    gc.collect()
    before = peak_bytes(reset=True)
    run_training(blueprint, sub_model, batch, STEPS)
    peak = peak_bytes() - before
    kept = run_training(blueprint, sub_model, batch, 1)
    return {"peak_mb": 1e-6 * peak, "kept_mb": 1e-6 * kept.bytes, "batch_mb": 1e-6 * kept.batch_bytes}


def run_training(
    blueprint: Blueprint, sub_model: SubModel, batch: tuple[torch.Tensor, torch.Tensor], steps: int
) -> Kept:
    """Train as a node does; returns what autograd kept of a batch."""
    objective = Kept(Plain())
    recipe = Recipe(
        loss=cross_entropy,
        optimizer=lambda parameters: Sgd(parameters, lr=0.001, momentum=0.9),
        steps=steps,
        clip_norm=1.0,
        objective=objective,
    )
    start = noise(sub_model.size(blueprint), 0)
    train(blueprint, sub_model, start, iter(as_data([batch] * steps, 1, "train").once()), recipe)
    return objective


def measure_replica(workload: Workload, nodes: int) -> dict[str, float]:
    blueprint = workload.blueprint()
    work = contributions(blueprint, nodes)
    gc.collect()
    before = resident_bytes()
    genesis = noise(blueprint.size, 0)
    replica = Replica(blueprint, noise(blueprint.size, 1))
    replica.residual[:] = 1.0
    snapshots = [noise(blueprint.size, 2 + number) for number in range(SNAPSHOTS_KEPT_MAX)]
    at_rest = resident_bytes() - before
    peak_bytes(reset=True)
    replica.sealed = fold(blueprint, blueprint.whole(), replica.sealed, work)
    sealing = peak_bytes() - before
    assert genesis.size == snapshots[0].size  # alive until here
    return {"at_rest_measured_mb": 1e-6 * at_rest, "sealing_measured_mb": 1e-6 * sealing}


def contributions(blueprint: Blueprint, nodes: int) -> list[Weighted]:
    """A round of int8 slices, encoded as they came."""
    sub_model = sliced(blueprint, SENT_RATE)
    size = sub_model.size(blueprint)
    return [
        Weighted(bytes([rank]) * 16, 1, sub_model, Encoded("int8", encode("int8", noise(size, rank)), size))
        for rank in range(nodes)
    ]


def child(name: str, rate: float, nodes: int, what: str) -> dict[str, float]:
    """What a fresh process measures."""
    command = [sys.executable, "-m", "bench.footprint", "--measure", what, "--networks", name, "--rates", str(rate)]
    environment = {**os.environ, **STEADY, "OMP_NUM_THREADS": "1"}
    line = [*command, "--nodes", str(nodes)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# -- the tables --------------------------------------------------------------------------------------------------------


def tables(names: Sequence[str], rates: Sequence[float], nodes: int) -> dict[str, list[dict[str, Any]]]:
    """`replica` and `training`."""
    replica = {name: replica_row(name, nodes) for name in names}
    training = [
        training_row(name, rate, nodes, replica[name]["at_rest_measured_mb"]) for name in names for rate in rates
    ]
    return {"replica": list(replica.values()), "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(WORKLOADS), default=["resnet18", "characters", "words"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--measure", choices=["training", "replica"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = WORKLOADS[options.networks[0]]
    if options.measure == "training":
        print(json.dumps(measure_training(workload, options.rates[0])))
    elif options.measure == "replica":
        print(json.dumps(measure_replica(workload, options.nodes)))
    else:
        print(json.dumps({**tables(options.networks, options.rates, options.nodes), "nodes": options.nodes}))


if __name__ == "__main__":
    main()

"""What a slice saves: step time and peak training memory of real networks at every rate, beside the arithmetic limit.

    python bench/slice_cost.py [--networks resnet18 characters words cnn] [--rates 0.5 0.25] [--turns 7] [--threads 1]

Time: all rates of a network live in this process and take turns, step by step, so that whatever else the machine does
hits all; `time_share` is the median over the turns of a slice's time over the full network's in the same turn. Its
limit is `flops_share`: multiplications of one step, forward and backward, as torch counts them (the causal half of an
attention is not taken off).

Memory: one fresh process per network and rate. `peak_mb` is how far its resident memory rises above where it stood with
torch imported, its thread pool warm and the data there, at any moment of several steps: parameters, gradients,
momentum, activations and the library's scratch space. On Linux the kernel's high-water mark is set back first; a
child's ru_maxrss begins with its parent's and would hide everything. Its limit is `counted_mb`: parameters, gradients
and momentum, and what autograd keeps for the backward pass, each storage once. `alive_mb` is torch's own count from its
allocation events: the most bytes alive at once during a step, besides what stays between steps.

The replica a node keeps at rest (one float32 model) is not in these figures: slices save training, not storage.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.core.training import Sgd, loaded
from p2pfusion.zoo.blueprints import residual_cnn, resnet18
from p2pfusion.zoo.transformers import gpt

Batch = tuple[torch.Tensor, torch.Tensor]
MEMORY_STEPS = 4
WARM_TURNS = 2
"""They fill caches and allocate."""
CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A network and what it learns from: `size` samples of an image (channels, height, width), or tokens (time,)."""

    title: str
    blueprint: Callable[[], Blueprint]
    size: int
    shape: tuple[int, ...]
    vocabulary: int = 0

    def batch(self) -> Batch:
        """The same batch every time; values do not matter."""
        generator = torch.Generator().manual_seed(0)
        if self.vocabulary:
            tokens = torch.randint(self.vocabulary, (self.size, *self.shape), generator=generator)
            return tokens, tokens.roll(-1, 1)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        return torch.randn(self.size, *self.shape, generator=generator), labels


WORKLOADS: Mapping[str, Workload] = {
    "resnet18": Workload(title="ResNet-18, batch 32", blueprint=resnet18, size=32, shape=(3, 32, 32)),
    "characters": Workload(
        title="Transformer, 65 characters, batch 16 x 128",
        blueprint=lambda: gpt(65, 128, 256, 4, 8, 1024),
        size=16,
        shape=(128,),
        vocabulary=65,
    ),
    "words": Workload(
        title="Transformer, 33,278 words, batch 20 x 64",
        blueprint=lambda: gpt(33_278, 64, 256, 4, 8, 512),
        size=20,
        shape=(64,),
        vocabulary=33_278,
    ),
    "cnn": Workload(
        title="residual CNN 32/64/128, batch 64",
        blueprint=lambda: residual_cnn(3, (32, 64, 128), CLASSES),
        size=64,
        shape=(3, 32, 32),
    ),
}
"""`words` has the sizes of HeteroFL's Transformer for WikiText-2 (PAPERS.md 1.9), with tied weights."""


def sliced(blueprint: Blueprint, rate: float) -> SubModel:
    """What double shift gives the first of three peers in round 5; the whole model for rate 1."""
    return double_shift()(blueprint, Seat(rank=0, peers=3, round=5, rates=(rate,) * 3), random.Random(0))


# -- one step ----------------------------------------------------------------------------------------------------------


class Step:
    """A training step of one slice, as `core.training` takes it."""

    def __init__(self, blueprint: Blueprint, sub_model: SubModel, values: Vector, batch: Batch) -> None:
        self.module = loaded(blueprint, sub_model, values).train()
        self._optimizer = Sgd(self.module.parameters(), lr=0.001, momentum=0.9)
        self._batch = batch

    def loss(self) -> torch.Tensor:
        return cross_entropy(self.module(self._batch[0]), self._batch[1])

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        self.loss().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def step_of(workload: Workload, rate: float) -> Step:
    """With the values that a run begins with."""
    blueprint = workload.blueprint()
    sub_model = sliced(blueprint, rate)
    return Step(blueprint, sub_model, extract(blueprint, genesis(blueprint, 0), sub_model), workload.batch())


# -- time and what is counted ------------------------------------------------------------------------------------------


def times(steps: Mapping[float, Step], turns: int) -> dict[float, list[float]]:
    """Seconds per step and rate, taken in turns."""
    taken: dict[float, list[float]] = {rate: [] for rate in steps}
    for turn in range(turns + WARM_TURNS):
        for rate, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= WARM_TURNS:
                taken[rate].append(time.perf_counter() - began)
    return taken


def flops(step: Step) -> int:
    """Of one forward and backward pass. The attention runs as matrix products, the only form in which it is counted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step.loss().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def counted_bytes(step: Step) -> int:
    """Parameters, gradients and momentum, and the storages that autograd keeps besides them and the data."""
    parameters = [tensor.untyped_storage() for tensor in step.module.parameters()]
    known = {storage.data_ptr() for storage in parameters}
    known |= {tensor.untyped_storage().data_ptr() for tensor in step._batch}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.loss()
    return 3 * sum(storage.nbytes() for storage in parameters) + sum(kept.values())


# -- memory, in a process of its own -----------------------------------------------------------------------------------


def peak_bytes(reset: bool = False) -> int:
    """Peak resident memory of this process; with `reset` the peak begins anew at what is resident now."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_memory(workload: Workload, rate: float) -> None:
    """Child process: print how far the peak rises, and torch's own count."""
    blueprint, batch = workload.blueprint(), workload.batch()
    sub_model = sliced(blueprint, rate)
    size = sub_model.size(blueprint)
    # Warm the thread pool, autograd and the libraries on something narrow, so that they are in the baseline.
    small = blueprint.narrow(1 / 16)
    Step(small, small.whole(), np.full(small.size, 0.01, np.float32), (batch[0][:2], batch[1][:2]))()
    gc.collect()
    before = peak_bytes(reset=True)
    # Not genesis: it makes the whole model's vector, which would be the peak of a thin slice.
    values = np.random.default_rng(0).random(size, np.float32)
    values *= 0.02
    step = Step(blueprint, sub_model, values, batch)
    del values
    for _ in repeat(None, MEMORY_STEPS):
        step()
    print(json.dumps({"peak": peak_bytes() - before, "alive": tensors_alive_max(step)}))


def tensors_alive_max(step: Callable[[], None]) -> int:
    """The most bytes of tensors allocated during one step and alive at once, from torch's allocation events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def memory_of(name: str, rate: float, options: argparse.Namespace) -> dict[str, float]:
    """Medians over fresh processes."""
    command = [sys.executable, __file__, "--memory", "--networks", name, "--rates", str(rate)]
    command += ["--threads", str(options.threads)]
    # Without this glibc keeps freed blocks and the peak would show its habits, not the network.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    runs = []
    for _ in repeat(None, options.memory_runs):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    return {what: statistics.median(run[what] for run in runs) for what in runs[0]}


# -- the table ---------------------------------------------------------------------------------------------------------


def rows_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per rate, the full network first; shares are of its figures."""
    workload = WORKLOADS[name]
    rates = (1.0, *(rate for rate in options.rates if rate != 1.0))
    steps = {rate: step_of(workload, rate) for rate in rates}
    multiplied = {rate: flops(step) for rate, step in steps.items()}
    counted = {rate: counted_bytes(step) for rate, step in steps.items()}
    taken = times(steps, options.turns)
    sizes = {rate: sum(tensor.numel() for tensor in step.module.parameters()) for rate, step in steps.items()}
    memory = {rate: memory_of(name, rate, options) for rate in rates}
    return [
        {
            "network": workload.title,
            "rate": rate,
            "parameters": sizes[rate],
            "parameters_share": sizes[rate] / sizes[1.0],
            "flops_share": multiplied[rate] / multiplied[1.0],
            "time_share": statistics.median(mine / full for mine, full in zip(taken[rate], taken[1.0], strict=True)),
            "step_ms": 1e3 * statistics.median(taken[rate]),
            "counted_share": counted[rate] / counted[1.0],
            "peak_share": memory[rate]["peak"] / memory[1.0]["peak"],
            "alive_share": memory[rate]["alive"] / memory[1.0]["alive"],
            "counted_mb": 1e-6 * counted[rate],
            "peak_mb": 1e-6 * memory[rate]["peak"],
            "alive_mb": 1e-6 * memory[rate]["alive"],
        }
        for rate in rates
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ["resnet18", "characters", "words"]
    parser.add_argument("--networks", nargs="+", choices=list(WORKLOADS), default=defaults)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 0.25, 0.125])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-runs", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        measure_memory(WORKLOADS[options.networks[0]], options.rates[0])
        return
    for name in options.networks:
        for row in rows_of(name, options):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""What a slice saves: step time and peak training memory of a residual network, full width against a slice.

    python bench/slice_cost.py [--rate 0.25] [--widths 32,64,128] [--batch 64] [--rounds 12] [--threads 1]

Time: both networks live in this process and take turns, step by step, so that whatever else the machine does hits both;
the median of the turns is shown, and the ratio beside `rate^2`, the limit for a network of sliced-by-sliced layers.

Memory: one fresh process per network. "Peak above idle" is how far its resident memory rises above where it stood with
torch imported, its thread pool warm and the data there, at any moment of several steps: parameters, gradients,
momentum, activations and the library's scratch space. On Linux the kernel's high-water mark is set back first; a
child's ru_maxrss begins with its parent's and would hide everything. "Tensors alive" is counted by torch itself, from
its allocation events during one step: the most bytes alive at once besides what stays between steps.

The replica a node keeps at rest (one float32 model) is not in these figures: slices save training, not storage.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import loaded
from p2pfusion.zoo.blueprints import residual_cnn

IMAGE = (3, 32, 32)
CLASSES = 10
MEMORY_STEPS = 4


def sliced(blueprint: Blueprint, rate: float) -> SubModel:
    """What double shift gives the first of three peers in round 5; the whole model for rate 1."""
    return double_shift()(blueprint, Seat(rank=0, peers=3, round=5, rates=(rate,) * 3), random.Random(0))


def batch_of(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, *IMAGE, generator=generator), torch.randint(CLASSES, (size,), generator=generator)


def stepper(blueprint: Blueprint, rate: float, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], float]:
    """A training step of that slice, as `core.training` takes it."""
    sub_model = sliced(blueprint, rate)
    module = loaded(blueprint, sub_model, extract(blueprint, genesis(blueprint, 0), sub_model)).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(module(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def times(blueprint: Blueprint, options: argparse.Namespace) -> dict[float, list[float]]:
    """Seconds per step and rate, taken in turns."""
    batch = batch_of(options.batch)
    steps = {rate: stepper(blueprint, rate, batch) for rate in (1.0, options.rate)}
    taken: dict[float, list[float]] = {rate: [] for rate in steps}
    for turn in range(options.rounds + 2):
        for rate, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 2:  # the first two warm caches and allocate
                taken[rate].append(time.perf_counter() - began)
    return taken


def peak_bytes(reset: bool = False) -> int:
    """Peak resident memory of this process; with `reset` the peak begins anew at what is resident now."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_memory(blueprint: Blueprint, options: argparse.Namespace) -> None:
    """Child process: print peak growth and torch's own count for one rate."""
    batch = batch_of(options.batch)
    # Warm the thread pool, autograd and the convolution library on something tiny, so that they are in the baseline.
    warm = residual_cnn(3, (8,), CLASSES, blocks_per_stage=1)
    stepper(warm, 1.0, (batch[0][:2], batch[1][:2]))()
    gc.collect()
    before = peak_bytes(reset=True)
    step = stepper(blueprint, options.rate, batch)
    for _ in repeat(None, MEMORY_STEPS):
        step()
    grown = peak_bytes() - before
    print(json.dumps({"grown": grown, "tensors": tensors_alive_max(step)}))


def tensors_alive_max(step: Callable[[], float]) -> int:
    """The most bytes of tensors allocated during one step and alive at once, from torch's allocation events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def memory_of(rate: float, options: argparse.Namespace) -> dict[str, int]:
    command = [
        sys.executable,
        __file__,
        "--memory",
        "--rate",
        str(rate),
        "--widths",
        ",".join(map(str, options.widths)),
    ]
    command += ["--batch", str(options.batch), "--threads", str(options.threads)]
    # Without this glibc keeps freed blocks and ru_maxrss would show its habits, not the network.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def report(blueprint: Blueprint, options: argparse.Namespace) -> None:
    rates = (1.0, options.rate)
    taken = times(blueprint, options)
    memory = {rate: [memory_of(rate, options) for _ in range(options.memory_runs)] for rate in rates}
    shares = {rate: sliced(blueprint, rate).share(blueprint) for rate in rates}
    rows: list[tuple[str, dict[float, float], str]] = [
        ("parameters", {rate: shares[rate] * blueprint.size for rate in rates}, "{:,.0f}"),
        ("step time, ms (median)", {rate: 1e3 * statistics.median(taken[rate]) for rate in rates}, "{:.1f}"),
        ("peak above idle, MB (median)", {rate: 1e-6 * middle(memory[rate], "grown") for rate in rates}, "{:.1f}"),
        ("tensors alive in a step, MB", {rate: 1e-6 * middle(memory[rate], "tensors") for rate in rates}, "{:.1f}"),
    ]
    print(f"residual CNN {options.widths}, images {IMAGE}, batch {options.batch}, {options.threads} thread(s), fp32")
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
    print(f"\n{'':30} {'full':>12} {f'slice {options.rate:.0%}':>12} {'ratio':>7} {'rate^2':>7} {'rate':>6}")
    for name, values, form in rows:
        full, part = (form.format(values[rate]) for rate in rates)
        ratio = values[options.rate] / values[1.0]
        print(f"{name:30} {full:>12} {part:>12} {ratio:7.3f} {options.rate**2:7.4f} {options.rate:6.2f}")
    spread = {rate: (1e3 * min(taken[rate]), 1e3 * max(taken[rate])) for rate in rates}
    print(
        "\nstep time, ms, least to most:", "; ".join(f"{rate:.0%} {a:.1f}-{b:.1f}" for rate, (a, b) in spread.items())
    )


def middle(found: list[dict[str, int]], name: str) -> float:
    return statistics.median(item[name] for item in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.25)
    parser.add_argument("--widths", type=lambda text: tuple(map(int, text.split(","))), default=(32, 64, 128))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-runs", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    blueprint = residual_cnn(IMAGE[0], options.widths, CLASSES)
    if options.memory:
        measure_memory(blueprint, options)
    else:
        report(blueprint, options)


if __name__ == "__main__":
    main()

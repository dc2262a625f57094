"""How fast is each codec on one core, how many bytes does it make, and what does it lose?

    python bench/codecs.py [--elements 10000000] [--repeats 7] [--busy 2] [--codecs int8,topk] [--feedback]

Data are heavy-tailed like updates (Student's t, 3 degrees of freedom), in tensors of 1 M elements. A row is a codec
with its settings: GB/s of float32 to encode, to decode, and both together, of this thread's processor time; bytes per
element; relative L2 error. Medians of the repeats, in which the codecs take turns. `zstd` is the lossless stage.

`--busy N` burns N processes meanwhile, its own, which it ends: codecs use one thread, so they should lose little more
than what sharing a core's caches and its second hyperthread costs (processor time does not count waiting for the core).

`--feedback` answers another question instead: with error feedback, how many bytes does each codec need for the same
error? Gradient descent on an ill-conditioned quadratic in 10,000 dimensions, 4 authors whose minima differ, each with
its own residual; the mean of what they deliver is the step. `to_1/100` is how many bytes per dimension one author sent
until the distance to the common minimum was a hundredth of the first one, with the learning rate of `RATES` that is
best for this codec and goal; null: not reached within `STEPS` with any.

One line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
from numpy.typing import NDArray

from p2pfusion.wire.compression import Coding, decode_into, elements_per_segment, encode

TENSOR = 1 << 20
ROWS: dict[str, tuple[str, Coding]] = {
    "fp32": ("fp32", Coding()),
    "bf16": ("bf16", Coding()),
    "int8": ("int8", Coding(lossless=False)),
    "int8 zstd": ("int8", Coding()),
    "int4": ("int4", Coding(lossless=False)),
    "int4 zstd": ("int4", Coding()),
    "topk 1 %": ("topk", Coding(density=0.01)),
    "topk 5 %": ("topk", Coding(density=0.05)),
    "stc 1 %": ("stc", Coding(density=0.01)),
    "stc 5 %": ("stc", Coding(density=0.05)),
}
DIMENSIONS = 10_000
AUTHORS = 4
GOALS = (10, 100)
RATES = (1.0, 0.3, 0.1, 0.03)
STEPS = 2000

Vector = NDArray[np.float32]


def burn() -> None:
    """Until it is terminated: arithmetic and memory, like somebody else's training."""
    values = np.random.default_rng(os.getpid()).standard_normal((256, 256))
    while True:
        values = np.tanh(values @ values)


@contextmanager
def burning(number: int) -> Iterator[None]:
    """So many processes of our own that never rest."""
    processes = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    try:
        if processes:
            time.sleep(2)
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def sizes_of(elements: int) -> tuple[int, ...]:
    whole, rest = divmod(elements, TENSOR)
    return (TENSOR,) * whole + ((rest,) if rest else ())


def decode(codec: str, segments: tuple[bytes, ...], out: Vector) -> None:
    step = elements_per_segment(codec)
    for index, segment in enumerate(segments):
        decode_into(codec, segment, out[index * step : (index + 1) * step])


def speeds(elements: int, repeats: int, names: list[str]) -> list[dict[str, object]]:
    random = np.random.default_rng(0)
    flat = (random.standard_t(3, elements) * 1e-3).astype(np.float32)
    out = np.zeros_like(flat)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    errors: dict[str, float] = {}
    for seed in range(repeats):
        for name in names:
            codec, chosen = ROWS[name]
            tensors = sizes_of(elements)
            coding = Coding(density=chosen.density, tensors=tensors, seed=seed, lossless=chosen.lossless)
            began_s = time.thread_time()
            segments = encode(codec, flat, coding)
            encoded_s = time.thread_time()
            decode(codec, segments, out)
            took[name].append((encoded_s - began_s, time.thread_time() - encoded_s))
            sizes[name] = sum(map(len, segments))
            errors[name] = float(np.linalg.norm(out - flat) / np.linalg.norm(flat))
    gigabytes = flat.nbytes / 1e9
    return [
        {
            "codec": name,
            "encode_gb_per_s": round(gigabytes / median(one for one, _ in took[name]), 2),
            "decode_gb_per_s": round(gigabytes / median(other for _, other in took[name]), 2),
            "both_gb_per_s": round(gigabytes / median(sum(pair) for pair in took[name]), 2),
            "bytes_per_element": round(sizes[name] / elements, 4),
            "relative_error": round(errors[name], 4),
        }
        for name in names
    ]


def feedback(names: list[str]) -> list[dict[str, object]]:
    """Bytes each author sends, per dimension, until the distance is 1/10 and 1/100 of the first."""
    random = np.random.default_rng(0)
    curvature = np.geomspace(0.02, 1, DIMENSIONS).astype(np.float32)
    random.shuffle(curvature)
    start = random.standard_t(3, DIMENSIONS).astype(np.float32)
    shifts = random.standard_normal((AUTHORS, DIMENSIONS)).astype(np.float32) * np.float32(0.3)
    shifts -= shifts.mean(0)  # Where each author alone would go; together they go to 0.
    rows: list[dict[str, object]] = []
    for name in names:
        tried = [(rate, _descent(name, rate, curvature, start, shifts)) for rate in RATES]
        row: dict[str, object] = {"codec": name}
        for goal in GOALS:
            found = [(reached[goal], rate) for rate, reached in tried if goal in reached]
            row[f"to_1/{goal}"], row[f"rate_1/{goal}"] = min(found) if found else (None, None)
        rows.append(row)
    return rows


def _descent(name: str, rate: float, curvature: Vector, start: Vector, shifts: Vector) -> dict[int, float]:
    """Bytes per dimension and author at each goal that is reached."""
    codec, chosen = ROWS[name]
    model, residuals, out = start.copy(), np.zeros_like(shifts), np.empty_like(start)
    first, sent = float(np.linalg.norm(start)), 0
    reached: dict[int, float] = {}
    for step in range(STEPS):
        total = np.zeros_like(model)
        for author in range(AUTHORS):
            produced = residuals[author] - np.float32(rate) * curvature * (model - shifts[author])
            coding = Coding(density=chosen.density, seed=step * AUTHORS + author, lossless=chosen.lossless)
            segments = encode(codec, produced, coding)
            decode(codec, segments, out)
            residuals[author] = produced - out
            total += out
            sent += sum(map(len, segments))
        model += total / np.float32(AUTHORS)
        distance = float(np.linalg.norm(model)) / first
        for goal in GOALS:
            if distance <= 1 / goal:
                reached.setdefault(goal, round(sent / AUTHORS / DIMENSIONS, 2))
        if len(reached) == len(GOALS) or not distance < 100:
            break
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--codecs", default="", help="only rows that begin with one of these, comma between them")
    parser.add_argument("--feedback", action="store_true")
    options = parser.parse_args()
    names = [name for name in ROWS if name.startswith(tuple(options.codecs.split(",")))]
    with burning(options.busy):
        rows = feedback(names) if options.feedback else speeds(options.elements, options.repeats, names)
    machine = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
    print(json.dumps({"rows": rows, "busy": options.busy, "load": os.getloadavg()[0], **machine}))


if __name__ == "__main__":
    main()

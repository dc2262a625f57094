"""Does the fold move at memory speed? A large model and some contributions, beside what the memory itself takes.

    python -m bench.fold [--millions 50] [--repeats 7] [--cases whole,half,quarter,int8,head,temporary] [--no-dense]

Per case, in turns within one process and on one thread: `fold_ms`, the fold into a new vector from encoded
contributions; `memory_ms`, reading every contribution once and reading and writing the model once, chunk by chunk with
`np.copyto` over the same buffers, the new vector included; `dense_ms`, the fold as it was first written, with dense
weights, on contributions that are decoded already. Then their ratios. Medians of processor time.

Cases: `whole`, 4 contributions of everything, fp32; `half` and `quarter`, double-shift slices at rate 0.5 and 0.25;
`int8`, everything, encoded in int8, with `decode_ms`, what decoding alone takes; `head`, a slice at rate 1/2 of the
head over 3 open rounds of 4 slices at rate 1/2, where memory is that slice read and written once and all contributions
read once. `temporary` is peak memory of folding 4 int8 contributions beyond the new vector, in bytes (tracemalloc), and
as a share of the model. One line of JSON; the load average says how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.cells import CHUNK_ELEMENTS
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.replica import head
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.node.decoding import Encoded
from p2pfusion.wire.compression import CODECS, decode_into, elements_per_segment, encode, segment_elements
from p2pfusion.zoo.blueprints import mlp
from tests.core.dense import dense_fold

PEERS = 4
INPUTS, CLASSES = 3072, 100
HIDDEN_LAYERS = 4
WEIGHTS = (65536, 3, 99_999_999, 70_000)
RATES = {"whole": 1.0, "half": 0.5, "quarter": 0.25, "int8": 1.0}


def network(millions: float) -> Blueprint:
    """A multi-layer perceptron of at most that many million parameters: a few large matrices."""
    width = 64
    while _size(width + 64) <= millions * 1e6:
        width += 64
    return mlp(INPUTS, (width,) * HIDDEN_LAYERS, CLASSES)


def _size(width: int) -> int:
    return INPUTS * width + (HIDDEN_LAYERS - 1) * width * width + width * CLASSES


def slices(blueprint: Blueprint, rate: float, round_: int) -> list[SubModel]:
    """What double shift gives every peer."""
    seats = [Seat(rank=rank, peers=PEERS, round=round_, rates=(rate,) * PEERS) for rank in range(PEERS)]
    return [double_shift()(blueprint, seat, random.Random(0)) for seat in seats]


class Material:
    """One round's contributions: encoded, and decoded for the dense fold."""

    def __init__(self, blueprint: Blueprint, rate: float, codec: str, *, round_: int = 5, decoded: bool = True) -> None:
        self.blueprint = blueprint
        self.codec = codec
        self.sub_models = slices(blueprint, rate, round_)
        self.decoded: list[Vector] = []
        self.segments = []
        for rank, sub_model in enumerate(self.sub_models):
            numbers = np.random.default_rng(rank)
            values = numbers.standard_normal(sub_model.size(blueprint), np.float32)
            self.segments.append(encode(codec, values))
            if decoded:
                values = self._encoded(rank).span(0, values.size) if codec != "fp32" else values
                self.decoded.append(np.array(values))

    def _encoded(self, rank: int) -> Encoded:
        return Encoded(self.codec, self.segments[rank], self.sub_models[rank].size(self.blueprint))

    def decode(self) -> None:
        """Decode everything, a segment at a time, and do nothing with it."""
        buffer = np.empty(elements_per_segment(self.codec), np.float32)
        for sub_model, segments in zip(self.sub_models, self.segments, strict=True):
            sizes = segment_elements(self.codec, sub_model.size(self.blueprint))
            for size, segment in zip(sizes, segments, strict=True):
                decode_into(self.codec, segment, buffer[:size])

    def items(self) -> list[Weighted]:
        return [
            Weighted(bytes([rank]) * 16, WEIGHTS[rank], sub_model, self._encoded(rank))
            for rank, sub_model in enumerate(self.sub_models)
        ]

    def plain_items(self) -> list[Weighted]:
        return [
            Weighted(bytes([rank]) * 16, WEIGHTS[rank], sub_model, self.decoded[rank])
            for rank, sub_model in enumerate(self.sub_models)
        ]


def read_once(pieces: Sequence[bytes | memoryview]) -> None:
    """Read encoded bytes, a cache-sized piece at a time."""
    scratch = np.empty(4 * CHUNK_ELEMENTS, np.uint8)
    for piece in pieces:
        flat = np.frombuffer(piece, np.uint8)
        for part in _chunks(flat, scratch.size):
            np.copyto(scratch[: part.size], part)


def read_and_write(source: Vector) -> Vector:
    """The model into a new vector, chunk by chunk."""
    target = np.empty_like(source)
    for start in range(0, source.size, CHUNK_ELEMENTS):
        np.copyto(target[start : start + CHUNK_ELEMENTS], source[start : start + CHUNK_ELEMENTS])
    return target


def _chunks(flat: np.ndarray, step: int) -> Iterator[np.ndarray]:
    return (flat[start : start + step] for start in range(0, flat.size, step))


def in_turns(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time of each, taken alternately after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began_s = time.thread_time()
            step()
            if turn:
                taken[name].append(1000 * (time.thread_time() - began_s))
    return {name: median(values) for name, values in taken.items()}


def measured(steps: dict[str, Callable[[], object]], repeats: int, first: str) -> dict[str, float]:
    found = in_turns(steps, repeats)
    result = {name: round(value, 1) for name, value in found.items()}
    result["to_memory"] = round(found[first] / found["memory_ms"], 2)
    if "dense_ms" in found:
        result["dense_to_new"] = round(found["dense_ms"] / found[first], 2)
    return result


def fold_case(blueprint: Blueprint, model: Vector, name: str, options: argparse.Namespace) -> dict[str, float]:
    made = Material(blueprint, RATES[name], "int8" if name == "int8" else "fp32", decoded=options.dense)
    whole = blueprint.whole()

    def memory() -> None:
        for segments in made.segments:
            read_once(segments)
        read_and_write(model)

    steps: dict[str, Callable[[], object]] = {
        "fold_ms": lambda: fold(blueprint, whole, model, made.items()),
        "memory_ms": memory,
    }
    if name == "int8":
        steps["decode_ms"] = made.decode
    if options.dense:
        steps["dense_ms"] = lambda: dense_fold(blueprint, whole, model, made.plain_items())
        same = fold(blueprint, whole, model, made.items()).tobytes()
        if same != dense_fold(blueprint, whole, model, made.plain_items()).tobytes():
            raise AssertionError(f"{name}: other bits than the dense fold")
    return measured(steps, options.repeats, "fold_ms")


def head_case(blueprint: Blueprint, model: Vector, options: argparse.Namespace) -> dict[str, float]:
    rounds = [Material(blueprint, 0.5, "fp32", round_=5 + 9 * n, decoded=options.dense) for n in range(3)]
    (target, *_) = slices(blueprint, 0.5, 40)
    base = extract(blueprint, model, target)

    def memory() -> None:
        for made in rounds:
            for segments in made.segments:
                read_once(segments)
        read_and_write(base)

    def dense() -> None:
        values = extract(blueprint, model, target)
        for made in rounds:
            values = dense_fold(blueprint, target, values, made.plain_items())

    steps: dict[str, Callable[[], object]] = {
        "head_ms": lambda: head(blueprint, model, target, [(made.items(), None) for made in rounds]),
        "memory_ms": memory,
    }
    if options.dense:
        steps["dense_ms"] = dense
    return measured(steps, options.repeats, "head_ms")


def temporary_case(blueprint: Blueprint, model: Vector) -> dict[str, float]:
    """Peak memory of one fold beyond the vector it makes."""
    made, whole = Material(blueprint, 1.0, "int8" if "int8" in CODECS else "bf16", decoded=False), blueprint.whole()
    tracemalloc.start()
    fold(blueprint, whole, model, made.items())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beyond = peak - model.nbytes
    return {"bytes": beyond, "share_of_model": round(beyond / model.nbytes, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=50.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cases", default="whole,half,quarter,int8,head,temporary")
    parser.add_argument("--no-dense", dest="dense", action="store_false", help="leave the dense fold out")
    options = parser.parse_args()
    blueprint = network(options.millions)
    model = np.random.default_rng(99).standard_normal(blueprint.size, np.float32)
    result: dict[str, object] = {"parameters": blueprint.size, "repeats": options.repeats}
    for name in options.cases.split(","):
        if name == "head":
            result[name] = head_case(blueprint, model, options)
        elif name == "temporary":
            result[name] = temporary_case(blueprint, model)
        elif name != "int8" or "int8" in CODECS:
            result[name] = fold_case(blueprint, model, name, options)
    result |= {"load": os.getloadavg()[0], "numpy": np.__version__, "python": platform.python_version()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

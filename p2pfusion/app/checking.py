"""`p2pfusion check`: what a task's model, data and slices look like, before anything touches a network.

A model that cannot be sliced raises the same `TaskError` here that `join` would: layer, reason, fix. Times are measured
on this computer and meant for comparison with each other only.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

from p2pfusion import __version__
from p2pfusion.algorithms.presets import algorithm
from p2pfusion.app.output import object_text
from p2pfusion.app.tasks import find_task
from p2pfusion.app.words import count, data_size, enumeration, percent
from p2pfusion.config import NodeConfig
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract, tensor_sizes
from p2pfusion.core.task import Prepared, prepare
from p2pfusion.core.training import train
from p2pfusion.swarm.thrift import SPARSE_BYTES, Thrift
from p2pfusion.wire.compression import CODECS, Coding, encode

TIMED_STEPS = 5
"""Enough for a median; a step of a large model takes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What `check` was called with."""

    task: str
    codec: str
    density: float
    rate: float
    algorithm: str
    seed: int
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found. Sizes are full widths; `bytes_per_round` is what one node's contribution weighs on the wire.

    `bytes_by_codec` is the same with each codec, measured on what a few training steps changed; the sparse ones send
    `density` of the values. `codec` is the one that would be used.
    """

    task: str
    parameters: int
    blocks: int
    axes: dict[str, int]
    train_samples: int | None
    validation_samples: int | None
    steps_per_round: int
    rate: float
    slice_parameters: int
    share: float
    bytes_per_round: int
    full_step_s: float
    slice_step_s: float
    fingerprint: str
    codec: str
    density: float
    bytes_by_codec: dict[str, int]


def run_check(options: CheckOptions) -> int:
    """Print what was found; returns 0. Raises `TaskError` for a model that cannot be sliced."""
    if not options.json and not options.quiet:
        sys.stdout.write(f"p2pfusion {__version__}: check {options.task}\n")
        sys.stdout.flush()
    checked = examine(options)
    if options.json:
        sys.stdout.write(object_text("check", checked) + "\n")
    elif not options.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in words_of(checked)))
    return 0


def examine(options: CheckOptions) -> Checked:
    """Prepare the task and measure one slice of it. Raises `TaskError`, `UsageError`."""
    prepared = prepare(find_task(options.task, options.seed), options.seed)
    blueprint = prepared.blueprint
    scheme = algorithm(options.algorithm, prepared).scheme
    seat = Seat(rank=0, peers=1, round=0, rates=(options.rate,))
    sub_model = scheme(blueprint, seat, random.Random(options.seed))
    size = sub_model.size(blueprint)
    validation = prepared.validation
    config = NodeConfig(codec=options.codec, codec_density=options.density)
    choice = Thrift(config).choose(size, 0, 0, 0.0)
    sizes = bytes_by_codec(prepared, sub_model, options.density)
    return Checked(
        task=options.task,
        parameters=blueprint.size,
        blocks=len(blueprint.blocks),
        axes={axis.name: axis.size for axis in blueprint.axes},
        train_samples=prepared.train.samples,
        validation_samples=None if validation is None else validation.samples,
        steps_per_round=prepared.steps_per_round,
        rate=options.rate,
        slice_parameters=size,
        share=sub_model.share(blueprint),
        bytes_per_round=sizes[choice.codec],
        full_step_s=step_s(prepared, blueprint.whole()),
        slice_step_s=step_s(prepared, sub_model),
        fingerprint=blueprint.fingerprint().hex(),
        codec=choice.codec,
        density=options.density,
        bytes_by_codec=sizes,
    )


def bytes_by_codec(prepared: Prepared, sub_model: SubModel, density: float) -> dict[str, int]:
    """What a few steps of training changed, encoded with every codec: bytes by name."""
    blueprint = prepared.blueprint
    start = extract(blueprint, prepared.genesis, sub_model)
    batches = prepared.train.batches(random.Random(0))
    delta = train(blueprint, sub_model, start, batches, replace(prepared.recipe, steps=TIMED_STEPS)).after - start
    coding = Coding(density=density, tensors=tensor_sizes(blueprint, sub_model))
    return {name: sum(memoryview(part).nbytes for part in encode(name, delta, coding)) for name in CODECS}


def step_s(prepared: Prepared, sub_model: SubModel) -> float:
    """Median seconds of one training step of this sub-model, on this computer, now."""
    start = extract(prepared.blueprint, prepared.genesis, sub_model)
    batches = prepared.train.batches(random.Random(0))
    recipe = replace(prepared.recipe, steps=1)
    times = []
    for _ in range(1 + TIMED_STEPS):
        began = perf_counter()
        train(prepared.blueprint, sub_model, start, batches, recipe)
        times.append(perf_counter() - began)
    return median(times[1:])  # the first one warms caches


def words_of(checked: Checked) -> list[str]:
    """The same for a person."""
    axes = enumeration([f"{name} {size}" for name, size in checked.axes.items()]) or "none"
    code = checked.fingerprint[:8].upper()
    slice_words = f"{count(checked.slice_parameters)} parameters, {percent(checked.share)} of the model"
    return [
        f" model  {count(checked.parameters)} parameters in {checked.blocks} blocks; sliced axes: {axes}",
        f" data   train {_samples(checked.train_samples)}, validation {_samples(checked.validation_samples)}, "
        f"{checked.steps_per_round} steps per round",
        f" slice  {checked.rate:.0%} of every axis: {slice_words}; "
        f"{checked.slice_step_s * 1000:.1f} ms per step here, the full model {checked.full_step_s * 1000:.1f} ms",
        f" wire   {data_size(checked.bytes_per_round)} per node and round with {_codec_words(checked, checked.codec)}",
        f" codecs {_all_codecs(checked)}",
        f" ok     fingerprint {code[:4]}-{code[4:]} (must be the same on every computer)",
    ]


def _all_codecs(checked: Checked) -> str:
    return ", ".join(
        f"{_codec_words(checked, name)} {data_size(size)}" for name, size in checked.bytes_by_codec.items()
    )


def _codec_words(checked: Checked, name: str) -> str:
    return f"{name} {100 * checked.density:g}%" if name in SPARSE_BYTES else name


def _samples(number: int | None) -> str:
    return "unknown" if number is None else count(number)

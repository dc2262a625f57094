"""`p2pfusion check`: what a task's model, data and slices look like, before anything touches a network.

A model that cannot be sliced raises the same `TaskError` here that `join` would: layer, reason, fix. Times are measured
on this computer and meant for comparison with each other only.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

from p2pfusion import __version__
from p2pfusion.algorithms.presets import Terms, algorithm, live
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.app.costs import RateCost, Trial, costs
from p2pfusion.app.output import object_text
from p2pfusion.app.tasks import find_task
from p2pfusion.app.words import beginning, count, data_size, enumeration, percent, trained
from p2pfusion.config import ALGORITHM_DEFAULT, COMMON_RATE_DEFAULT, NodeConfig
from p2pfusion.core.footprint import Load
from p2pfusion.core.objectives import LATER_ROUND, Objective, Plain
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.task import Prepared, prepare
from p2pfusion.core.training import train_members
from p2pfusion.net.settling import load_at, slice_at, slice_by
from p2pfusion.swarm.thrift import SPARSE_BYTES, Thrift
from p2pfusion.wire.compression import CODECS

AXES_LISTED_MAX = 4
"""More axes than this are shown by their pattern: a Transformer of twelve layers has two dozen."""
BLOCKS_LISTED_MAX, BLOCKS_COLUMNS = 6, 72
"""More blocks than this, or than fit into a line of 80 columns, are counted; `--json` has all."""
_NUMBER = re.compile(r"(?<![^.])\d+(?=\.)|(?<=^layer)\d+(?=\.)")
"""A layer's place in a list, within its path, or in the names of the zoo's stacks."""
TIMED_STEPS = 5
"""Enough for a median; a step of a large model takes a second."""


CALIBRATED = "; calibrated, for classes are not as frequent here as in the validation data"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What `check` was called with."""

    task: str
    codec: str
    density: float
    rate: float
    algorithm: str = ALGORITHM_DEFAULT
    common: float = COMMON_RATE_DEFAULT
    momentum: float = 0.0
    seed: int
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found. Sizes are full widths; `bytes_per_round` is what one node's contribution weighs on the wire.

    `calibrated`: whether it trains against its own frequencies of classes (`core.calibration`).
    `run_parameters`: of the run's model, which the algorithm may make of the task's; slice, share and fingerprint are
    that one's. `rates` compare with the task's own model. `load`: what training the slice takes.

    `bytes_by_codec` is the same with each codec, measured on what a few training steps changed; the sparse ones send
    `density` of the values. `codec` is the one that would be used. `units`: how many indices of an axis stay together.
    `rates`: what slices of other rates would cost; `findings`: what is never sliced or trained, and why.

    `later_parameters`: of the slice after a node's first rounds, which all other numbers are of; None: the same.
    """

    task: str
    parameters: int
    blocks: int
    axes: dict[str, int]
    train_samples: int | None
    validation_samples: int | None
    steps_per_round: int
    calibrated: bool
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
    units: dict[str, int]
    block_names: list[str]
    rates: list[RateCost]
    findings: list[str]
    algorithm: str
    run_parameters: int
    load: Load
    later_parameters: int | None


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
    own = prepare(find_task(options.task, options.seed), options.seed)
    terms = Terms(common_rate=options.common, outer_momentum=options.momentum)
    made = algorithm(options.algorithm, own, terms=terms)
    prepared, scheme, blueprint = made.prepared, made.scheme, made.blueprint
    sub_model = slice_at(made, options.rate, options.seed)
    size = sub_model.size(blueprint)
    validation = prepared.validation
    config = NodeConfig(codec=options.codec, codec_density=options.density)
    choice = Thrift(config).choose(blueprint.size if made.way.is_expanded else size, 0, 0, 0.0)
    trial = Trial(prepared=prepared, way=made.way, steps=TIMED_STEPS, density=options.density)
    sizes = trial.encoded(sub_model, tuple(CODECS))
    return Checked(
        task=options.task,
        parameters=own.blueprint.size,
        blocks=len(own.blueprint.blocks),
        axes={axis.name: axis.size for axis in own.blueprint.axes},
        train_samples=prepared.train.samples,
        validation_samples=None if validation is None else validation.samples,
        steps_per_round=prepared.steps_per_round,
        calibrated=prepared.shift is not None,
        rate=options.rate,
        slice_parameters=size,
        share=sub_model.share(blueprint),
        bytes_per_round=sizes[choice.codec],
        full_step_s=step_s(own, own.blueprint.whole(), Plain()),
        slice_step_s=step_s(prepared, sub_model, made.way.objective),
        fingerprint=blueprint.fingerprint().hex(),
        codec=choice.codec,
        density=options.density,
        bytes_by_codec=sizes,
        units={axis.name: axis.unit for axis in own.blueprint.axes},
        block_names=list(own.blueprint.blocks),
        rates=costs(trial, own, scheme, options.seed, choice.codec),
        findings=list(own.blueprint.findings),
        algorithm=made.product.origin["algorithm"],
        run_parameters=blueprint.size,
        load=load_at(made, options.rate, options.seed),
        later_parameters=later_parameters(made, options.rate),
    )


def later_parameters(made: Sliced, rate: float) -> int | None:
    """Of the slice that a device of that rate trains after its first rounds; None: as many as before."""
    if made.way.later is None:
        return None
    first, later = (slice_by(scheme, made.blueprint, rate) for scheme in (made.scheme, made.way.later))
    return None if later.size(made.blueprint) == first.size(made.blueprint) else later.size(made.blueprint)


def step_s(prepared: Prepared, sub_model: SubModel, objective: Objective) -> float:
    """Median seconds of one training step of this sub-model and objective, on this computer, now."""
    start = extract(prepared.blueprint, prepared.genesis, sub_model)
    batches = prepared.train.batches(random.Random(0))
    recipe = replace(prepared.recipe, steps=1, objective=objective, round=LATER_ROUND)
    times = []
    for _ in range(1 + TIMED_STEPS):
        began = perf_counter()
        train_members(prepared.blueprint, sub_model, start, batches, recipe)
        times.append(perf_counter() - began)
    return median(times[1:])  # the first one warms caches


def words_of(checked: Checked) -> list[str]:
    """The same for a person."""
    code = checked.fingerprint[:8].upper()
    what = f"{checked.rate:.0%} of every axis: {count(checked.slice_parameters)} parameters"
    slice_words = what if checked.load.is_sliced else trained(checked.load)
    return [
        f" model  {count(checked.parameters)} parameters in {checked.blocks} blocks; sliced axes: {_axes(checked)}",
        f" blocks {beginning(checked.block_names, BLOCKS_LISTED_MAX, BLOCKS_COLUMNS)}",
        *(f" note   {finding}" for finding in checked.findings),
        f" data   train {_samples(checked.train_samples)}, validation {_samples(checked.validation_samples)}, "
        f"{checked.steps_per_round} steps per round"
        f"{CALIBRATED if checked.calibrated else ''}",
        f" run    {checked.algorithm}: {live(checked.algorithm).text}; {count(checked.run_parameters)} parameters",
        f" slice  {slice_words}, {percent(checked.share)} of the run's model; "
        f"{checked.slice_step_s * 1000:.1f} ms per step here, the full model {checked.full_step_s * 1000:.1f} ms",
        *_later_words(checked),
        *(f" rate   {line}" for line in _rate_lines(checked.rates)),
        f" wire   {data_size(checked.bytes_per_round)} per node and round with {_codec_words(checked, checked.codec)}",
        f" codecs {_all_codecs(checked)}",
        f" ok     fingerprint {code[:4]}-{code[4:]} (must be the same on every computer)",
    ]


def _axes(checked: Checked) -> str:
    """Axes with their sizes; those that differ by a number in their name only, as layers of a stack do, as one."""
    alike: dict[tuple[str, int, int], list[str]] = {}
    for name, size in checked.axes.items():
        alike.setdefault((_NUMBER.sub("*", name), size, checked.units[name]), []).append(name)
    cut, whole = list[str](), list[str]()
    for (pattern, size, unit), names in alike.items():
        many = len(names) > 1 and len(checked.axes) > AXES_LISTED_MAX
        groups = f" in {size // unit} groups" if 1 < unit < size else ""
        words = [f"{name} {size}{groups}" for name in ([f"{len(names)} x {pattern}"] if many else names)]
        (whole if unit == size else cut).extend(words)
    kept = f"; in one piece: {enumeration(whole)}" if whole else ""
    return (enumeration(cut) or "none, every device trains the whole model") + kept


def _later_words(checked: Checked) -> list[str]:
    """The line about the slice after the first rounds, where it is another one."""
    later = checked.later_parameters
    if later is None:
        return []
    share = percent(later / checked.run_parameters)
    return [f" later  {count(later)} parameters, {share} of the run's model: the figures here are of the first rounds"]


def _rate_lines(costs: Sequence[RateCost]) -> list[str]:
    """One for rates that cost the same: an algorithm may not tell them apart."""
    rates: dict[str, list[str]] = {}
    for cost in costs:
        rates.setdefault(_cost_words(cost), []).append(f"1/{round(1 / cost.rate)}" if cost.rate < 1 else "1")
    return [f"{enumeration(names):<3} {words}" for words, names in rates.items()]


def _cost_words(cost: RateCost) -> str:
    work = f"{percent(cost.flops_share)} of its FLOPs ({data_size(cost.flops).replace('B', 'FLOP')} a sample)"
    share = f"{percent(cost.share)} of the full model's parameters"
    return f"{share}, {work}, {data_size(cost.bytes_per_round)} a round"


def _all_codecs(checked: Checked) -> str:
    return ", ".join(
        f"{_codec_words(checked, name)} {data_size(size)}" for name, size in checked.bytes_by_codec.items()
    )


def _codec_words(checked: Checked, name: str) -> str:
    return f"{name} {100 * checked.density:g}%" if name in SPARSE_BYTES else name


def _samples(number: int | None) -> str:
    return "unknown" if number is None else count(number)

"""Where a node trains and at which rate: what was named, or what a short probe finds best.

A device is what was named, or for `auto` whichever trains faster. Nothing is measured where there is nothing to choose:
a named device, or a computer without a GPU, at a given rate. Else the probe takes real training steps of throwaway
networks, the smallest slice first, for about `PROBE_S` in all, and does not begin what it foresees to take much longer
or to need more memory than there is. One step of the smallest slice at every place it always takes, and a GPU's driver
takes the seconds it takes to start.

What follows from the numbers is decided in `choosing`; what there is, `device` says.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from p2pfusion.core.footprint import Load, load_of
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.errors import TrainingError
from p2pfusion.net.choosing import (
    AUTOCAST_GAIN,
    RATES,
    ROUND_WANTED_S,
    Choice,
    Option,
    Step,
    Wanted,
    best,
    choose_rate,
    predicted,
)
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.device import free_bytes, machine, places

if TYPE_CHECKING:
    from p2pfusion.algorithms.presets import Terms
    from p2pfusion.algorithms.sliced import Sliced
    from p2pfusion.core.blueprint import Blueprint
    from p2pfusion.core.objectives import Objective
    from p2pfusion.core.place import Place
    from p2pfusion.core.task import Prepared

Rate = float | Literal["auto"]

PROBE_S = 0.5
"""For all places together: nobody minds it at the start of a run, and it is enough for a few steps of every slice that
could be chosen."""
STEPS_TIMED_MAX = 6
"""Of one slice; the first, where there are more, only warms up."""
BOLDNESS = 2.0
"""A slice is tried when even the upper limit of what it takes is no more than so many times what is left of the time:
most networks stay far below the limit."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found of one place."""

    place: Place
    choice: Choice
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Settled:
    """Where to train and at which rate; `probed` is what was compared, the one taken first, and empty without a probe.

    `failed`: why places that are there cannot be used.
    """

    place: Place
    rate: float
    steps: int
    probed: tuple[Probed, ...] = ()
    failed: tuple[str, ...] = ()


async def settle(prepared: Prepared, algorithm: str, *, device: str, rate: Rate, terms: Terms | None = None) -> Settled:
    """Choose the place, and for the rate `auto` the rate, for a node that trains by that algorithm.

    Raises `UsageError` for a device that is not there, `TrainingError` when no place can train the task.
    """
    is_auto = rate == "auto"
    found = places(device, machine(device, is_auto), is_auto=is_auto)
    if len(found) == 1 and not isinstance(rate, str):
        return Settled(found[0], rate, prepared.steps_per_round)
    compute = ThreadCompute()
    rates = RATES if isinstance(rate, str) else (rate,)
    try:
        # In the lane that will train, with its number of threads.
        return await compute.run(lambda: probe(Trial(prepared, algorithm, terms=terms), found, rates))
    finally:
        await compute.close()


# -- the probe --------------------------------------------------------------------------------------------------------


class Watch:
    """A `should_stop` that notes when it is asked, before every step, and says stop when time or steps are up.

    At least one step is taken.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = clock() + seconds
        self._asked_s: list[float] = []

    def should_stop(self) -> bool:
        self._asked_s.append(self._clock())
        steps = len(self._asked_s) - 1
        return steps >= STEPS_TIMED_MAX or (steps > 0 and self._asked_s[-1] >= self._until_s)

    @property
    def step_s(self) -> float:
        """The mean of the steps behind the first: an objective may make some longer than others."""
        first, *others = self._asked_s
        return (others[-1] - others[0]) / (len(others) - 1) if len(others) > 1 else others[0] - first


class Trial:
    """Trains throwaway slices as the node will: its scheme, its objective, its data, its steps."""

    def __init__(
        self,
        prepared: Prepared,
        algorithm: str,
        clock: Callable[[], float] = time.perf_counter,
        terms: Terms | None = None,
    ) -> None:
        from p2pfusion.algorithms.presets import algorithm as algorithm_of

        self._algorithm = algorithm_of(algorithm, prepared, terms=terms)
        self.steps = prepared.steps_per_round
        self.clock = clock

    def load(self, rate: float) -> Load:
        """What is trained at that rate."""
        return load_at(self._algorithm, rate)

    def __call__(self, place: Place, rate: float, seconds: float) -> Step:
        """Train for about so long. Raises `TrainingError`."""
        from p2pfusion.core.footprint import Kept
        from p2pfusion.core.objectives import LATER_ROUND
        from p2pfusion.core.training import train_members

        algorithm, sub_model = self._algorithm, slice_at(self._algorithm, rate)
        blueprint = algorithm.blueprint
        prepared = replace(algorithm.prepared, place=place)
        kept = Kept(experienced(algorithm.way.objective, prepared, sub_model))
        recipe = replace(prepared.recipe, steps=STEPS_TIMED_MAX + 1, objective=kept, round=LATER_ROUND)
        start, batches = extract(blueprint, algorithm.genesis, sub_model), prepared.train.batches(random.Random(0))
        watch, load = Watch(seconds, self.clock), self.load(rate)
        train_members(blueprint, sub_model, start, batches, recipe, should_stop=watch.should_stop)
        return Step(watch.step_s * load.networks, load, kept.batch_bytes)


def slice_at(made: Sliced, rate: float, seed: int = 0) -> SubModel:
    """What a device of that rate, alone, trains first."""
    return slice_by(made.scheme, made.blueprint, rate, seed)


def slice_by(scheme: Scheme, blueprint: Blueprint, rate: float, seed: int = 0) -> SubModel:
    """What a scheme gives such a device first."""
    return scheme(blueprint, Seat(rank=0, peers=1, round=0, rates=(rate,)), random.Random(seed))


def load_at(made: Sliced, rate: float, seed: int = 0) -> Load:
    """What training that takes; it is sliced if the slices of small rates have kept axes."""
    is_sliced = bool(slice_at(made, min(RATES), seed).kept)
    sub_model, way, blueprint = slice_at(made, rate, seed), made.way, made.blueprint
    vectors = way.model_vectors(blueprint, sub_model)
    return load_of(blueprint, sub_model, way.extra_vectors, model_vectors=vectors, is_sliced=is_sliced)


def experienced(objective: Objective, prepared: Prepared, sub_model: SubModel, steps: int = 1) -> Objective:
    """A copy that has trained the sub-model once if it is one that remembers, as in all rounds but the first.

    Raises `TrainingError`.
    """
    from p2pfusion.core.training import train_members

    made = copy.deepcopy(objective)
    if made.extra_vectors:
        start = extract(prepared.blueprint, prepared.genesis, sub_model)
        recipe = replace(prepared.recipe, steps=steps, objective=made)
        train_members(prepared.blueprint, sub_model, start, prepared.train.batches(random.Random(0)), recipe)
    return made


def probe(
    trial: Trial,
    found: Sequence[Place],
    rates: Sequence[float],
    free: Callable[[Place], int | None] = free_bytes,
) -> Settled:
    """Try every place, an equal share of `PROBE_S` each, and choose. Raises `TrainingError` when none can train.

    Smaller slices than may be chosen are tried too: they tell whether the larger ones take too long to be tried.
    """
    tried = sorted({*rates, *(rate for rate in RATES if rate < max(rates))})
    probed: list[Probed] = []
    failed: list[str] = []
    for place in found:
        wanted = Wanted(
            steps=trial.steps,
            free_bytes=free(place),
            round_s=ROUND_WANTED_S / (AUTOCAST_GAIN if place.autocast else 1.0),
        )
        try:
            costs = ladder(trial, place, tried, wanted, PROBE_S / len(found))
            choice = choose_rate({rate: costs[rate] for rate in rates if rate in costs}, wanted)
        except TrainingError as error:
            failed.append(f"{place}: {error}")
            continue
        probed.append(Probed(place, choice, wanted))
    if not probed:
        raise TrainingError("; ".join(failed))
    taken = probed[best([Option(one.choice, one.place.autocast is not None) for one in probed])]
    others = [one for one in probed if one is not taken]
    return Settled(taken.place, taken.choice.rate, trial.steps, (taken, *others), tuple(failed))


def ladder(trial: Trial, place: Place, rates: Sequence[float], wanted: Wanted, seconds: float) -> Mapping[float, Step]:
    """What a step of every rate costs there: measured from the smallest up while time and memory last, then predicted.

    Raises `TrainingError` when not even one can be trained.
    """
    until_s = trial.clock() + seconds
    first, *larger = sorted(rates)
    costs = {first: trial(place, first, seconds / 2)}
    for before, rate in pairwise((first, *larger)):
        left_s = until_s - trial.clock()
        expected = predicted(costs[before], rate / before, trial.load(rate))
        if not costs[before].is_measured or expected.seconds > BOLDNESS * left_s or not wanted.has_room(expected):
            costs[rate] = expected
            continue
        try:
            costs[rate] = trial(place, rate, left_s / 2)
        except TrainingError:  # as a rule for want of memory: what is larger fits even less
            break
    return costs

"""The probe wastes neither time nor memory and takes the best place; what a node gets of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.presets import Terms, algorithm
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.footprint import Load
from p2pfusion.core.objectives import Job, Plain, StepLoss
from p2pfusion.core.place import CPU, Place
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.errors import TrainingError, UsageError
from p2pfusion.net import lan
from p2pfusion.net import settling as module
from p2pfusion.net.choosing import RATES, Step, Wanted
from p2pfusion.net.settling import (
    BOLDNESS,
    PROBE_S,
    STEPS_TIMED_MAX,
    Settled,
    Trial,
    Watch,
    ladder,
    load_at,
    probe,
    settle,
)
from p2pfusion.zoo.blueprints import mlp
from p2pfusion.zoo.transformers import vit

CPU16, GPU, GPU16 = Place("cpu", "bfloat16"), Place("cuda"), Place("cuda", "bfloat16")
PLENTY = Wanted(steps=10, free_bytes=10**12)


@pytest.fixture
def prepared() -> Prepared:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return prepare(Task(mlp(4, (16,), 2), (x, (x.sum(1) > 0).long()), batch_size=8, steps_per_round=3), 0)


@pytest.mark.parametrize(("name", "vectors"), [("members", 0), ("msfusion", 3), ("co_s2p", 1)])
def test_what_an_algorithm_keeps_besides_is_part_of_its_load(name: str, vectors: int) -> None:
    """Of Co-S2P the slice that was received last, by which drift is measured."""
    blueprint = vit(4, 2, 1, 8, 2, 2, 8, 2, exits=2)
    made = algorithm(name, prepare(Task(blueprint, (torch.randn(8, 1, 4, 4), torch.zeros(8).long())), 0))
    assert load_at(made, 1.0).extra_vectors == vectors


@pytest.mark.parametrize(
    ("name", "rate", "momentum", "vectors"),
    [
        ("co_s2p", 0.5, 0.0, 0),
        ("co_s2p:transfer=swarm", 0.5, 0.0, 2),  # its values and a network
        ("co_s2p:transfer=swarm", 1.0, 0.0, 0),  # it has the deepest exit
        ("co_s2p:sum=plain", 0.5, 0.0, 1),  # what is contributed
        ("heterofl", 0.5, 0.5, 2),  # its values now and a round ago
        ("full", 1.0, 0.5, 1),  # now they are the slice
        ("co_s2p:transfer=swarm:sum=plain", 0.5, 0.5, 4),
    ],
)
def test_vectors_as_long_as_the_model_are_part_of_the_load_too(
    name: str, rate: float, momentum: float, vectors: int
) -> None:
    blueprint = vit(4, 2, 1, 8, 2, 2, 8, 2, exits=2)
    own = prepare(Task(blueprint, (torch.randn(8, 1, 4, 4), torch.zeros(8).long())), 0)
    load = load_at(algorithm(name, own, terms=Terms(outer_momentum=momentum)), rate)
    assert load.model_scalars == vectors * blueprint.size
    assert load.value_bytes == replace(load, model_scalars=0).value_bytes + 4 * vectors * blueprint.size


class Fake:
    """A trial that only passes time: `step_s` of the whole at a place, with the square of the rate for a slice."""

    def __init__(self, step_s: dict[Place, float], parameters: int = 1000, kept: int = 1000) -> None:
        self.now_s, self.steps = 0.0, 10
        self.tried: list[tuple[Place, float]] = []
        self._step_s, self._parameters, self._kept = step_s, parameters, kept

    def clock(self) -> float:
        return self.now_s

    def load(self, rate: float) -> Load:
        size = round(self._parameters * rate**2)
        return Load(size, size)

    def __call__(self, place: Place, rate: float, seconds: float) -> Step:
        self.tried.append((place, rate))
        step_s = self._step_s[place] * rate**2
        steps = min(STEPS_TIMED_MAX, max(1, -int(-seconds // step_s)))
        self.now_s += steps * step_s
        return Step(step_s, self.load(rate), round(self._kept * rate))


def as_trial(fake: Fake) -> Any:
    return fake


# -- the probe --------------------------------------------------------------------------------------------------------


def test_the_watch_takes_one_step_at_least_and_the_mean_of_those_behind_it() -> None:
    times = iter([0.0, 0.0, 9.0])
    slow = Watch(0.1, lambda: next(times))
    assert [slow.should_stop(), slow.should_stop()] == [False, True]
    assert slow.step_s == 9.0
    times = iter([0.0, 0.0, 5.0, 6.0, 9.0])
    watch = Watch(8.5, lambda: next(times))
    assert [watch.should_stop() for _ in range(4)] == [False, False, False, True]
    assert watch.step_s == 2.0
    endless = Watch(1e9, lambda: 0.0)
    assert [endless.should_stop() for _ in range(STEPS_TIMED_MAX + 1)].index(True) == STEPS_TIMED_MAX


@given(st.floats(1e-5, 10), st.floats(0.01, 1))
def test_no_step_is_begun_that_would_take_much_longer_than_is_left(whole_s: float, seconds: float) -> None:
    fake = Fake({CPU: whole_s})
    costs = ladder(as_trial(fake), CPU, RATES, PLENTY, seconds)
    assert sorted(costs) == list(RATES)
    tried = [rate for _, rate in fake.tried]
    assert tried == list(RATES[: len(tried)])
    assert [costs[rate].is_measured for rate in RATES] == [rate in tried for rate in RATES]
    assert all(costs[rate].seconds >= whole_s * rate**2 * 0.999 for rate in RATES), "never promised faster than it is"
    assert fake.now_s <= (1 + BOLDNESS) * seconds + 2 * whole_s * RATES[0] ** 2 + 1e-9


def test_no_slice_is_tried_that_has_no_room() -> None:
    fake = Fake({CPU: 0.001}, parameters=1_000_000)
    costs = ladder(as_trial(fake), CPU, RATES, Wanted(steps=10, free_bytes=3_000_000), 1.0)
    assert [rate for _, rate in fake.tried] == [0.125, 0.25]
    assert not costs[0.5].is_measured


def test_a_slice_that_fails_ends_the_ladder_and_a_place_that_fails_is_left_out() -> None:
    class Broken(Fake):
        def __call__(self, place: Place, rate: float, seconds: float) -> Step:
            if place == GPU or rate > 0.3:
                raise TrainingError("out of memory")
            return super().__call__(place, rate, seconds)

    fake = Broken({CPU: 0.001, GPU: 0.001})
    assert list(ladder(as_trial(fake), CPU, RATES, PLENTY, 1.0)) == [0.125, 0.25]
    settled = probe(as_trial(fake), (GPU, CPU), RATES, lambda place: None)
    assert (settled.place, settled.rate, settled.failed) == (CPU, 0.25, ("cuda in float32: out of memory",))
    with pytest.raises(TrainingError, match="cuda in float32: out of memory"):
        probe(as_trial(fake), (GPU,), RATES, lambda place: None)


@pytest.mark.parametrize(
    ("step_s", "rates", "place", "rate"),
    [
        ({GPU: 0.01, CPU: 1.0}, (0.5,), GPU, 0.5),  # a GPU is faster at what is large
        ({GPU: 0.01, CPU: 0.001}, (0.5,), CPU, 0.5),  # and slower at what is small
        ({GPU: 0.1, GPU16: 0.09, CPU: 9.0}, RATES, GPU, 1.0),  # a little is not worth the digits
        ({GPU: 0.4, GPU16: 0.1, CPU: 9.0}, RATES, GPU16, 1.0),
        ({CPU: 1.5}, RATES, CPU, 0.5),
        ({CPU: 1e4}, RATES, CPU, 0.125),
    ],
)
def test_the_probe_takes_the_best_place_within_its_time(
    step_s: dict[Place, float], rates: tuple[float, ...], place: Place, rate: float
) -> None:
    fake = Fake(step_s)
    settled = probe(as_trial(fake), tuple(step_s), rates, lambda place: None)
    assert (settled.place, settled.rate) == (place, rate)
    assert settled.probed[0].place == place
    assert len(settled.probed) == len(step_s)
    smallest_s = sum(step_s.values()) * RATES[0] ** 2
    assert fake.now_s <= (1 + BOLDNESS) * PROBE_S + 2 * smallest_s


def test_a_trial_trains_what_the_node_will(prepared: Prepared) -> None:
    ticks = iter(range(1000))
    trial = Trial(prepared, "heterofl", clock=lambda: float(next(ticks)))
    before = prepared.genesis.copy()
    half = trial(CPU, 0.5, 100.0)
    assert half.seconds == 1.0
    assert half.load == trial.load(0.5)
    assert half.load.parameters == mlp(4, (8,), 2).size
    whole = trial(CPU, 1.0, 100.0)
    assert whole.load.parameters == prepared.blueprint.size
    assert whole.batch_bytes > half.batch_bytes > 0
    assert (prepared.genesis == before).all()
    assert Trial(prepared, "full").load(0.5).parameters == prepared.blueprint.size


def test_what_cannot_be_sliced_says_so(prepared: Prepared) -> None:
    terms = Terms(common_rate=0.5)
    loads = {
        name: Trial(prepared, name, terms=terms).load(0.5) for name in ("heterofl", "small", "members", "msfusion")
    }
    assert {name: load.is_sliced for name, load in loads.items()} == {
        "heterofl": True, "small": False, "members": False, "msfusion": True,
    }  # fmt: skip
    assert (loads["members"].networks, loads["members"].networks_all) == (1, 2)
    assert loads["msfusion"].extra_vectors == 3


class Counting:
    """An objective of which every step takes longer once it remembers a training."""

    is_scaled, extra_vectors = True, 1

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.trainings = clock, 0

    def __deepcopy__(self, memo: object) -> Counting:
        return Counting(self.clock)

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        return sub_model

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        return False

    def begin(self, job: Job) -> StepLoss:
        inner = Plain().begin(job)

        def step(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.clock[0] += 2.0 if self.trainings else 1.0
            return inner(module, x, y)

        return step

    def done(self, job: Job, after: Vector) -> None:
        self.trainings += 1


def test_an_objective_that_remembers_is_timed_as_in_later_rounds_at_every_rate(prepared: Prepared) -> None:
    clock = [0.0]
    trial = Trial(prepared, "heterofl", clock=lambda: clock[0])
    objective = Counting(clock)
    trial._algorithm.way = replace(trial._algorithm.way, objective=objective)
    assert [trial(CPU, rate, 100.0).seconds for rate in (0.25, 0.5)] == [2.0, 2.0]
    assert objective.trainings == 0, "the node's own has yet to train"


# -- what a node gets of it -------------------------------------------------------------------------------------------


def test_nothing_is_measured_where_there_is_nothing_to_choose(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe", lambda *_: pytest.fail("a probe nobody asked for"))
    settled = asyncio.run(settle(prepared, "msfusion", device="cpu", rate=0.5))
    assert settled == Settled(CPU, 0.5, 3)


def test_auto_measures_a_real_network(prepared: Prepared) -> None:
    settled = asyncio.run(settle(prepared, "msfusion", device="cpu", rate="auto"))
    assert settled.rate == 1.0, "a network this small is trained whole by anything"
    assert settled.place.device == "cpu"
    assert settled.probed[0].place == settled.place


class Recorder:
    """Stands for the node: only what it was made of is looked at."""

    made: tuple[Any, dict[str, Any]]

    def __init__(self, config: Any, algorithm: Any, **parts: Any) -> None:
        Recorder.made = algorithm, parts

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing was opened."""


@pytest.fixture
def join(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Place, float]]:
    monkeypatch.setattr(lan, "Node", Recorder)

    def call(**options: Any) -> tuple[Place, float]:
        async def run() -> None:
            async with lan.lan_node(prepared, listen="127.0.0.1:0", **options):
                pass

        asyncio.run(run())
        algorithm, parts = Recorder.made
        return algorithm.prepared.place, parts["rate"]

    return call


def test_a_node_trains_where_it_was_settled(join: Callable[..., tuple[Place, float]]) -> None:
    assert join(device="cpu") == (CPU, 0.5)
    assert join(device="cpu", slice="auto")[1] == 1.0
    assert join(device=Settled(CPU16, 0.25, 3)) == (CPU16, 0.25)
    for wrong in (0, 1.5, "half"):
        with pytest.raises(UsageError, match="or 'auto'"):
            join(slice=wrong)
    with pytest.raises(UsageError, match="choose one of auto"):
        join(device="tpu")


def test_trials_do_not_touch_the_owners_chance(prepared: Prepared) -> None:
    state = torch.get_rng_state()
    batches = prepared.train.batches(random.Random(1))
    first = next(batches)[0]
    asyncio.run(settle(prepared, "msfusion", device="cpu", rate="auto"))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, next(prepared.train.batches(random.Random(1)))[0])

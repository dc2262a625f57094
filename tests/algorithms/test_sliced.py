"""The parameter round with a scripted context: seat -> sub-model -> train -> what changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.algorithms.base import Vector
from p2pfusion.algorithms.presets import algorithm
from p2pfusion.algorithms.sliced import Sliced, Way
from p2pfusion.core import schemes
from p2pfusion.core.drift import FACTOR_MAX, Drift
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.task import Prepared, Task, prepare
from p2pfusion.core.training import evaluate, train
from p2pfusion.errors import TrainingError
from p2pfusion.sim.loop import run

T = TypeVar("T")
SEAT = Seat(rank=1, peers=3, round=4, rates=(0.5, 0.5, 0.5))
STEPS = 3


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    y = x[:, :3].argmax(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    return prepare(Task(model, (x, y), (x, y), batch_size=8, steps_per_round=STEPS), seed=0)


@dataclass
class Script:
    """A `RoundContext` that remembers what the round did, in order."""

    head: Vector
    prepared: Prepared
    seat: Seat = SEAT
    stops: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    did: list[str] = field(default_factory=list)
    extracted: SubModel | None = None
    given: Vector | None = None
    contributed: tuple[SubModel, Vector, int, float] | None = None
    cost_s: float = 0.0
    steps_max: int = 1000
    later: Vector | None = None
    worth: float | None = None

    @property
    def round(self) -> int:
        return self.seat.round

    def steps(self, wanted: int) -> int:
        return min(wanted, self.steps_max)

    async def extract(self, sub_model: SubModel) -> Vector:
        self.did.append("extract")
        self.extracted = sub_model
        self.given = extract(self.prepared.blueprint, self.head, sub_model)
        return self.given

    async def compute(self, work: Callable[[], T], cost_s: float) -> T:
        self.did.append("compute")
        self.cost_s += cost_s
        return work()

    async def newer(self, sub_model: SubModel) -> Vector | None:
        self.did.append("newer")
        return None if self.later is None else extract(self.prepared.blueprint, self.later, sub_model)

    async def contribute(
        self,
        sub_model: SubModel,
        delta: Vector,
        samples: int,
        loss: float,
        worth: float = 1.0,
        trained: SubModel | None = None,
    ) -> None:
        self.worth = worth
        self.did.append("contribute")
        self.contributed = sub_model, delta, samples, loss

    def should_stop(self) -> bool:
        return self.stops


def script(prepared: Prepared, **changes: object) -> Script:
    return replace(Script(prepared.genesis + np.float32(0.25), prepared), **changes)


def done(sliced: Sliced, **changes: object) -> Script:
    ctx = script(sliced.prepared, **changes)
    run(sliced.round(ctx))
    return ctx


def test_a_round_extracts_trains_and_contributes_the_difference(prepared):
    sliced = algorithm("double_shift", prepared, seed=5)
    ctx = done(sliced)
    assert ctx.did == ["extract", "compute", "contribute"]
    assert ctx.contributed is not None
    assert ctx.given is not None
    sub_model, delta, samples, loss = ctx.contributed
    blueprint = prepared.blueprint
    assert sub_model == ctx.extracted == schemes.double_shift()(blueprint, SEAT, random.Random(0))
    assert delta.dtype == np.float32
    assert delta.shape == (sub_model.size(blueprint),)
    assert 0 < sub_model.share(blueprint) < 1
    assert samples == STEPS * 8
    assert loss > 0
    rng = random.Random(5)
    batches, seed = prepared.train.batches(rng), rng.getrandbits(32)
    by_hand = train(blueprint, sub_model, ctx.given, batches, prepared.recipe, seed=seed)
    assert delta.tobytes() == (by_hand.after - ctx.given).tobytes()
    assert (samples, loss) == (by_hand.samples, by_hand.loss)
    assert np.abs(delta).max() > 0


def test_the_head_is_not_changed(prepared):
    ctx = script(prepared)
    before = ctx.head.copy()
    run(algorithm("full", prepared).round(ctx))
    assert ctx.head.tobytes() == before.tobytes()
    assert ctx.given is not None
    assert ctx.given.tobytes() == before.tobytes()


def test_every_round_goes_on_in_the_data(prepared):
    sliced = algorithm("full", prepared)
    first, second = (done(sliced).contributed for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[1].tobytes() != second[1].tobytes()
    again = done(algorithm("full", prepared)).contributed
    assert again is not None
    assert again[1].tobytes() == first[1].tobytes(), "the same seed, the same round"


def test_another_seed_learns_from_other_batches(prepared):
    deltas = [done(algorithm("full", prepared, seed=seed)).contributed for seed in (1, 2)]
    assert deltas[0] is not None
    assert deltas[1] is not None
    assert deltas[0][1].tobytes() != deltas[1][1].tobytes()


def test_the_virtual_cost_is_the_share_of_a_full_step(prepared):
    full = done(algorithm("full", prepared))
    assert full.cost_s == pytest.approx(0.01 * STEPS)
    sliced = done(Sliced(prepared, schemes.static(), step_cost_s=2.0))
    assert sliced.extracted is not None
    assert sliced.cost_s == pytest.approx(2.0 * STEPS * sliced.extracted.share(prepared.blueprint))


def test_a_round_takes_as_many_steps_as_there_is_time_for(prepared):
    ctx = done(algorithm("full", prepared), steps_max=2)
    assert ctx.contributed is not None
    assert ctx.contributed[2] == 2 * 8
    assert ctx.cost_s == pytest.approx(0.01 * 2)
    more = done(algorithm("full", prepared), steps_max=7).contributed
    assert more is not None
    assert more[2] == STEPS * 8, "never more than the task's"


def test_the_data_goes_on_where_a_shorter_round_left_it(prepared):
    sliced, rng = algorithm("full", prepared, seed=5), random.Random(5)
    batches = prepared.train.batches(rng)
    for steps in (1, 2):
        ctx = done(sliced, steps_max=steps)
        assert ctx.contributed is not None
        assert ctx.given is not None
        recipe = replace(prepared.recipe, steps=steps)
        seed = rng.getrandbits(32)
        by_hand = train(prepared.blueprint, prepared.blueprint.whole(), ctx.given, batches, recipe, seed=seed)
        assert ctx.contributed[1].tobytes() == (by_hand.after - ctx.given).tobytes()


def test_who_is_asked_to_stop_trains_no_further(prepared):
    ctx = done(algorithm("full", prepared), stops=True)
    assert ctx.contributed is not None
    _, delta, samples, loss = ctx.contributed
    assert (samples, loss) == (0, 0.0)
    assert not delta.any()


def test_training_that_diverges_raises(prepared):
    wild = replace(prepared, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e38), clip_norm=None)
    ctx = script(wild)
    with pytest.raises(TrainingError):
        run(algorithm("full", wild).round(ctx))
    assert ctx.contributed is None


def test_evaluation_is_of_the_whole_model(prepared):
    sliced = algorithm("double_shift", prepared)
    assert (sliced.blueprint, sliced.genesis is prepared.genesis) == (prepared.blueprint, True)
    found = sliced.evaluate(prepared.genesis)
    assert prepared.validation is not None
    assert found is not None
    assert (found.widths, found.served) == ({}, None)
    assert found.accuracy == evaluate(prepared.blueprint, prepared.genesis, prepared.validation)
    assert algorithm("double_shift", replace(prepared, validation=None)).evaluate(prepared.genesis) is None


def test_rounds_learn(prepared):
    """FedAvg of one: the loss falls when each round starts from where the last one ended."""
    sliced, head, losses = algorithm("full", prepared), prepared.genesis.copy(), []
    for _ in range(40):
        ctx = done(sliced, head=head)
        assert ctx.contributed is not None
        head = head + ctx.contributed[1]
        losses.append(ctx.contributed[3])
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_learning_rate_follows_the_schedule(prepared):
    """Round 4 at factor 0 changes nothing; a factor beside the optimizer's rate is that rate times the factor."""
    still = replace(prepared, lr_schedule=lambda round_index: 0.0 if round_index == SEAT.round else 1.0)
    ctx = done(algorithm("double_shift", still))
    assert ctx.contributed is not None
    assert not ctx.contributed[1].any()
    half = replace(prepared, lr_schedule=lambda round_index: 0.5)
    slow = replace(prepared, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.025, momentum=0.9))
    deltas = [done(algorithm("double_shift", one)).contributed for one in (half, slow)]
    assert deltas[0] is not None
    assert deltas[1] is not None
    assert np.allclose(deltas[0][1], deltas[1][1], atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_contribution_is_weighed_by_what_the_model_moved_meanwhile(prepared, momentum):
    """By hand from the second round on: the drift is of the slice alone, even where the whole head was extracted."""
    way = Way(scheme=schemes.static(), weighing=Drift(), outer_momentum=momentum)
    sliced, start = Sliced(prepared, way), prepared.genesis
    first = done(sliced, head=start)
    assert (first.did, first.worth) == (["extract", "compute", "newer", "compute", "contribute"], 1.0)
    # The model moves by a half in every element and round; in the last one it is a quarter away when I have trained.
    for round_index, head, later, late in ((5, start + 0.5, None, 0.0), (6, start + 1, start + 0.75, 0.5)):
        ctx = done(sliced, head=head, later=later, seat=replace(SEAT, round=round_index))
        assert ctx.contributed is not None
        _, delta, _, _ = ctx.contributed
        size = min(max(float(np.abs(delta).mean()) / 0.5, 1 / FACTOR_MAX), FACTOR_MAX)
        assert ctx.worth == pytest.approx(size / (1 + late), rel=1e-4)


def test_who_does_not_weigh_asks_for_nothing_newer(prepared):
    ctx = done(algorithm("full", prepared), later=prepared.genesis)
    assert "newer" not in ctx.did
    assert ctx.worth == 1.0


@pytest.mark.parametrize("schedule", [lambda _: -1.0, lambda _: float("nan"), lambda _: "fast"])
def test_a_schedule_that_is_no_factor_is_refused(prepared, schedule):
    with pytest.raises(TrainingError, match="lr_schedule"):
        done(algorithm("double_shift", replace(prepared, lr_schedule=schedule)))

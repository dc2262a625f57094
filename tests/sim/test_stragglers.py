"""One of eight devices twenty times slower: it holds nobody up, and its work counts. Light, and with real training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from statistics import median

import numpy as np
import pytest
import torch

from p2pfusion.algorithms.base import Algorithm, RoundContext
from p2pfusion.algorithms.presets import algorithm
from p2pfusion.config import CadenceConfig
from p2pfusion.core.submodel import extract
from p2pfusion.core.task import prepare
from p2pfusion.sim.faults import Crash
from p2pfusion.sim.light import LightLearner, light_blueprint
from p2pfusion.sim.world import Learner, LinkModel, Outcome, Result, Scenario, World, simulate
from p2pfusion.wire.messages import PeerId
from p2pfusion.zoo.tasks import digits_task

NODES, SLOW = 8, 7
STEPS = 20
ONE_SLOW = (1.0,) * SLOW + (0.05,)
LAN = LinkModel(latency_s=0.005, jitter_s=0.005)
WITHOUT = CadenceConfig(round_min_s=0.0, adapt_steps=False)


class SteppingLearner(LightLearner):
    """Its round is `STEPS` steps of `step_s` virtual seconds, of which it takes as many as there is time for."""

    step_s = 0.05

    async def round(self, ctx: RoundContext) -> None:
        sub_model = self._scheme(self._blueprint, ctx.seat, ctx.rng)
        before = await ctx.extract(sub_model)
        steps = ctx.steps(STEPS)
        target = extract(self._blueprint, self._target, sub_model)
        delta = np.float32(0.5 * steps / STEPS) * (target - before)
        delta = await ctx.compute(lambda: delta, self.step_s * steps)
        await ctx.contribute(sub_model, delta, samples=32 * steps, loss=float(np.abs(delta).mean()))


def stepping() -> Learner:
    blueprint = light_blueprint()
    return lambda index: SteppingLearner(index, blueprint=blueprint)


class Weights:
    """A watch: what every author's work in the sealed rounds of the first node weighs together."""

    def __init__(self) -> None:
        self.slow: PeerId = b""
        self.of: dict[PeerId, int] = {}
        self.stale: dict[PeerId, list[int]] = {}
        self._tip = 0

    def __call__(self, world: World, index: int) -> None:
        if SLOW in world.nodes:
            self.slow = world.nodes[SLOW].state.me
        ledger = world.nodes[0].state.ledger if 0 in world.nodes else None
        while ledger is not None and self._tip < ledger.tip.round:
            self._tip += 1
            for entry in ledger.sealed_entries(self._tip) or ():
                manifest = entry.manifest
                self.of[manifest.peer] = self.of.get(manifest.peer, 0) + manifest.weight
                self.stale.setdefault(manifest.peer, []).append(manifest.round - manifest.base_round)

    @property
    def share(self) -> float:
        """The slow device's share of all weight."""
        return self.of.get(self.slow, 0) / sum(self.of.values())


def round_s(outcomes: tuple[Outcome, ...]) -> float:
    """Median time from report to report, the first rounds left out."""
    gaps_s = [
        after_s - before_s
        for outcome in outcomes
        for before_s, after_s in zip(outcome.reported_s[2:], outcome.reported_s[3:], strict=False)
    ]
    return median(gaps_s)


@cache
def played(speeds: tuple[float, ...], cadence: CadenceConfig, rounds: int = 45) -> tuple[Result, Weights]:
    watch = Weights()
    scenario = Scenario(nodes=NODES, rounds=rounds, link=LAN, speeds=speeds, cadence=cadence)
    return simulate(scenario, stepping(), 1, watch=watch, is_checked=False), watch


ADAPTED = CadenceConfig(round_min_s=0.0)


@pytest.mark.parametrize("cadence", [ADAPTED, WITHOUT], ids=["adapted", "all steps"])
def test_a_slow_device_holds_nobody_up_and_its_work_counts(cadence):
    calm, _ = played((), cadence)
    result, weights = played(ONE_SLOW, cadence)
    assert round_s(result.outcomes[:SLOW]) <= 1.2 * round_s(calm.outcomes)
    assert weights.share > 0
    assert len(result.chains) == len(result.model_hashes) == 1
    assert all(outcome.done is not None for outcome in result.outcomes)


def test_with_fewer_steps_it_takes_part_in_nearly_every_round():
    result, weights = played(ONE_SLOW, ADAPTED)
    steps = [report.steps for report in result.outcomes[SLOW].reports]
    assert steps[0] == STEPS
    assert set(steps[2:]) == {1}
    assert weights.share > 0.05, "of the 0.125 that would be its part"
    assert max(weights.stale[weights.slow][3:]) <= 2
    without, all_steps = played(ONE_SLOW, WITHOUT)
    assert len(without.outcomes[SLOW].reports) < 5
    assert all_steps.share < 0.02
    assert max(all_steps.stale[all_steps.slow]) > 10


def test_a_slow_device_publishes_to_the_round_that_is_current_when_it_is_done():
    result, weights = played(ONE_SLOW, WITHOUT)
    slow = result.outcomes[SLOW]
    for report, at_s in zip(slow.reports, slow.reported_s, strict=True):
        newest = [
            other.round
            for outcome in result.outcomes[:SLOW]
            for other, done_s in zip(outcome.reports, outcome.reported_s, strict=True)
            if done_s <= at_s
        ]
        assert report.round >= max(newest, default=0) - 1
    assert len(weights.stale[weights.slow]) == len(slow.reports), "all of it is in the chain"


def test_equal_devices_take_all_their_steps():
    result, weights = played((), ADAPTED)
    assert {report.steps for outcome in result.outcomes for report in outcome.reports} == {STEPS}
    without, _ = played((), WITHOUT)
    assert result.model_hashes == without.model_hashes, "nothing changes for them"
    assert weights.share == pytest.approx(1 / NODES)


def test_loss_and_latency_make_nobody_take_less():
    link = LinkModel(latency_s=0.05, jitter_s=0.04, loss=0.1)
    result = simulate(Scenario(nodes=NODES, rounds=25, link=link), stepping(), 3, is_checked=False)
    steps = [report.steps for outcome in result.outcomes for report in outcome.reports]
    assert sum(each == STEPS for each in steps) > 0.97 * len(steps)


@pytest.mark.parametrize("nodes", [2, 3])
def test_among_few_devices_the_fast_ones_wait_only_until_the_slow_one_fits_in(nodes):
    speeds = (1.0,) * (nodes - 1) + (0.05,)
    result = simulate(Scenario(nodes=nodes, rounds=60, link=LAN, speeds=speeds), stepping(), 1)
    gaps_s = np.diff(result.outcomes[0].reported_s)
    if nodes == 2:
        assert max(gaps_s[:4]) > 9, "the one other is waited for while there is nobody else to learn from"
    assert median(gaps_s[10:]) < 1.3
    assert {report.steps for report in result.outcomes[-1].reports[5:]} == {1}


def test_a_round_ends_whatever_the_others_do():
    """Three of eight fall silent: no round of the others takes longer than patience and the time to notice."""
    base = Scenario(nodes=NODES, rounds=30, link=LAN)
    crashed = replace(base, crashes=tuple(Crash(at_s=12.0, node=index) for index in (1, 3, 5)))
    result = simulate(crashed, stepping(), 2)
    for index in (0, 2, 4, 6, 7):
        outcome = result.outcomes[index]
        assert outcome.done is not None
        gaps_s = np.diff(outcome.reported_s)
        for report, gap_s in zip(outcome.reports[1:], gaps_s, strict=True):
            assert gap_s < STEPS * SteppingLearner.step_s + report.patience_s + 0.5
        assert {report.steps for report in outcome.reports} == {STEPS}


# -- with real training -----------------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_criterion_with_real_digits():
    parts = [prepare(digits_task(), 0, (index, NODES)) for index in range(NODES)]

    def learner(index: int) -> Algorithm:
        return algorithm("double_shift", parts[index], seed=index)

    link, watch = LinkModel(latency_s=0.002), Weights()
    calm = simulate(Scenario(nodes=NODES, rounds=6, link=link), learner, 1)
    result = simulate(
        Scenario(nodes=NODES, rounds=28, link=link, speeds=ONE_SLOW), learner, 1, watch=watch, is_checked=False
    )
    assert round_s(result.outcomes[:SLOW]) <= 1.2 * round_s(calm.outcomes)
    assert watch.share > 0.03
    assert {report.steps for outcome in calm.outcomes for report in outcome.reports} == {15}
    steps = [report.steps for report in result.outcomes[SLOW].reports]
    assert steps[0] == 15
    assert max(steps[2:]) <= 5
    done = [outcome.done for outcome in result.outcomes]
    assert all(each is not None and each.accuracy is not None and each.accuracy > 0.8 for each in done)

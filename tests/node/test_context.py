"""One round's context: what an algorithm is given, what is measured meanwhile, and what becomes of its work."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pfusion.config import CadenceConfig, NodeConfig
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import extract
from p2pfusion.errors import LocalError
from p2pfusion.node.context import Context
from p2pfusion.sim.loop import run
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, Parts, copied, ones, parts, until
from tests.swarm.made import peer

SEAT = Seat(rank=0, peers=1, round=1, rates=(0.5,))


def context(one: Parts, *, is_stopping: bool = False) -> Context:
    return Context(one.state, one.authoring, SEAT, lambda: is_stopping)


def test_a_round_contributes_once():
    async def main() -> None:
        one = parts()
        ctx = context(one)
        assert (ctx.round, ctx.seat, ctx.rng) == (1, SEAT, one.state.doors.rng)
        before = await ctx.extract(SLICES[1])
        assert before.shape == (SLICES[1].size(BLUEPRINT),)
        assert await ctx.compute(lambda: 7, 2.0) == 7
        assert asyncio.get_running_loop().time() == 2.0
        await ctx.contribute(SLICES[1], ones(SLICES[1]), 10, 0.5)
        assert ctx.published_round == 1
        assert ctx.published is not None
        assert (ctx.published.sub_model, ctx.published.loss, ctx.published.samples) == (SLICES[1], 0.5, 10)
        with pytest.raises(LocalError, match="at most once"):
            await ctx.contribute(SLICES[1], ones(SLICES[1]), 10, 0.5)
        assert len(one.state.ledger.entries) == 1

    run(main)


def test_who_is_leaving_publishes_nothing():
    async def main() -> None:
        one = parts()
        ctx = context(one, is_stopping=True)
        assert ctx.should_stop()
        await ctx.contribute(WHOLE, ones(), 10, 0.5)
        assert (ctx.published_round, one.state.ledger.entries) == (None, {})

    run(main)


def test_staleness_counts_from_what_was_extracted():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        ctx = context(one)
        await ctx.extract(WHOLE)
        entry = await other.publish(ones())
        assert entry is not None
        copied(entry, one)
        one.state.ledger.saw_round(3)
        await ctx.contribute(WHOLE, ones(), 10, 0.5)
        (mine,) = one.state.ledger.counted(3)
        assert (mine.manifest.base_round, ctx.published_round) == (0, 3)

    run(main)


def test_what_is_newer_is_asked_for_once_the_round_is_left_behind():
    """None while the floor has not moved; then that part of the head, without what I am about to publish."""

    async def main() -> None:
        one, other = parts(), parts(index=2)
        ctx = context(one)
        before = await ctx.extract(WHOLE)
        entry = await other.publish(ones())
        assert entry is not None
        copied(entry, one)
        assert one.state.ledger.floor == ctx.round
        assert await ctx.newer(SLICES[1]) is None
        one.state.ledger.saw_round(3)
        assert one.state.ledger.floor > ctx.round
        now = await ctx.newer(SLICES[1])
        assert now is not None
        moved = now - extract(BLUEPRINT, before, SLICES[1])
        assert moved.tolist() == pytest.approx([1.0] * SLICES[1].size(BLUEPRINT), abs=1e-6)
        assert ctx._base.round == 0, "what I train began from is still what I extracted"

    run(main)


def test_the_generator_is_the_nodes_own():
    async def main() -> None:
        one = parts(index=3)
        assert context(one).rng.random() == random.Random(3).random()

    run(main)


# -- steps ------------------------------------------------------------------------------------------------------------


def heard_of_others(one: Parts, took_s: float) -> None:
    """Two others that publish a round every so many seconds."""
    pace = one.state.cadence.pace
    pace.expect([peer(8), peer(9)])
    for round_ in range(1, 7):
        pace.heard(round_, peer(8), 640, round_ * took_s)
        pace.heard(round_, peer(9), 640, round_ * took_s)


async def worked(one: Parts, wanted: int, step_s: float, *, extra_s: float = 0.0) -> Context:
    """One round of a device that needs so long for a step."""
    ctx = context(one)
    await ctx.extract(WHOLE)
    steps = ctx.steps(wanted)
    await ctx.compute(lambda: None, step_s * steps)
    await until(one.state.now_s() + extra_s)
    await ctx.contribute(WHOLE, ones(), 32 * steps, 0.5)
    return ctx


def steps_of(ctx: Context) -> int:
    assert ctx.published is not None
    return ctx.published.steps


def test_a_slow_device_is_given_fewer_steps_once_it_knows_itself():
    async def main() -> None:
        one = parts()
        heard_of_others(one, 1.0)
        assert [steps_of(await worked(one, 20, 1.0)) for _ in range(3)] == [20, 1, 1]

    run(main)


def test_what_a_round_takes_besides_training_is_measured_too():
    async def main() -> None:
        one = parts()
        heard_of_others(one, 2.0)
        assert [steps_of(await worked(one, 20, 0.2, extra_s=1.1)) for _ in range(2)] == [20, 4]

    run(main)


def test_switched_off_the_steps_are_the_tasks():
    async def main() -> None:
        one = parts(config=NodeConfig(cadence=CadenceConfig(adapt_steps=False)))
        heard_of_others(one, 1.0)
        assert [steps_of(await worked(one, 20, 1.0)) for _ in range(3)] == [20, 20, 20]

    run(main)


def test_a_round_has_one_answer_and_it_is_never_more_than_wanted():
    async def main() -> None:
        ctx = context(parts())
        assert [ctx.steps(wanted) for wanted in (20, 50, 7)] == [20, 20, 7]
        with pytest.raises(LocalError, match="at least one"):
            ctx.steps(0)

    run(main)


def test_an_algorithm_that_never_asks_teaches_nothing():
    async def main() -> None:
        one = parts()
        heard_of_others(one, 1.0)
        ctx = context(one)
        await ctx.extract(WHOLE)
        await ctx.compute(lambda: None, 50.0)
        await ctx.contribute(WHOLE, ones(), 10, 0.5)
        assert steps_of(ctx) == 0
        assert one.state.cadence.pace.steps(20) == 20

    run(main)


def test_work_nobody_would_accept_teaches_all_the_same():
    """A device slower than staleness allows would otherwise never be heard: it takes fewer steps from then on."""

    async def main() -> None:
        one = parts()
        heard_of_others(one, 1.0)
        ctx = context(one)
        await ctx.extract(WHOLE)
        steps = ctx.steps(20)
        await ctx.compute(lambda: None, 100.0)
        for round_ in (60, 120):
            one.state.ledger.saw_round(round_)
            one.state.ledger.published(round_)
        await ctx.contribute(WHOLE, ones(), 32 * steps, 0.5)
        assert ctx.published_round is None
        assert [warning.code for warning in one.warnings()] == ["refused-own"]
        assert context(one).steps(20) == 1

    run(main)

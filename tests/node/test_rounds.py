"""One round's context, and when a node may begin and leave."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from p2pfusion.config import GossipConfig, NodeConfig
from p2pfusion.core.schemes import Seat
from p2pfusion.errors import LocalError, TooFewPeers, Unreachable
from p2pfusion.node.rounds import Context, Rounds, coverage
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire.messages import ContributionId, Role
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, Parts, Wire, at_work, copied, grown, ones, parts, until
from tests.swarm.made import report, seal

SEAT = Seat(rank=0, peers=1, round=1, rates=(0.5,))


def context(one: Parts, *, is_stopping: bool = False) -> Context:
    return Context(one.state, one.authoring, SEAT, lambda: is_stopping)


def rounds(one: Parts) -> tuple[Rounds, list[ContributionId]]:
    announced: list[ContributionId] = []
    return Rounds(one.state, one.authoring, one.chain, announced.append, 0.5), announced


# -- the context ------------------------------------------------------------------------------------------------------


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


def test_coverage_is_the_share_somebody_touched():
    async def main() -> None:
        state = parts().state
        assert coverage(state, []) == 0.0
        assert coverage(state, [WHOLE]) == 1.0
        both = SLICES[1].size(BLUEPRINT) + SLICES[2].size(BLUEPRINT) - SLICES[1].overlap(SLICES[2], BLUEPRINT)
        assert coverage(state, [SLICES[1], SLICES[2], SLICES[1]]) == pytest.approx(both / BLUEPRINT.size)

    run(main)


# -- beginning --------------------------------------------------------------------------------------------------------


async def begins_at(one: Parts) -> float:
    """When the node begins to train."""
    one.state.role = "syncing"
    await rounds(one)[0]._gather()
    assert one.state.role == "trains"
    return asyncio.get_running_loop().time()


def come(one: Parts, member: int, role: Role = "syncing") -> None:
    one.state.tell(one.state.membership.observe(report(member, role=role), one.state.now_s()) or [])


def test_alone_a_node_begins_after_the_quiet_period():
    async def main() -> float:
        return await begins_at(parts())

    assert run(main) == pytest.approx(2.0, abs=0.21)


def test_each_newcomer_starts_the_quiet_period_anew():
    async def main() -> float:
        one, loop = parts(), asyncio.get_running_loop()
        for member, at_s in ((2, 1.0), (3, 2.5)):
            loop.call_at(at_s, come, one, member)
        return await begins_at(one)

    assert run(main) == pytest.approx(4.5, abs=0.21)


def test_a_node_waits_for_as_many_as_it_was_told():
    async def main() -> float:
        one, loop = parts(config=NodeConfig(min_peers=3, wait_s=100.0)), asyncio.get_running_loop()
        loop.call_at(1.0, come, one, 2)
        loop.call_at(50.0, come, one, 3)
        return await begins_at(one)

    assert run(main) == pytest.approx(52.0, abs=0.21)


def test_too_few_after_the_wait():
    async def main() -> None:
        one, loop = parts(config=NodeConfig(min_peers=3, wait_s=7.0)), asyncio.get_running_loop()
        loop.call_at(1.0, come, one, 2)
        with pytest.raises(TooFewPeers, match=r"met 2 of 3 peers \(yourself counted\) in 7 s") as caught:
            await begins_at(one)
        assert caught.value.exit_status == 4
        assert loop.time() == pytest.approx(7.0, abs=0.21)

    run(main)


def test_enough_in_time_may_be_quiet_after_the_wait():
    async def main() -> float:
        one, loop = parts(config=NodeConfig(min_peers=2, wait_s=5.0)), asyncio.get_running_loop()
        loop.call_at(4.9, come, one, 2)
        return await begins_at(one)

    assert run(main) == pytest.approx(6.9, abs=0.21)


def test_who_comes_to_a_run_under_way_begins_where_the_others_stand():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 3)
        one.meet(other)
        async with asyncio.TaskGroup() as group:
            group.create_task(at_work(one, 3.0))
            assert await begins_at(one) < 1.0
            assert one.state.ledger.tip == other.state.ledger.tip
            assert one.state.ledger.floor == 4

    run(main)


@pytest.mark.parametrize("how", ["no answer", "no links"])
def test_who_cannot_reach_what_the_others_have_does_not_begin(how):
    """It would publish from genesis, and hold up everybody's seal: it keeps trying."""

    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 3)
        one.meet(other)

        def fault(address: str, request: Request) -> Reply | None:
            if asyncio.get_running_loop().time() > 20.0:
                return None
            if how == "no answer":
                raise Unreachable("away")
            return Reply(404, b"unknown")

        wire.fault = fault
        async with asyncio.TaskGroup() as group:
            group.create_task(at_work(one, 30.0))
            beginning = group.create_task(begins_at(one))
            await until(19.0)
            assert (one.state.role, beginning.done()) == ("syncing", False)
            assert await beginning < 25.0
        assert one.state.ledger.tip == other.state.ledger.tip

    run(main)


# -- leaving ----------------------------------------------------------------------------------------------------------


def ended(one: Parts, at_round: int) -> Rounds:
    one.state.learn_stop(at_round)
    while one.state.ledger.tip.round < at_round:
        seal(one.state.ledger)
    return rounds(one)[0]


def test_alone_one_may_leave_when_all_is_sealed():
    async def main() -> None:
        one = parts()
        one.state.learn_stop(3)
        assert not rounds(one)[0]._may_leave()
        assert ended(one, 3)._may_leave()

    run(main)


def test_one_leaves_when_all_stand_on_the_same_chain():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        leaving = ended(one, 2)
        one.meet(other)
        assert not leaving._may_leave()
        ended(other, 2)
        one.meet(other)
        assert leaving._may_leave()

    run(main)


def test_one_leaves_when_the_others_do_not_come_round():
    async def main() -> None:
        one, other = parts(config=NodeConfig(gossip=GossipConfig(dead_s=12.0))), parts(index=2)
        leaving = ended(one, 2)
        one.meet(other)
        one.chain.last_seal_s = 1.0
        await until(12.9)
        assert not leaving._may_leave()
        await until(13.0)
        assert leaving._may_leave()

    run(main)


def test_without_an_end_nobody_leaves():
    async def main() -> None:
        assert not rounds(parts())[0]._may_leave()

    run(main)


# -- the seat ---------------------------------------------------------------------------------------------------------


def test_the_seat_is_my_place_among_those_who_train():
    async def main() -> None:
        one = parts(index=5)
        for member, role in ((2, "trains"), (3, "draining"), (4, "trains"), (9, "trains")):
            one.state.membership.observe(report(member, role=role), 0.0)
        one.state.ledger.saw_round(6)
        seat = rounds(one)[0]._seat(one.state.membership.view(0.0))
        assert seat == Seat(rank=2, peers=4, round=6, rates=(0.5,) * 4)

    run(main)


def test_a_head_is_named_by_its_chain_and_its_open_sets():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        names = [rounds(one)[0]._head()]
        for author in (one, other):
            entry = await author.publish(np.asarray(ones(), np.float32))
            assert entry is not None
            copied(entry, one)
            names.append(rounds(one)[0]._head())
        for entry in one.state.ledger.counted(1):
            copied(entry, other)
        assert rounds(other)[0]._head() == names[-1]
        seal(one.state.ledger)
        names.append(rounds(one)[0]._head())
        assert len(set(names)) == 4

    run(main)


def test_the_generator_is_the_nodes_own():
    async def main() -> None:
        one = parts(index=3)
        assert context(one).rng.random() == random.Random(3).random()

    run(main)

"""When a node may begin, how long a round lasts, and when it may leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.algorithms.base import Published
from p2pfusion.config import AHEAD_ROUNDS_MAX, CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.core.schemes import Seat
from p2pfusion.errors import TooFewPeers, Unreachable
from p2pfusion.node.entering import enter
from p2pfusion.node.reporting import Awaited, Reporting, coverage
from p2pfusion.node.rounds import OUTRUN_ROUNDS, Rounds
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.loop import run
from p2pfusion.sim.world import Scenario, World, simulate
from p2pfusion.swarm.membership import View
from p2pfusion.wire.messages import ContributionId, Role
from tests.node.parts import BLUEPRINT, SLICES, WHOLE, Parts, Wire, at_work, copied, grown, ones, parts, until
from tests.swarm.made import report, seal


def rounds(one: Parts) -> tuple[Rounds, list[ContributionId]]:
    announced: list[ContributionId] = []
    return Rounds(one.state, one.authoring, one.chain, announced.append, 0.5), announced


# -- one round --------------------------------------------------------------------------------------------------------


def test_coverage_is_the_share_somebody_touched():
    async def main() -> None:
        state = parts().state
        assert coverage(state, []) == 0.0
        assert coverage(state, [WHOLE]) == 1.0
        both = SLICES[1].size(BLUEPRINT) + SLICES[2].size(BLUEPRINT) - SLICES[1].overlap(SLICES[2], BLUEPRINT)
        assert coverage(state, [SLICES[1], SLICES[2], SLICES[1]]) == pytest.approx(both / BLUEPRINT.size)

    run(main)


async def ready_s(one: Parts, round_: int = 1) -> float:
    """How long the node waits after publishing, with those it knows."""
    begin_s = one.state.now_s()
    expected = one.state.membership.view(begin_s).trainers()
    others = [peer_ for peer_ in expected if peer_ != one.me]
    one.state.cadence.published(round_, others, one.state.arrived(round_), begin_s)
    subject = rounds(one)[0]
    subject._awaited.append(Awaited(Published(WHOLE, 0.0, 1), round_, expected, begin_s, begin_s))
    await subject._until_s(begin_s + one.state.config.cadence.round_min_s)
    await subject._leave(0, begin_s)
    return one.state.now_s() - begin_s


async def published_among(others: int, cadence: CadenceConfig) -> Parts:
    """A node that trains among others and has published to round 1; they have not."""
    one = parts(config=NodeConfig(cadence=cadence))
    for member in range(2, others + 2):
        come(one, member, role="trains")
    assert await one.publish(ones()) is not None
    return one


STRICT = CadenceConfig(quorum=1.0, patience_s=3.0, round_min_s=0.0)


def test_a_round_ends_with_patience_whatever_the_others_do():
    async def main() -> None:
        one = await published_among(3, STRICT)
        assert await ready_s(one) == pytest.approx(3.0, abs=0.01)

    run(main)


def test_even_when_they_keep_ringing():
    async def main() -> None:
        one = await published_among(3, STRICT)
        loop = asyncio.get_running_loop()
        for tenth in range(60):
            loop.call_at(tenth / 10, one.state.stir)
        for tenth in range(1, 30):
            loop.call_at(tenth / 10, come, one, 10 + tenth, "trains")
        assert await ready_s(one) == pytest.approx(3.0, abs=0.01)

    run(main)


def test_no_round_is_shorter_than_its_least_time():
    async def main() -> None:
        one = await published_among(0, CadenceConfig(round_min_s=0.3))
        assert await ready_s(one) == pytest.approx(0.3, abs=0.01)

    run(main)


def test_nobody_waits_for_a_suspect():
    async def main() -> None:
        one = await published_among(1, STRICT)
        loop = asyncio.get_running_loop()
        view = one.state.membership.view

        def without(now_s: float) -> View:
            found = view(now_s)
            return replace(found, peers=tuple(replace(peer_, status="suspect") for peer_ in found.peers))

        def suspect() -> None:
            one.state.membership.view = without  # type: ignore[method-assign]
            one.state.stir()

        loop.call_at(1.0, suspect)
        assert await ready_s(one) == pytest.approx(1.0, abs=0.01)

    run(main)


def test_what_is_sealed_or_outrun_is_waited_for_no_longer():
    async def main(outrun: bool) -> float:
        one = await published_among(2, STRICT)

        def move_on() -> None:
            if outrun:
                one.state.ledger.saw_round(1 + OUTRUN_ROUNDS)
            else:
                seal(one.state.ledger)
            one.state.stir()

        asyncio.get_running_loop().call_at(1.0, move_on)
        return await ready_s(one)

    for outrun in (False, True):
        assert run(lambda outrun=outrun: main(outrun)) == pytest.approx(1.0, abs=0.01)


# -- beginning --------------------------------------------------------------------------------------------------------


async def begins_at(one: Parts) -> float:
    """When the node begins to train."""
    one.state.role = "syncing"
    await enter(one.state, one.chain)
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


@pytest.mark.parametrize("role", ["trains", "draining", "observes"])
def test_who_comes_to_a_run_under_way_begins_where_the_others_stand(role):
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        await grown(other, 3)
        other.state.role = role
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


@pytest.mark.parametrize(("role", "may_leave"), [("trains", True), ("observes", True), ("draining", False)])
def test_one_leaves_when_the_others_go_on_beyond(role, may_leave):
    """Who drains has the same end as I: its longer chain holds a graft, and I need it."""

    async def main() -> None:
        one, other = parts(), parts(index=2)
        leaving = ended(one, 2)
        for _ in range(3):
            seal(other.state.ledger)
        other.state.role = role
        one.meet(other)
        assert leaving._may_leave() is may_leave

    run(main)


def test_one_leaves_when_the_others_do_not_come_round():
    async def main() -> None:
        one, other = parts(config=NodeConfig(gossip=GossipConfig(suspicion_max_s=12.0))), parts(index=2)
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
        names = [Reporting(one.state)._head()]
        for author in (one, other):
            entry = await author.publish(np.asarray(ones(), np.float32))
            assert entry is not None
            copied(entry, one)
            names.append(Reporting(one.state)._head())
        for entry in one.state.ledger.counted(1):
            copied(entry, other)
        assert Reporting(other.state)._head() == names[-1]
        seal(one.state.ledger)
        names.append(Reporting(one.state)._head())
        assert len(set(names)) == 4

    run(main)


# -- observing --------------------------------------------------------------------------------------------------------


def test_who_observes_says_at_once_that_its_floor_rose():
    """Of a round that is only told of; a contribution that comes rings by itself."""

    async def main() -> None:
        one = parts()
        subject = Rounds(one.state, one.authoring, one.chain, lambda id_: None, 0.5, lambda: True)
        await subject._go_on()
        await one.state.bells["gossip"].wait(0.0)
        one.state.bells["round"].ring()
        await subject._go_on()
        assert not await one.state.bells["gossip"].wait(0.0), "nothing is new"
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, one.state.ledger.saw_round, 3)
        loop.call_later(0.1, one.state.bells["round"].ring)
        await subject._go_on()
        assert (one.state.role, one.state.ledger.floor) == ("observes", 4)
        assert await one.state.bells["gossip"].wait(0.0)

    run(main)


# -- training ahead ---------------------------------------------------------------------------------------------------


SLOW = LinkModel(latency_s=0.005, jitter_s=0.0, access_bytes_per_s=250_000.0)


@pytest.mark.parametrize(("ahead_rounds", "least", "most"), [(0, 0.4, 0.8), (1, 0.95, 1.0), (None, 0.8, 1.0)])
def test_a_slow_network_does_not_make_the_training_wait(ahead_rounds, least, most):
    """Four nodes whose contributions take a second or so to reach the others, at rounds of two seconds."""
    moments: list[tuple[float, float]] = []

    def watch(world: World, index: int) -> None:
        busy_s = world.machines[0].compute.busy_s["train"]
        if busy_s and (not moments or moments[-1][1] != busy_s):
            moments.append((world.now_s, busy_s))

    cadence = CadenceConfig(round_min_s=0.0, adapt_steps=False, ahead_rounds=ahead_rounds)
    scenario = Scenario(nodes=4, rounds=12, rate=1.0, link=SLOW, cadence=cadence)
    result = simulate(scenario, light_learner(width=200, cost_s=2.0), 3, watch=watch)
    (first_s, first_busy_s), (last_s, last_busy_s) = moments[0], moments[-1]
    assert least <= (last_busy_s - first_busy_s) / (last_s - first_s) <= most + 0.001
    assert len(frozenset(result.model_hashes)) == 1
    rounds_told = [event.round for event in result.outcomes[0].reports]
    assert rounds_told == sorted(frozenset(rounds_told)), "each round is told once, the last ones too"
    assert rounds_told[-1] == 12


@pytest.mark.parametrize("ahead_rounds", [1, 2, AHEAD_ROUNDS_MAX])
def test_my_own_rounds_ahead_do_not_end_the_wait_for_the_others(ahead_rounds):
    async def main() -> None:
        one = await published_among(3, replace(STRICT, ahead_rounds=ahead_rounds))
        one.state.ledger.saw_round(1 + ahead_rounds)
        assert await ready_s(one) == pytest.approx(3.0, abs=0.01)
        one.state.ledger.saw_round(2 + ahead_rounds + OUTRUN_ROUNDS)
        assert await ready_s(one, 2) == pytest.approx(0.0, abs=0.01)

    run(main)

"""Pulling what is missing: from whom, how many at once, and when to give up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.node.fetching import HOLDERS_ASKED_MAX, Fetching
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.swarm.gossip import FAILURES_MAX
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.messages import Gossip, Have
from tests.node.parts import SLICES, Parts, Wire, changed, copied, ones, parts, until
from tests.swarm.made import piece, put


def fetching(one: Parts, group: asyncio.TaskGroup) -> Fetching:
    return Fetching(one.state, one.calls, one.gossiping, group)


async def for_a_while(one: Parts, until_s: float) -> None:
    """Let the task of fetching run until that moment."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fetching(one, group).run())
        await until(until_s)
        task.cancel()


async def work_of(author: Parts, *holders: Parts) -> Entry:
    """A contribution that the holders have, too."""
    entry = await author.publish(ones(SLICES[1]), SLICES[1])
    assert entry is not None
    for holder in holders:
        copied(entry, holder)
    return entry


def offer(to: Parts, entry: Entry, *holders: Parts) -> None:
    to.meet(*holders)
    for holder in holders:
        have = (Have(entry.id, entry.bitmap()),)
        to.gossiping.absorb(Gossip(run_id=to.state.run_id, sender=holder.me, have=have))


def slowly(node: Parts, delay_s: Callable[[Request], float]) -> Callable[[Request], object]:
    """The node's handler behind a delay."""

    async def handle(request: Request) -> Reply:
        await until(asyncio.get_running_loop().time() + delay_s(request))
        return await node.serving.handle(request)

    return handle


def test_what_somebody_has_is_fetched_and_passed_on():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        entry = await work_of(other)
        offer(one, entry, other)
        await for_a_while(one, 0.5)
        assert [e.id for e in one.state.ledger.counted(1)] == [entry.id]
        assert wire.paths() == [f"/v1/contributions/{entry.id.hex()}", f"/v1/contributions/{entry.id.hex()}/0"]
        assert one.state.wanted.unknown(one.state.ledger) == list(one.state.wanted.segments(one.state.ledger)) == []
        assert list(one.gossiping._fresh) == [entry.id]
        assert one.state.bytes_received == other.state.bytes_sent > 0

    run(main)


@pytest.mark.parametrize("wrong", ["no manifest", "another manifest", "nonsense", "no segment", "damaged segment"])
def test_who_delivers_wrong_things_is_not_asked_again(wrong):
    async def main() -> None:
        wire = Wire()
        one, liar, other = parts(wire), parts(wire, 2), parts(wire, 3)
        entry = await work_of(other, liar)
        another = await work_of(liar)

        def lie(address: str, request: Request) -> Reply | None:
            is_segment = request.path.endswith("/0")
            if address != liar.address or is_segment != wrong.endswith("segment"):
                return None
            if wrong == "another manifest":
                return honest_manifest(liar, another)
            return {
                "no manifest": Reply(404, b"unknown"),
                "no segment": Reply(404, b"unknown"),
                "nonsense": Reply(200, b"nonsense"),
            }.get(wrong, Reply(200, bytes(len(entry.segments[0] or b""))))

        wire.fault = lie
        offer(one, entry, liar)
        await for_a_while(one, 1.0)
        assert not one.state.ledger.counted(1)
        asked = [request.path for to, request in wire.calls if to == liar.address]
        assert len(asked) == len(set(asked)), "each thing once"
        offer(one, entry, other)
        await for_a_while(one, 2.0)
        assert [e.id for e in one.state.ledger.counted(1)] == [entry.id]

    run(main)


def honest_manifest(node: Parts, entry: Entry) -> Reply:
    return node.serving._contribution(entry.id, None)


def test_a_manifest_the_gate_refuses_is_fetched_once():
    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        honest = await work_of(liar)
        id_, manifest = changed(honest.manifest, samples=0)
        bad = liar.state.ledger.add(id_, manifest, 0.0, wanted=True)
        assert bad is not None
        liar.state.ledger.put(bad, 0, honest.segments[0] or b"")
        for moment_s in (1.0, 2.0, 3.0):
            offer(one, bad, liar)
            await for_a_while(one, moment_s)
        assert wire.paths() == [f"/v1/contributions/{id_.hex()}"]
        assert [w.code for w in one.warnings()] == ["refused-contribution"]

    run(main)


def test_who_is_out_of_reach_is_asked_some_times():
    async def main() -> None:
        wire = Wire()
        one, gone = parts(wire), parts(wire, 2)
        entry = await work_of(gone)
        offer(one, entry, gone)
        del wire.handlers[gone.address]
        await for_a_while(one, 5.0)
        assert len(wire.calls) == FAILURES_MAX
        assert entry.id not in one.state.wanted

    run(main)


def test_fetches_in_flight_max():
    """Ten contributions, four places: the fifth waits until one has come."""

    async def main() -> None:
        wire, under_way, most = Wire(), 0, 0
        one = parts(wire, config=NodeConfig(gossip=GossipConfig(fetches_in_flight_max=4)))
        other = parts(wire, 2)
        for _ in range(10):
            entry = await work_of(other)
            offer(one, entry, other)

        async def handle(request: Request) -> Reply:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await until(asyncio.get_running_loop().time() + 0.01)
            under_way -= 1
            return await other.serving.handle(request)

        wire.handlers[other.address] = handle
        await for_a_while(one, 5.0)
        assert most == 4
        assert len(one.state.ledger.digests()) == 10
        assert len(wire.calls) == 20

    run(main)


def test_load_is_spread_over_the_holders():
    async def main() -> None:
        wire = Wire()
        one, holders = parts(wire), [parts(wire, index) for index in range(2, 6)]
        for _ in range(40):
            entry = await work_of(holders[0], *holders[1:])
            offer(one, entry, *holders)
        for holder in holders:
            wire.handlers[holder.address] = slowly(holder, lambda _: 0.01)  # type: ignore[assignment]
        await for_a_while(one, 5.0)
        assert len(one.state.ledger.digests()) == 40
        asked = [len([to for to, _ in wire.calls if to == holder.address]) for holder in holders]
        assert sum(asked) == 80
        assert min(asked) >= 15

    run(main)


def test_a_slow_holder_is_not_waited_for():
    async def main() -> None:
        wire = Wire()
        one, slow, fast = parts(wire), parts(wire, 2), parts(wire, 3)
        entry = await work_of(slow, fast)
        wire.handlers[slow.address] = slowly(slow, lambda _: 1.9)  # type: ignore[assignment]
        offer(one, entry, slow)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetching(one, group).run())
            await until(0.1)
            offer(one, entry, fast)
            await until(0.9)
            assert [e.id for e in one.state.ledger.counted(1)] == [entry.id]
            await until(3.0)
            task.cancel()
        assert len(wire.paths(slow.address)) <= 2
        assert not one.state.wanted._failures

    run(main)


def test_requests_for_one_thing_under_way_at_once_are_bounded():
    async def main() -> int:
        wire = Wire()
        one, holders = parts(wire), [parts(wire, index) for index in range(2, 10)]
        entry = await work_of(holders[0], *holders[1:])
        offer(one, entry, *holders)
        for holder in holders:
            wire.handlers[holder.address] = slowly(holder, lambda _: 50.0)  # type: ignore[assignment]
        await for_a_while(one, 40.0)
        return len(wire.calls)

    assert run(main) == HOLDERS_ASKED_MAX


# -- giving up --------------------------------------------------------------------------------------------------------

IMPATIENT = NodeConfig(cadence=CadenceConfig(patience_s=0.0))


@pytest.mark.parametrize(("patience_s", "given_up_after_s"), [(0.0, 4.0), (9.0, 9.0)])
def test_an_incomplete_contribution_nobody_offers_is_dropped(patience_s, given_up_after_s):
    async def main() -> None:
        one = parts(config=NodeConfig(cadence=CadenceConfig(patience_s=patience_s)))
        half, whole = piece(1, 5, segments=2), piece(1, 6)
        entry = put(one.state.ledger, half, complete=False)
        one.state.ledger.put(entry, 0, half.data(0))
        put(one.state.ledger, whole)
        await for_a_while(one, given_up_after_s - 0.5)
        assert half.id in one.state.ledger.entries
        await for_a_while(one, given_up_after_s + given_up_after_s + 0.5)
        assert list(one.state.ledger.entries) == [whole.id]

    run(main)


def test_what_a_link_needs_is_not_dropped():
    async def main() -> None:
        one, needed = parts(config=IMPATIENT), piece(1, 5)
        put(one.state.ledger, needed, complete=False)
        one.state.needed[needed.id] = None
        await for_a_while(one, 20.0)
        assert needed.id in one.state.ledger.entries

    run(main)


def test_what_somebody_still_offers_is_not_dropped():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire, config=IMPATIENT), parts(wire, 2)
        wanted = piece(1, 5)
        put(one.state.ledger, wanted, complete=False)
        wire.handlers[other.address] = slowly(other, lambda _: 100.0)  # type: ignore[assignment]
        one.meet(other)
        one.state.wanted.offer(wanted.id, other.me, None)
        await for_a_while(one, 20.0)
        assert wanted.id in one.state.ledger.entries

    run(main)

"""Pulling what is missing: from whom, how many at once, and when to give up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.errors import DeadlineExceeded
from p2pfusion.node.fetching import HOLDERS_ASKED_MAX, Fetching
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.swarm.gossip import FAILURES_MAX
from p2pfusion.swarm.haste import FIRST_BYTES_PER_S, REST_S, RESTS_MAX
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.messages import Contribution, Gossip, Have
from tests.node.parts import SLICES, Parts, Wire, changed, copied, ones, parts, until
from tests.sim.learners import light_blueprint
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


# -- large segments ---------------------------------------------------------------------------------------------------

LARGE = light_blueprint(1024)
"""2.1 MB: two segments of 1 MiB and a small one."""
MIB = 1 << 20


def large(wire: Wire, index: int = 1, **gossip: int) -> Parts:
    return parts(wire, index, blueprint=LARGE, config=NodeConfig(codec="fp32", gossip=GossipConfig(**gossip)))


async def large_work(author: Parts, *holders: Parts) -> Entry:
    entry = await author.publish(np.ones(LARGE.size, np.float32), LARGE.whole())
    assert entry is not None
    assert [s.size for s in entry.manifest.segments][:2] == [MIB, MIB]
    for holder in holders:
        copied(entry, holder)
    return entry


@pytest.mark.parametrize(("bytes_max", "expected"), [(4 * LARGE.size, 3), (4 * LARGE.size - 1, 2), (1, 1)])
def test_fetch_bytes_in_flight_max(bytes_max, expected):
    async def main() -> int:
        wire, under_way, most = Wire(), 0, 0
        one, other = large(wire, fetch_bytes_in_flight_max=bytes_max), large(wire, 2)
        entry = await large_work(other)
        offer(one, entry, other)

        async def handle(request: Request) -> Reply:
            nonlocal under_way, most
            is_segment = request.path[-2] == "/"
            under_way += is_segment
            most = max(most, under_way)
            await until(asyncio.get_running_loop().time() + 0.1)
            under_way -= is_segment
            return await other.serving.handle(request)

        wire.handlers[other.address] = handle
        await for_a_while(one, 5.0)
        assert one.state.ledger.entries[entry.id].is_complete
        assert len(wire.calls) == 4, "nothing twice"
        return most

    assert run(main) == expected


def test_when_all_are_slow_nothing_is_asked_for_twice():
    """Twice as slow as a poor Wi-Fi, for segments that share it: no reason to send more over it."""

    async def main() -> None:
        wire = Wire()
        one, holders = large(wire), [large(wire, index) for index in (2, 3, 4)]
        entries = [await large_work(holder, *(h for h in holders if h is not holder)) for holder in holders]
        for entry in entries:
            offer(one, entry, *holders)
        for holder in holders:
            wire.handlers[holder.address] = slowly(holder, lambda r: 0.9 if r.path.endswith(("/0", "/1")) else 0.05)  # type: ignore[assignment]
        await for_a_while(one, 20.0)
        assert all(one.state.ledger.entries[entry.id].is_complete for entry in entries)
        assert len(wire.paths()) == len(set(wire.paths())) == 3 * 4

    run(main)


def test_a_stuck_holder_gets_company_and_is_cut_off_when_the_other_delivered():
    async def main() -> None:
        wire, cut = Wire(), []
        one, stuck, fine = large(wire), large(wire, 2), large(wire, 3)
        entry = await large_work(stuck, fine)

        async def handle(request: Request) -> Reply:
            try:
                await until(asyncio.get_running_loop().time() + (15.0 if request.path[-2] == "/" else 0.0))
            except asyncio.CancelledError:
                cut.append(request.path[-1])
                raise
            return await stuck.serving.handle(request)

        wire.handlers[stuck.address] = handle
        offer(one, entry, stuck)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetching(one, group).run())
            await until(0.2)
            offer(one, entry, fine)
            await until(4.0)
            assert one.state.ledger.entries[entry.id].is_complete
            assert sorted(cut) == ["0", "1"], "the small one may end by itself"
            task.cancel()
            await until(20.0)

    run(main)


EIGHT = light_blueprint(2048)
"""Eight segments of 1 MiB, a window full, and a small one."""


def test_a_window_full_of_stuck_requests_leaves_room_for_company():
    async def main() -> None:
        wire = Wire()
        config = NodeConfig(codec="fp32")
        one, gone, fine = (parts(wire, index, blueprint=EIGHT, config=config) for index in (1, 2, 3))
        entry = await gone.publish(np.ones(EIGHT.size, np.float32), EIGHT.whole())
        assert entry is not None
        copied(entry, fine)
        stuck = {f"/{index}" for index in range(8)}
        wire.handlers[gone.address] = slowly(gone, lambda r: 60.0 if r.path[-2:] in stuck else 0.0)  # type: ignore[assignment]
        wire.handlers[fine.address] = slowly(fine, lambda _: 0.02)  # type: ignore[assignment]
        offer(one, entry, gone)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetching(one, group).run())
            await until(0.2)
            assert stuck < {path[-2:] for path in wire.paths(gone.address)}, "the window is full"
            offer(one, entry, fine)
            pause_s = 8 * MIB / FIRST_BYTES_PER_S
            await until(pause_s - 0.1)
            assert not wire.paths(fine.address)
            await until(2 * pause_s)
            assert one.state.ledger.entries[entry.id].is_complete
            task.cancel()
            await until(100.0)

    run(main)


def test_when_all_are_late_a_full_window_stays_full():
    """A link that became slow: each has something late, and nothing is asked for beyond the window."""

    async def main() -> None:
        wire = Wire()
        one, holders = large(wire, fetch_bytes_in_flight_max=2 * MIB), [large(wire, index) for index in (2, 3)]
        entry = await large_work(*holders)
        offer(one, entry, *holders)
        for holder in holders:
            wire.handlers[holder.address] = slowly(holder, lambda r: 15.0 if r.path.endswith(("/0", "/1")) else 0.0)  # type: ignore[assignment]
        await for_a_while(one, 14.0)
        asked = [path[-2:] for path in wire.paths() if path[-2] == "/"]
        assert sorted(asked) == ["/0", "/1", "/2"]

    run(main)


def test_requests_that_exceed_their_deadline_together_halve_the_window_once():
    async def main() -> None:
        wire = Wire()
        one, gone = large(wire, fetch_bytes_in_flight_max=2 * MIB), large(wire, 2)
        entry = await large_work(gone)
        offer(one, entry, gone)

        async def handle(request: Request) -> Reply:
            if request.path.endswith(("/0", "/1")):
                await until(asyncio.get_running_loop().time() + 18.0)
                raise DeadlineExceeded("silent")
            return await gone.serving.handle(request)

        wire.handlers[gone.address] = handle
        async with asyncio.TaskGroup() as group:
            found = fetching(one, group)
            task = group.create_task(found.run())
            await until(18.5)
            assert found._haste.fits(0, MIB)
            assert found._haste.fits(MIB // 2, MIB // 2)
            assert not found._haste.fits(MIB, 1)
            task.cancel()
            await until(100.0)

    run(main)


def test_a_manifest_that_came_twice_is_admitted_once():
    async def main() -> None:
        wire, admitted = Wire(), []
        one, slow, other = parts(wire), parts(wire, 2), parts(wire, 3)
        entry = await work_of(slow, other)
        admit = one.gossiping.admit

        def spying(id_: bytes, manifest: Contribution) -> bool:
            admitted.append(id_)
            return admit(id_, manifest)

        one.gossiping.admit = spying  # type: ignore[method-assign]
        for holder in (slow, other):
            wire.handlers[holder.address] = slowly(holder, lambda _: 0.3)  # type: ignore[assignment]
        offer(one, entry, slow, other)
        await for_a_while(one, 2.0)
        assert [path[-2] == "/" for path in wire.paths()].count(False) == 2
        assert admitted == [entry.id]

    run(main)


def test_what_is_judged_is_not_written_again():
    """A slow liar writes last, into memory of its own."""

    async def main() -> None:
        wire = Wire()
        one, liar, other = parts(wire), parts(wire, 2), parts(wire, 3)
        entry = await work_of(liar, other)
        right = bytes(entry.segments[0] or b"")

        async def lie(request: Request) -> Reply:
            if not request.path.endswith("/0"):
                return await liar.serving.handle(request)
            await until(3.0)
            return Reply(200, b"\x01" * len(right))

        wire.handlers[liar.address] = lie
        offer(one, entry, liar)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetching(one, group).run())
            await until(0.1)
            offer(one, entry, other)
            await until(1.0)
            [segment] = one.state.ledger.entries[entry.id].segments
            assert segment == right
            await until(4.0)
            assert segment == right
            assert isinstance(segment, memoryview)
            assert segment.readonly
            task.cancel()

    run(main)


def test_large_segments_are_judged_beside_the_loop():
    async def main() -> None:
        wire, lanes = Wire(), []
        one, other = large(wire), large(wire, 2)
        entry, compute = await large_work(other), one.state.doors.compute.run

        async def spying(work: Callable[[], object], *, cost_s: float = 0.0, lane: str = "train") -> object:
            lanes.append(lane)
            return await compute(work, cost_s=cost_s, lane=lane)

        one.state.doors.compute.run = spying  # type: ignore[method-assign, assignment]
        offer(one, entry, other)
        await for_a_while(one, 1.0)
        assert one.state.ledger.entries[entry.id].is_complete
        assert lanes in (["gate"], ["gate", "gate"]), "the third is small"

    run(main)


def test_segments_are_relayed_before_all_are_here():
    """`relay` holds two of three segments and serves them; the third follows when it comes."""

    async def main() -> None:
        wire = Wire()
        one, relay, author = large(wire), large(wire, 2), large(wire, 3)
        entry = await large_work(author)
        half = relay.state.ledger.add(entry.id, entry.manifest, 0.0, wanted=True)
        assert half is not None
        for index in (0, 2):
            relay.state.ledger.put(half, index, entry.segments[index] or b"")
        told = relay.gossiping.compose(one.me, ())[0].have
        assert told == (Have(entry.id, bytes([0b101])),)
        offer(one, half, relay)
        await for_a_while(one, 1.0)
        mine = one.state.ledger.entries[entry.id]
        assert [segment is not None for segment in mine.segments] == [True, False, True]
        assert sorted(path[-1] for path in wire.paths(relay.address)[1:]) == ["0", "2"]
        relay.state.ledger.put(half, 1, entry.segments[1] or b"")
        offer(one, half, relay)
        await for_a_while(one, 2.0)
        assert mine.is_complete
        assert not wire.paths(author.address)

    run(main)


# -- busy holders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_holder_is_left_alone_for_a_while_and_keeps_its_name(status):
    async def main() -> None:
        wire, moments = Wire(), []
        one, busy = parts(wire), parts(wire, 2)
        entry = await work_of(busy)

        def refuse(address: str, request: Request) -> Reply | None:
            moments.append(asyncio.get_running_loop().time())
            return Reply(status, b"busy") if len(moments) <= 2 * FAILURES_MAX else None

        wire.fault = refuse
        offer(one, entry, busy)
        await for_a_while(one, 20.0)
        assert one.state.ledger.entries[entry.id].is_complete
        assert all(later - one_s >= REST_S / 2 for one_s, later in pairwise(moments[: 2 * FAILURES_MAX]))
        assert not one.state.wanted._failures

    run(main)


def test_rests_max():
    async def main() -> int:
        wire = Wire()
        one, busy = parts(wire), parts(wire, 2)
        entry = await work_of(busy)
        wire.fault = lambda address, request: Reply(503, b"busy")
        offer(one, entry, busy)
        await for_a_while(one, 100.0)
        assert entry.id not in one.state.wanted
        return len(wire.calls)

    assert run(main) == RESTS_MAX + 1


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


def test_a_bell_that_never_rests_keeps_nothing_alive():
    async def main() -> None:
        one, half = parts(config=IMPATIENT), piece(1, 5, segments=2)
        put(one.state.ledger, half, complete=False)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetching(one, group).run())
            for turn in range(100):
                one.state.bells["fetch"].ring()
                await until(turn * 0.05)
            task.cancel()
        assert not one.state.ledger.entries

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

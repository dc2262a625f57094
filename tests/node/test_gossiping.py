"""Talking between parts put together by hand: what is taken in, what is refused, what is told to whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from p2pfusion.config import (
    FRESH_PER_CALL_MAX,
    GOSSIP_BYTES_MAX,
    INLINE_BYTES_MAX,
    OPEN_ROUNDS_MAX,
    RANGES_PER_AXIS_MAX,
    REPORTS_PER_CALL_MAX,
    GossipConfig,
    NodeConfig,
    RunConfig,
)
from p2pfusion.core.submodel import SubModel
from p2pfusion.node import gossiping
from p2pfusion.node.admitting import ACCUSED_MAX, REJECTED_MAX
from p2pfusion.node.events import PeerEvent
from p2pfusion.node.foreign import FOREIGN_MAX
from p2pfusion.node.gossiping import FRESH_WAITING_MAX
from p2pfusion.node.listening import CLAIMS_MAX
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import decode_gossip, decode_run, encode_gossip, encode_run
from p2pfusion.wire.description import first_difference
from p2pfusion.wire.messages import Contribution, Gossip, Have, Rumour
from tests.node.parts import BLUEPRINT, Parts, Wire, changed, copied, ones, parts, seen, until
from tests.swarm.made import peer, report, shard_report


async def published(one: Parts, value: float = 1.0) -> Entry:
    entry = await one.publish(ones(value=value))
    assert entry is not None
    return entry


def said(by: Parts, **items: tuple) -> Gossip:
    return Gossip(run_id=by.state.run_id, sender=by.me, **items)


def inline(entry: Entry) -> tuple[bytes, tuple[bytes, ...]]:
    return entry.id, tuple(segment or b"" for segment in entry.segments)


async def exchange(one: Parts, other: Parts) -> None:
    """One call both ways."""
    message, body = one.gossiping.compose(other.me, ())
    reply = await other.serving.handle(Request("POST", "/v1/gossip", body))
    assert reply.status == 200
    one.gossiping.absorb(decode_gossip(reply.body))
    one.state.spoken.told(other.me, message.reports)


# -- taking in --------------------------------------------------------------------------------------------------------


def test_a_fresh_contribution_with_its_segments_is_complete_at_once_and_passed_on():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        other.gossiping.absorb(said(one, fresh=(entry.manifest,), inline=(inline(entry),)))
        assert [e.id for e in other.state.ledger.counted(1)] == [entry.id]
        assert other.state.ledger.newest == 1
        assert list(other.gossiping._fresh) == [entry.id]
        assert entry.id not in other.state.wanted
        assert other.state.spoken.knows(one.me, entry.id)
        other.gossiping.absorb(said(one, fresh=(entry.manifest,), inline=(inline(entry),)))
        assert list(other.gossiping._fresh) == [entry.id], "passed on once"

    run(main)


def test_a_fresh_manifest_without_its_segments_is_wanted_from_its_author_only():
    async def main() -> None:
        one, other, third = parts(), parts(index=2), parts(index=3)
        entry = await published(one)
        other.gossiping.absorb(said(third, fresh=(entry.manifest,)))
        assert list(other.state.wanted.segments(other.state.ledger)) == []
        third.gossiping.absorb(said(one, fresh=(entry.manifest,)))
        other.gossiping.absorb(said(third, have=(Have(entry.id, b"\x01"),)))
        assert list(other.state.wanted.segments(other.state.ledger)) == [], "who is no member cannot be called"
        other.meet(third)
        assert list(third.state.wanted.segments(third.state.ledger)) == [(entry.id, 0, [one.me])]
        other.gossiping.absorb(said(third, have=(Have(entry.id, b"\x01"),)))
        assert list(other.state.wanted.segments(other.state.ledger)) == [(entry.id, 0, [third.me])]

    run(main)


@pytest.mark.parametrize("wrong", ["damaged", "short", "too many"])
def test_a_wrong_inline_segment_is_as_good_as_none(wrong):
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        data = entry.segments[0] or b""
        given = {"damaged": (b"x" + data[1:],), "short": (data[:-4],), "too many": (data[:-4], data)}[wrong]
        other.gossiping.absorb(said(one, fresh=(entry.manifest,), inline=((entry.id, given),)))
        assert other.state.ledger.counted(1) == ()
        assert list(other.state.wanted.segments(other.state.ledger)) == [(entry.id, 0, [one.me])]

    run(main)


def test_what_is_here_is_not_wanted():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        copied(entry, other)
        other.gossiping.absorb(said(one, have=(Have(entry.id, b"\x01"),)))
        assert entry.id not in other.state.wanted

    run(main)


def test_messages_of_my_own_and_of_other_runs_are_not_taken_in():
    async def main() -> None:
        one = parts()
        line = report(7, shard=shard_report(newest=5))
        one.gossiping.absorb(replace(said(one, reports=(line,)), run_id=bytes(32)))
        one.gossiping.absorb(said(one, reports=(line,)))
        assert one.state.ledger.newest == 0
        assert one.state.membership.reports() == []

    run(main)


def test_a_report_tells_of_a_member_its_newest_round_and_the_end():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        one.gossiping.strangers.add(["10.0.0.7:1", "10.0.0.8:1"])
        line = report(7, addresses=("10.0.0.7:1",), stop=9, shard=shard_report(newest=5))
        one.gossiping.absorb(said(other, reports=(line,)))
        assert seen(one.state) == [PeerEvent("node-7", peer(7).hex(), "alive")]
        assert (one.state.ledger.newest, one.state.stop_round, one.state.ledger.limit) == (5, 9, 9)
        assert one.gossiping.strangers.due(0.0) == ["10.0.0.8:1"]
        one.gossiping.absorb(said(other, reports=(replace(line, stop=99, beat=1),)))
        one.gossiping.absorb(said(other, reports=(replace(line, stop=99, beat=2),)))
        assert (one.state.stop_round, one.state.ledger.limit) == (9, 9), "the smallest known end wins"
        one.gossiping.absorb(said(other, reports=(replace(line, stop=6, beat=3),)))
        assert (one.state.stop_round, one.state.ledger.limit) == (6, 6)

    run(main)


def test_a_farewell_is_heard_and_told():
    async def main() -> None:
        one, other, third = parts(), parts(index=2), parts(index=3)
        one.meet(other)
        await one.serving.handle(other.gossiping.farewell())
        assert seen(one.state)[-1] == PeerEvent("node-2", other.me.hex(), "left")
        third.meet(other)
        await exchange(one, third)
        assert seen(third.state)[-1] == PeerEvent("node-2", other.me.hex(), "left")
        assert [r.peer for r, _ in third.state.membership.reports()] == [one.me]

    run(main)


def test_two_contributions_of_one_peer_to_one_round_are_told_once_and_the_smaller_counts():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        id_, rival = changed(entry.manifest, samples=entry.manifest.samples + 1)
        other.gossiping.absorb(said(one, fresh=(entry.manifest, rival)))
        other.gossiping.absorb(said(one, fresh=(entry.manifest, rival)))
        assert [w.code for w in other.warnings()] == ["equivocation"]
        assert one.me.hex()[:8] in other.warnings()[0].text
        assert {id_, entry.id} <= set(other.state.ledger.entries)
        other.gossiping.absorb(said(one, fresh=(changed(entry.manifest, samples=entry.manifest.samples + 2)[1],)))
        assert len(other.warnings()) == 1, "a copied node does it every round"

    run(main)


def test_those_told_of_for_two_contributions_are_bounded_and_named():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        other.state.membership.observe(one.state.report(), 0.0)
        for number in range(ACCUSED_MAX + 2):
            author = {"peer": number.to_bytes(16, "big")} if number else {}
            pair = (changed(entry.manifest, samples=entry.manifest.samples + i, **author)[1] for i in (1, 2))
            other.gossiping.absorb(said(one, fresh=tuple(pair)))
        texts = [w.text for w in other.warnings() if w.code == "equivocation"]
        assert len(texts) == ACCUSED_MAX
        assert f"peer {one.me.hex()[:8]} (node-1) published two" in texts[0]
        assert "probably its state folder was copied" in texts[0]

    run(main)


# -- refusing ---------------------------------------------------------------------------------------------------------


def broken(manifest: Contribution, number: int = 0) -> tuple[bytes, Contribution]:
    """A contribution that no gate lets through."""
    return changed(manifest, samples=0, weight=1 + number)


def test_a_contribution_the_gate_refuses_is_told_and_not_asked_for_again():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        id_, manifest = broken((await published(one)).manifest)
        other.gossiping.absorb(said(one, fresh=(manifest,)))
        assert other.state.ledger.entries == {}
        assert [(w.code, w.text) for w in other.warnings()] == [
            ("refused-contribution", f"peer {one.me.hex()[:8]} sent a contribution refused: samples")
        ]
        other.gossiping.absorb(said(one, have=(Have(id_, b"\x01"),)))
        assert id_ not in other.state.wanted
        assert not other.gossiping._fresh

    run(main)


def test_who_sends_a_refused_contribution_over_and_over_is_told_of_once():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        _, manifest = broken((await published(one)).manifest)
        for _ in range(5):
            other.gossiping.absorb(said(one, fresh=(manifest,)))
        assert len(other.warnings()) == 1

    run(main)


def test_rejected_max():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        manifest = (await published(one)).manifest
        ids = []
        for number in range(REJECTED_MAX + 1):
            id_, refused = broken(manifest, number)
            ids.append(id_)
            assert not other.gossiping.admit(id_, refused)
        other.meet(one)
        assert list(other.gossiping.admitting._rejected) == ids[1:]
        other.gossiping.absorb(said(one, have=(Have(ids[0], b"\x01"), Have(ids[1], b"\x01"))))
        assert [id_ for id_, _ in other.state.wanted.unknown(other.state.ledger)] == [ids[0]]

    run(main)


def test_a_contribution_that_comes_too_late_is_counted_and_not_asked_for_again():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await published(one)
        other.state.ledger.seal(other.state.ledger.next_link([]))
        other.gossiping.absorb(said(one, fresh=(entry.manifest,)))
        assert (other.state.late, other.warnings()) == (1, [])
        other.gossiping.absorb(said(one, have=(Have(entry.id, b"\x01"),)))
        assert entry.id not in other.state.wanted
        other.state.needed[entry.id] = None
        assert other.gossiping.admit(entry.id, entry.manifest), "unless a link needs it"

    run(main)


def test_a_contribution_that_comes_too_early_is_asked_for_again():
    """The tip follows sooner or later; then the round is open and its work is wanted."""

    async def main() -> None:
        one, other = parts(), parts(index=2)
        id_, early = changed((await published(one)).manifest, round=OPEN_ROUNDS_MAX + 1, base_round=OPEN_ROUNDS_MAX)
        other.gossiping.absorb(said(one, fresh=(early,)))
        assert (other.state.ledger.entries, other.state.late, other.warnings()) == ({}, 0, [])
        other.state.ledger.seal(other.state.ledger.next_link([]))
        other.meet(one)
        other.gossiping.absorb(said(one, have=(Have(id_, b"\x01"),)))
        assert id_ in other.state.wanted

    run(main)


# -- telling ----------------------------------------------------------------------------------------------------------


def test_everybody_is_told_what_changed_and_only_that():
    async def main() -> None:
        one, other, third = parts(), parts(index=2), parts(index=3)
        one.meet(third)
        await exchange(one, other)
        assert [r.peer for r, _ in other.state.membership.reports()] == [one.me, third.me]
        assert one.gossiping.compose(other.me, ())[0].reports == ()
        assert other.gossiping.compose(one.me, ())[0].reports == ()
        await published(one)
        assert [r.peer for r in one.gossiping.compose(other.me, ())[0].reports] == [one.me]
        await exchange(one, other)
        assert other.state.ledger.newest == 1
        assert one.state.membership.report_of(other.me) is not None

    run(main)


def test_work_arrives_by_have_when_its_fresh_call_was_lost():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        other.meet(one)
        one.meet(other)
        entry = await published(one)
        await exchange(one, other)
        assert other.state.wanted.unknown(other.state.ledger) == [], "its author's own call is on its way"
        await until(one.state.config.gossip.retry_s)
        await exchange(one, other)
        assert other.state.wanted.unknown(other.state.ledger) == [(entry.id, [one.me])]

    run(main)


def test_a_stranger_is_told_reports_and_no_more():
    async def main() -> None:
        one = parts()
        await published(one)
        message, body = one.gossiping.compose(None, ())
        assert ([r.peer for r in message.reports], message.have, message.fresh) == ([one.me], (), ())
        assert decode_gossip(body) == message

    run(main)


def test_small_work_travels_inside_and_large_work_does_not():
    async def main() -> None:
        one = parts()
        entry = await published(one)
        message, _ = one.gossiping.compose(peer(2), (entry.id, bytes(32)))
        assert (message.fresh, message.inline) == ((entry.manifest,), (inline(entry),))
        segment = replace(entry.manifest.segments[0], size=INLINE_BYTES_MAX + 1)
        large = one.state.ledger.add(*changed(entry.manifest, round=2, segments=(segment,)), 0.0)
        assert large is not None
        one.state.ledger.put(large, 0, bytes(INLINE_BYTES_MAX + 1))
        message, _ = one.gossiping.compose(peer(2), (large.id,))
        assert (message.fresh, message.inline) == ((large.manifest,), ())

    run(main)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_line_told_in_an_answer_is_told_again_soon_in_a_call(is_lost):
    """The answer may be lost, and its author does not learn of it: what others wait for must not wait for a beat."""

    async def main() -> None:
        wire = Wire()
        calm = NodeConfig(gossip=GossipConfig(gossip_interval_s=60.0, gossip_interval_max_s=60.0))
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group, config=calm), parts(wire, index=2)
            one.meet(other)
            task = group.create_task(talking(one, group, 2.0))
            await until(1.0)
            wire.calls.clear()
            one.state.ledger.published(1)
            _, body = other.gossiping.compose(one.me, ())
            reply = await one.serving.handle(Request("POST", "/v1/gossip", body))
            one.state.stir()
            if not is_lost:
                other.gossiping.absorb(decode_gossip(reply.body))
            await until(1.0 + one.state.config.gossip.retry_s / 2)
            assert wire.calls == []
            await task
        assert len(wire.calls) == 1
        line = other.state.membership.report_of(one.me)
        assert line is not None
        assert line.shards[0].floor == 2

    run(main)


def test_what_does_not_fit_in_one_call_is_not_thought_to_be_told():
    """Many members, and manifests of finely cut slices: the call keeps its limit, the rest is told later."""

    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other)
            for member in range(3, 3 + REPORTS_PER_CALL_MAX):
                line = report(member, addresses=(f"10.0.1.{member}:7000",) * 4)
                one.state.membership.observe(replace(line, name="n" * 32), 0.0)
            manifest = (await published(one)).manifest
            fine = SubModel(("body",), (("hidden", tuple((4 * i, 4 * i + 1) for i in range(RANGES_PER_AXIS_MAX))),))
            made = [changed(manifest, peer=peer(100 + n), sub_model=fine) for n in range(FRESH_PER_CALL_MAX)]
            for id_, fresh in made:
                assert one.state.ledger.add(id_, fresh, 0.0) is not None
            ids = tuple(id_ for id_, _ in made)
            message, body = one.gossiping.compose(other.me, ids)
            assert len(body) <= GOSSIP_BYTES_MAX
            assert len(message.reports) == REPORTS_PER_CALL_MAX
            assert 0 < len(message.fresh) < FRESH_PER_CALL_MAX
            one.gossiping._spawn(other.me, ids)
        known = [fresh for id_, fresh in made if one.state.spoken.knows(other.me, id_)]
        assert known == list(message.fresh)

    run(main)


def test_fresh_waiting_max():
    one = parts()
    ids = [number.to_bytes(32, "big") for number in range(FRESH_WAITING_MAX + 1)]
    for id_ in ids:
        one.gossiping.pass_on(id_)
    assert list(one.gossiping._fresh) == ids[1:]


# -- another run ------------------------------------------------------------------------------------------------------


def foreigner(index: int = 2, wire: Wire | None = None) -> Parts:
    return parts(wire, index, config=NodeConfig(run=RunConfig(horizon_rounds=3)))


async def call(one: Parts, other: Parts) -> Reply:
    _, body = one.gossiping.compose(None, ())
    return await other.serving.handle(Request("POST", "/v1/gossip", body))


def test_a_node_of_another_run_gets_409_and_what_differs():
    async def main() -> None:
        one, other = parts(), foreigner()
        reply = await call(other, one)
        assert reply.status == 409
        theirs = decode_run(reply.body)
        assert (theirs.sender, theirs.members, theirs.newest) == (one.me, 1, 0)
        difference = first_difference(other.state.described, theirs)
        assert difference == "setting horizon: swarm has 8, you have 3"
        assert one.state.membership.reports() == [], "its report was not taken in"

    run(main)


LESSER = {
    "fewer rounds": {"mine": (0, 3), "theirs": (1, 1), "index": 3},
    "fewer members": {"mine": (5, 1), "theirs": (5, 2), "index": 3},
    "the smaller id": {"mine": (5, 2), "theirs": (5, 2), "index": 1},
}
GREATER = {
    "more rounds": {"mine": (1, 1), "theirs": (0, 3), "index": 1},
    "more members": {"mine": (5, 2), "theirs": (5, 1), "index": 1},
    "the larger id": {"mine": (5, 2), "theirs": (5, 2), "index": 3},
}


@pytest.mark.parametrize(("case", "is_refused"), [*((c, True) for c in LESSER), *((c, False) for c in GREATER)])
def test_the_lesser_of_two_runs_is_refused_with_the_difference(case, is_refused):
    """(newest, members) of each; node 2 is the other one."""
    given = (LESSER | GREATER)[case]

    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one = parts(wire, given["index"], group=group)
            one.state.role = "syncing"
            other = foreigner(wire=wire)
            for node, (newest, members) in ((one, given["mine"]), (other, given["theirs"])):
                node.state.ledger.saw_round(newest)
                for member in range(10, 10 + members - 1):
                    node.state.membership.observe(report(member), 0.0)
            one.gossiping._spawn(other.address, ())
        assert [str(refusal) for refusal in one.refusals] == is_refused * [
            "the swarm 'p2pfusion' runs something else: setting horizon: swarm has 3, you have 8. "
            "Use the others' task, algorithm, common width, seed and settings, or choose another --swarm NAME"
        ]
        assert one.warnings() == []

    run(main)


def test_who_trains_already_only_warns_and_of_each_once():
    async def main() -> None:
        one, other = parts(), foreigner()
        other.state.ledger.saw_round(50)
        for _ in range(3):
            one.gossiping.foreign.met(await call(one, other))
        assert [w.code for w in one.warnings()] == ["other-run"]
        assert "setting horizon: swarm has 3, you have 8" in one.warnings()[0].text
        assert one.refusals == []
        described = decode_run((await call(one, other)).body)
        for number in range(FOREIGN_MAX + 5):
            other_one = replace(described, sender=peer(100 + number))
            one.gossiping.foreign.met(Reply(409, encode_run(other_one)))
        assert len(one.warnings()) == FOREIGN_MAX

    run(main)


# -- the loop ---------------------------------------------------------------------------------------------------------

CALM = NodeConfig(gossip=GossipConfig(gossip_interval_s=0.5, gossip_interval_max_s=2.0))


async def talking(one: Parts, group: asyncio.TaskGroup, until_s: float) -> None:
    """Let one node's task of gossip run for a while."""
    task = group.create_task(one.gossiping.run())
    await until(until_s)
    task.cancel()


def times(wire: Wire) -> list[float]:
    """Makes the wire remember when it was called."""
    moments: list[float] = []

    def note(address: str, request: Request) -> None:
        moments.append(asyncio.get_running_loop().time())

    wire.fault = note
    return moments


def test_when_nothing_happens_beats_become_rare():
    async def main() -> None:
        wire = Wire()
        moments = times(wire)
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group, config=CALM), parts(wire, index=2)
            one.meet(other)
            task = group.create_task(talking(one, group, 40.0))
            for beat_s in range(1, 40, 2):
                await until(float(beat_s))
                one.meet(other)
            await task
        pauses = [b - a for a, b in pairwise(moments)]
        assert len(pauses) > 10
        assert max(pauses) <= 2.0 * 1.1

    run(main)


def test_news_that_others_wait_for_is_told_at_once_and_together():
    async def main() -> None:
        wire = Wire()
        moments = times(wire)
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other)
            task = group.create_task(talking(one, group, 0.3))
            await until(0.1)
            moments.clear()
            one.state.ledger.published(1)
            one.state.stir()
            await until(0.11)
            one.state.ledger.published(2)
            one.state.stir()
            await task
        assert moments == [pytest.approx(0.12)]
        line = other.state.membership.report_of(one.me)
        assert line is not None
        assert line.shards[0].floor == 3

    run(main)


@pytest.mark.parametrize("role", ["trains", "observes"])
def test_that_everybodys_work_is_here_is_told_at_once_also_by_who_has_none(role):
    async def main() -> None:
        one, trainer = parts(), parts(index=2)
        one.state.role = role
        one.meet(trainer)
        entry = await published(trainer)
        one.state.ledger.saw_round(1)
        before = one.gossiping._pressing()
        copied(entry, one)
        assert (one.gossiping._pressing() != before) is (role == "observes"), "who trains has not published itself"

    run(main)


def killed(one: Parts, other: Parts, now_s: float = 0.0) -> None:
    """To the one node, the other is dead."""
    one.state.tell(one.state.membership.accuse(other.me, now_s - 4.0))
    one.state.tell(one.state.membership.tick(now_s))


def test_the_dead_are_called_again_with_growing_pauses_and_return_with_everything():
    async def main() -> tuple[list[str], list[float], list[str]]:
        wire = Wire()
        moments = times(wire)
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other)
            killed(one, other)
            del wire.handlers[other.address]
            task = group.create_task(talking(one, group, 38.0))
            await until(30.0)
            tries = [*moments]
            wire.handlers[other.address] = other.serving.handle
            await task
        states = [event.state for event in seen(one.state) if isinstance(event, PeerEvent)]
        return states, tries, [request.query for _, request in wire.calls]

    states, tries, queries = run(main)
    assert states == ["alive", "suspect", "dead", "alive"]
    pauses = [b - a for a, b in pairwise(tries)]
    assert 6 < len(pauses) < 14
    assert pauses[0] < 1.2
    assert max(pauses) <= 4.0 * 1.1, "at the longest with every beat of an idle node"
    assert queries[: len(tries)] == ["full"] * len(tries)


def test_everything_is_told_to_somebody_now_and_then():
    async def main() -> list[float]:
        wire = Wire()
        full = []

        def note(address: str, request: Request) -> None:
            if request.query == "full":
                full.append(asyncio.get_running_loop().time())

        wire.fault = note
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other)
            await talking(one, group, 120.0)
        return full

    full = run(main)
    assert 3 <= len(full) <= 8
    assert min(full) >= 15.0


def test_a_full_exchange_tells_what_each_is_thought_to_know():
    async def main() -> None:
        one, other, third = parts(), parts(index=2), parts(index=3)
        one.meet(other, third)
        await exchange(one, other)
        assert one.gossiping.compose(other.me, ())[0].reports == ()
        killed(one, third)
        one.state.membership.rumours.drop(third.me)
        message, body = one.gossiping.compose(other.me, (), is_full=True)
        assert [r.peer for r in message.reports] == [one.me]
        assert message.rumours == (Rumour(third.me, 1, "dead", one.me),)
        reply = await other.serving.handle(Request("POST", "/v1/gossip", body, "full"))
        assert [r.peer for r in decode_gossip(reply.body).reports] == [other.me, third.me]

    run(main)


def test_who_is_accused_is_told_and_contradicts():
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other, *(parts(wire, index=index) for index in range(3, 9)))
            before = other.gossiping._pressing()
            one.state.tell(one.state.membership.accuse(other.me, 0.0))
            one.gossiping._speak_to_some(3, is_beat=False)
        assert other.address in [address for address, _ in wire.calls]
        assert other.state.incarnation == 2
        assert other.gossiping._pressing() != before
        assert [e.state for e in seen(one.state) if isinstance(e, PeerEvent) and e.id == other.me.hex()] == [
            "alive",
            "suspect",
            "alive",
        ]

    run(main)


def test_who_leaves_does_not_contradict_its_own_farewell():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        other.gossiping.farewell()
        other.gossiping.absorb(said(one, rumours=(Rumour(other.me, 1, "left", other.me),)))
        assert other.state.incarnation == 1

    run(main)


def test_who_restarted_is_told_everything_again():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        await exchange(one, other)
        one.meet(other)
        assert one.gossiping.compose(other.me, ())[0].reports == ()
        again = parts(index=2)
        again.state.incarnation = 5
        one.meet(again)
        assert [r.peer for r in one.gossiping.compose(other.me, ())[0].reports] == [one.me]

    run(main)


def test_an_old_backup_learns_what_it_was_and_goes_on_above():
    async def main() -> None:
        wire = Wire()
        one, old = parts(wire), parts(wire, index=2)
        one.state.membership.observe(replace(old.state.report(), incarnation=9 << 20, addresses=("10.0.0.7:1",)), 0.0)
        await exchange(old, one)
        assert old.state.incarnation == (9 << 20) + 1
        assert old.warnings() == []
        await exchange(old, one)
        assert one.state.membership.report_of(old.me) == old.state.report()

    run(main)


def test_a_copied_state_folder_is_said_once():
    """Two nodes of one identity: each hears of the other through a third, goes above it, and sees it answer."""

    async def main() -> None:
        wire = Wire()
        one, copy, third = parts(wire, index=2), parts(wire, index=2), parts(wire, index=3)
        copy.state.addresses = ("10.0.0.9:7000",)
        for _ in range(8):
            for node in (one, copy):
                node.state.report(is_beat=True)
                await exchange(node, third)
        assert [w.code for w in one.warnings() + copy.warnings()] == ["copied-state"] * 2
        assert "--fresh" in one.warnings()[0].text

    run(main)


def test_a_copy_that_calls_is_told_at_once_and_both_say_so():
    async def main() -> None:
        wire = Wire()
        one, copy = parts(wire, index=2), parts(wire, index=2)
        copy.state.addresses = ("10.0.0.9:7000",)
        _, body = copy.gossiping.compose(None, ())
        reply = await one.serving.handle(Request("POST", "/v1/gossip", body))
        copy.gossiping.absorb(decode_gossip(reply.body))
        assert [w.code for w in one.warnings()] == ["copied-state"]
        assert [w.code for w in copy.warnings()] == ["copied-state"]

    run(main)


def test_my_own_words_come_back_and_prove_nothing():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        line = one.state.report()
        one.state.report(is_beat=True)
        one.gossiping.absorb(said(one, reports=(line,)))
        one.gossiping.absorb(said(other, reports=(line,)))
        one.gossiping.absorb(said(other, reports=(replace(line, incarnation=0, addresses=("x",)),)))
        assert (one.warnings(), one.state.incarnation) == ([], 1)

    run(main)


def test_claims_max():
    """More newcomers than that at once, each at a live member's address: the rest waits for silence."""

    async def main() -> None:
        one = parts()
        for member in range(2, 2 + CLAIMS_MAX + 3):
            one.state.membership.observe(report(member, addresses=(f"a{member}",)), 0.0)
            line = report(1000 + member, addresses=(f"a{member}",))
            one.gossiping.absorb(Gossip(run_id=one.state.run_id, sender=line.peer, reports=(line,)))
        assert len(one.gossiping.listening._claims) == CLAIMS_MAX
        assert len(one.gossiping.listening.wishes()) == CLAIMS_MAX

    run(main)


def test_strangers_are_called_and_become_members_and_i_am_no_stranger():
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.gossiping.strangers.add([other.address, one.address, "10.9.9.9:1"])
            await talking(one, group, 0.4)
            assert [r.peer for r, _ in one.state.membership.reports()] == [other.me]
            assert one.gossiping.strangers.due(1e9) == ["10.9.9.9:1"]
        assert one.address not in [address for address, _ in wire.calls]

    run(main)


def test_fresh_work_goes_to_fan_out_peers_who_do_not_know_it():
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one, others = parts(wire, group=group), [parts(wire, index=index) for index in range(2, 9)]
            one.meet(*others)
            await talking(one, group, 0.1)
            entry = await published(one)
            for other in others[:5]:
                one.state.spoken.told_of(other.me, [entry.id])
            wire.calls.clear()
            for _ in range(20):
                one.gossiping.pass_on(entry.id)
                one.gossiping._speak_to_some(3, is_beat=False)
                await until(asyncio.get_running_loop().time() + 0.01)
        messages = [(to, decode_gossip(request.body)) for to, request in wire.calls]
        fresh = [to for to, message in messages if message.fresh]
        assert sorted(fresh) == [others[5].address, others[6].address], "each of them once"

    run(main)


def test_fan_out_peers_are_told_at_once():
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one = parts(wire, group=group)
            one.meet(*(parts(wire, index=index) for index in range(2, 9)))
            entry = await published(one)
            one.gossiping.pass_on(entry.id)
            one.gossiping._speak_to_some(3, is_beat=False)
        assert len({to for to, _ in wire.calls}) == len(wire.calls) == one.state.config.gossip.fan_out
        assert all(decode_gossip(request.body).fresh == (entry.manifest,) for _, request in wire.calls)

    run(main)


@pytest.mark.parametrize("reply", [Reply(200, b"nonsense"), Reply(500, b"bug"), Reply(503, b"busy"), Reply(409, b"?")])
def test_a_bad_answer_is_the_other_sides_loss(reply):
    async def main() -> None:
        wire = Wire()
        wire.fault = lambda address, request: reply
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2)
            one.meet(other)
            one.gossiping._spawn(other.me, ())
            one.gossiping._spawn(other.address, ())
        assert one.gossiping._busy == {}
        assert one.gossiping.compose(other.me, ())[0].reports, "it has heard nothing yet"

    run(main)


def test_a_rumour_is_passed_on():
    async def main() -> None:
        one = parts()
        one.state.membership.observe(report(5), 0.0)
        one.gossiping.absorb(said(parts(index=2), rumours=(Rumour(peer(5), 1, "left", peer(5)),)))
        message, _ = one.gossiping.compose(peer(9), ())
        assert message.rumours == (Rumour(peer(5), 1, "left", peer(5)),)
        assert peer(5) not in [r.peer for r in message.reports]
        assert encode_gossip(message)

    run(main)


def test_limits_are_what_they_are_said_to_be():
    assert (gossiping.FRESH_WAITING_MAX, REJECTED_MAX, FOREIGN_MAX) == (256, 4096, 64)
    assert BLUEPRINT.size * 4 < INLINE_BYTES_MAX

"""What a member may tell that nobody honest would: each found by a critic, each ended a task or filled the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pfusion.config import ROUND_MAX
from p2pfusion.errors import WireError
from p2pfusion.node.fetching import Fetching
from p2pfusion.node.pull import Pull
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire.codec import decode_links, decode_snapshot, encode_gossip, encode_links, encode_snapshot
from p2pfusion.wire.messages import COUNT_MAX, Counted, Gossip, Link
from tests.node.parts import Parts, Wire, at_work, grown, ones, parts, sealed, until
from tests.swarm.made import ledger, piece, put


def lying(wire: Wire, liar: Parts, lie: Callable[[Request, Reply], Reply]) -> None:
    honest = wire.handlers[liar.address]

    async def answer(request: Request) -> Reply:
        reply = await honest(request)
        return lie(request, reply) if reply.status == 200 else reply

    wire.handlers[liar.address] = answer


def test_a_link_that_counts_a_graft_it_does_not_name():
    def lie(request: Request, reply: Reply) -> Reply:
        links = decode_links(reply.body) if request.path == "/v1/links" else ()
        return Reply(200, encode_links([replace(links[0], graft=bytes(32)), *links[1:]])) if links else reply

    async def main() -> None:
        wire = Wire()
        late, liar = parts(wire), parts(wire, 2)
        await grown(liar, 8)
        lying(wire, liar, lie)
        late.meet(liar)
        await at_work(late, 5.0)
        assert late.state.ledger.tip.round == 0
        await late.chain.save()

    run(main)


def test_a_snapshot_whose_grafts_stand_for_more_than_anybody_remembers():
    bomb = (Counted(round=1, fork_chain=bytes(32), lost_chain=bytes(32), covers=1 << 46),)

    def lie(request: Request, reply: Reply) -> Reply:
        if not request.path.startswith("/v1/snapshots/") or request.path.count("/") != 3:
            return reply
        return Reply(200, encode_snapshot(replace(decode_snapshot(reply.body), grafts_total=1, grafts=bomb)))

    async def main() -> None:
        wire = Wire()
        late, liar = parts(wire), parts(wire, 2)
        await grown(liar, 8)
        lying(wire, liar, lie)
        late.meet(liar)
        await at_work(late, 5.0)
        assert late.state.ledger.tip.round == 0

    run(main)


def test_links_that_never_get_on_are_asked_for_once():
    async def main() -> None:
        wire = Wire()
        one, liar = parts(wire), parts(wire, 2)
        await grown(liar, 3)
        first = encode_links(liar.state.ledger.links[1:2])
        lying(wire, liar, lambda request, reply: Reply(200, first) if request.path == "/v1/links" else reply)
        one.meet(liar)
        with pytest.raises(WireError):
            await Pull(one.state, one.calls).links([liar.me], 0, 5000)
        assert wire.paths().count("/v1/links") <= 2

    run(main)


def test_the_weight_of_a_chain_stops_where_the_wire_does():
    mine = ledger()
    mine.links[0] = replace(mine.tip, weight=COUNT_MAX - 1)
    entry = put(mine, piece(1, 1))
    link = mine.next_link([entry])
    assert link.weight == COUNT_MAX
    mine.seal(link)
    put(mine, piece(2, 1))
    assert mine.next_link(mine.counted(2)).weight == COUNT_MAX


def test_a_round_that_nothing_could_follow_is_not_taken():
    link = Link(round=ROUND_MAX, chain=bytes(32), weight=1, ids=())
    assert decode_links(encode_links([link])) == (link,)
    with pytest.raises(ValueError, match="not fit for the wire"):
        encode_links([replace(link, round=ROUND_MAX + 1)])


def test_my_own_line_can_be_told_whatever_the_weight():
    async def main() -> None:
        one = parts()
        one.state.ledger.links[0] = replace(one.state.ledger.tip, weight=COUNT_MAX)
        entry = await one.publish(ones())
        assert entry is not None
        await sealed(one, entry)
        report = one.state.report(is_beat=True)
        assert encode_gossip(Gossip(run_id=one.state.run_id, sender=one.me, reports=(report,)))

    run(main)


def test_a_segment_that_comes_when_its_contribution_is_forgotten_is_not_counted():
    async def main() -> None:
        wire = Wire()
        one, other = parts(wire), parts(wire, 2)
        one.meet(other)
        loop, honest = asyncio.get_running_loop(), wire.handlers[other.address]

        async def slow(request: Request) -> Reply:
            if request.path.count("/") == 4:
                await until(loop.time() + 1.0)
            return await honest(request)

        wire.handlers[other.address] = slow
        theirs, mine = await other.publish(ones()), await one.publish(ones())
        assert theirs is not None
        assert mine is not None
        one.gossiping.admit(theirs.id, theirs.manifest)
        one.state.wanted.offer(theirs.id, other.me, None)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Fetching(one.state, one.calls, one.gossiping, group).run())
            one.state.bells["fetch"].ring()
            await until(loop.time() + 0.1)
            await sealed(one, mine)
            await until(loop.time() + 3.0)
            task.cancel()
        held = sum(entry.held_bytes for entry in one.state.ledger.entries.values())
        assert one.state.ledger.held_bytes == held

    run(main)

"""What is counted, to whom, and how long the list of peers may get."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import DIRECTIONS, Traffic
from p2pfusion.config import PEERS_MAX, NodeConfig
from p2pfusion.node.traffic import UNKNOWN, Accounts
from p2pfusion.sim.loop import run
from p2pfusion.wire.routes import KINDS, kind
from tests.node.parts import Wire, parts, until
from tests.sim.learners import light_blueprint
from tests.swarm.made import peer

SMALL, FP32 = light_blueprint(64), NodeConfig(codec="fp32")
BODIES = st.lists(
    st.tuples(st.sampled_from(DIRECTIONS), st.sampled_from(KINDS), st.integers(0, 2**40), st.integers(0, 3))
)


@given(BODIES)
def test_lines_and_totals_agree(bodies):
    accounts = Accounts()
    for direction, kind_, size_bytes, number in bodies:
        accounts.add(direction, kind_, size_bytes, peer(number) if number else UNKNOWN)
        accounts.call(direction)
    total = accounts.total()
    assert total == sum(accounts.by_peer().values(), Traffic())
    for direction in DIRECTIONS:
        of_direction = [body for body in bodies if body[0] == direction]
        assert getattr(total, direction) == sum(body[2] for body in of_direction)
        assert getattr(total, f"calls_{direction}") == len(of_direction)
        for kind_ in KINDS:
            assert total.bytes_of(direction, kind_) == sum(body[2] for body in of_direction if body[1] == kind_)
    assert total - total == Traffic()


def test_segments_inside_a_message_change_sides():
    accounts = Accounts()
    accounts.add("received", "gossip", 100, peer(1))
    accounts.inlined("received", 70, peer(1))
    assert accounts.by_peer() == {peer(1): Traffic(payload_received=70, gossip_received=30)}


def test_a_squeezed_call_is_counted_as_it_travels():
    """Segments many times as long as the body they travel in: all counters only grow, and their sum is the bodies."""

    async def main() -> None:
        wire, seen = Wire(), []
        async with asyncio.TaskGroup() as group:
            one, other = (parts(wire, i, group=group, blueprint=SMALL, config=FP32) for i in (1, 2))
            one.meet(other)
            other.meet(one)

            def look(*_: object) -> None:
                seen.append([node.state.accounts.total() for node in (one, other)])

            wire.fault = look
            mine, theirs = [await node.publish(np.ones(SMALL.size, np.float32), SMALL.whole()) for node in (one, other)]
            assert mine is not None
            assert theirs is not None
            other.gossiping._telling.owe(theirs.id, [one.me])  # so that the answer brings it
            before = other.state.accounts.total()
            one.gossiping._spawn(other.me, (mine.id,))
            await until(1.0)
            look()
        moved = other.state.accounts.total() - before
        body = len(wire.calls[0][1].body)
        assert 0 < body < SMALL.size * 4
        assert moved.payload_received + moved.gossip_received == body
        assert min(moved.payload_received, moved.gossip_received, moved.payload_sent, moved.gossip_sent) > 0
        caller = one.state.accounts.total()
        assert (caller.payload_sent, caller.gossip_sent) == (moved.payload_received, moved.gossip_received)
        assert (caller.payload_received, caller.gossip_received) == (moved.payload_sent, moved.gossip_sent)
        for early, late in pairwise(seen):
            for first, then in zip(early, late, strict=True):
                assert min(astuple(then - first)) >= 0

    run(main)


def test_of_very_many_peers_the_last_share_a_line():
    accounts = Accounts()
    for number in range(1, PEERS_MAX + 3):
        accounts.add("sent", "payload", 1, number.to_bytes(16, "big"))
    lines = accounts.by_peer()
    assert len(lines) == PEERS_MAX + 1
    assert lines[UNKNOWN].sent == 2
    accounts.add("sent", "payload", 1, (1).to_bytes(16, "big"))
    assert accounts.by_peer()[(1).to_bytes(16, "big")].sent == 2, "who has a line keeps it"
    assert list(accounts.by_peer()) == sorted(accounts.by_peer())


def test_what_each_route_counts_as():
    id_ = "ab" * 32
    assert {path: kind(path) for path in ("/v1/gossip", "/v1/ping", "/v1/probe", "/v1/nothing")} == dict.fromkeys(
        ("/v1/gossip", "/v1/ping", "/v1/probe", "/v1/nothing"), "gossip"
    )
    for what in ("contributions", "snapshots"):
        assert kind(f"/v1/{what}/{id_}") == "header"
        assert kind(f"/v1/{what}/{id_}/3") == "payload"
        assert kind(f"/v1/{what}/{id_}/3", 404) == "header", "a refusal is no segment"
    assert kind("/v1/links") == "header"
    assert kind("/v1/gossip", 409) == "gossip"
    for topic in ("forward", "backward"):
        assert kind(f"/v1/hops/{topic}") == "payload"
    for topic in ("offers", "take", "back", "end", "leave", "failed"):
        assert kind(f"/v1/hops/{topic}") == "gossip"
    assert kind(f"/v1/shards/3/snapshots/{id_}/3") == "payload"

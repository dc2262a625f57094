"""Every route's replies: what is there, what is not, and what is no question at all."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.algorithms.base import Traffic
from p2pfusion.config import LINK_IDS_MAX, LINKS_BYTES_MAX, LINKS_PER_REPLY_MAX
from p2pfusion.node import traffic
from p2pfusion.node.snapshots import take
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire.codec import (
    decode_contribution,
    decode_gossip,
    decode_links,
    decode_snapshot,
    framed_bytes,
    next_chain,
)
from p2pfusion.wire.messages import Link
from tests.node.parts import BLUEPRINT, Parts, Wire, ones, parts
from tests.swarm.made import link_after, peer, seal

UNKNOWN = "ab" * 32


def ask(one: Parts, path: str, query: str = "", *, method: str = "GET", body: bytes = b"") -> Reply:
    """One request, outside of any loop unless one is needed."""

    async def main() -> Reply:
        return await one.serving.handle(Request(method, path, body, query))

    return run(main)


def with_work() -> tuple[Parts, str]:
    """A node with one contribution of its own, and its id."""

    async def main() -> tuple[Parts, str]:
        one = parts()
        entry = await one.publish(ones())
        assert entry is not None
        return one, entry.id.hex()

    return run(main)


# -- what is no question ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/"),
        ("GET", "/v1/nothing"),
        ("POST", "/v1/ping"),
        ("GET", "/v1/gossip"),
        ("GET", "/v1/probe"),
        ("POST", "/v1/links"),
        ("GET", "/v1/contributions"),
        ("GET", f"/v1/contributions/{UNKNOWN}"),
        ("GET", f"/v1/contributions/{UNKNOWN}/0"),
        ("POST", f"/v1/contributions/{UNKNOWN}"),
        ("GET", f"/v1/contributions/{UNKNOWN[:-1]}"),
        ("GET", f"/v1/contributions/{UNKNOWN}0"),
        ("GET", f"/v1/contributions/{UNKNOWN.upper()}"),
        ("GET", f"/v1/contributions/{UNKNOWN}/"),
        ("GET", f"/v1/contributions/{UNKNOWN}/-1"),
        ("GET", f"/v1/contributions/{UNKNOWN}/01"),
        ("GET", f"/v1/contributions/{UNKNOWN}/9999999"),
        ("GET", f"/v1/contributions/{UNKNOWN}/0\n"),
        ("GET", f"/v1/contributions/{UNKNOWN}/٣"),
        ("GET", f"/v1/contributions/{UNKNOWN}/0/0"),
        ("GET", f"/v1/contributions/../{UNKNOWN}"),
        ("GET", f"/v1/snapshots/{UNKNOWN}"),
        ("GET", f"/v1/snapshots/{UNKNOWN}/0"),
        ("GET", f"/v2/snapshots/{UNKNOWN}"),
    ],
)
def test_what_is_not_there_is_404_with_a_fixed_code(method, path):
    assert ask(parts(), path, method=method) == Reply(404, b"unknown")


@pytest.mark.parametrize(
    "query", ["", "from=", "from=-1", "from=01", "from=1.0", "from=x", "from=1&x=2", "FROM=1", "1"]
)
def test_links_from_nowhere_are_400(query):
    assert ask(parts(), "/v1/links", query) == Reply(400, b"malformed")


def test_a_number_of_seventeen_digits_is_400():
    assert ask(parts(), "/v1/links", f"from={10**16}").status == 400
    assert ask(parts(), "/v1/links", f"from={10**16 - 1}").status == 200


@given(st.binary(max_size=200))
def test_gossip_that_is_none_is_400(body):
    one = parts()
    assert ask(one, "/v1/gossip", method="POST", body=body) == Reply(400, b"malformed")
    assert (one.state.bytes_received, one.state.bytes_sent) == (len(body), len(b"malformed"))


@given(st.text(max_size=90), st.text(max_size=20))
def test_no_path_does_harm(path, query):
    assert ask(parts(), "/v1/" + path, query).status in (200, 204, 400, 404)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_ping():
    assert ask(parts(), "/v1/ping") == Reply(204)


def test_a_contribution_and_its_segments():
    one, id_ = with_work()
    entry = one.state.ledger.entries[bytes.fromhex(id_)]
    manifest = ask(one, f"/v1/contributions/{id_}")
    assert (manifest.status, decode_contribution(manifest.body)) == (200, entry.manifest)
    assert ask(one, f"/v1/contributions/{id_}/0") == Reply(200, entry.segments[0] or b"")
    assert ask(one, f"/v1/contributions/{id_}/1") == Reply(404, b"unknown")
    assert ask(one, f"/v1/contributions/{id_}/999999") == Reply(404, b"unknown")


def test_a_segment_that_is_not_here_yet_is_404():
    one, id_ = with_work()
    other = parts(index=2)
    manifest = one.state.ledger.entries[bytes.fromhex(id_)].manifest
    other.state.ledger.add(bytes.fromhex(id_), manifest, 0.0)
    assert ask(other, f"/v1/contributions/{id_}").status == 200
    assert ask(other, f"/v1/contributions/{id_}/0") == Reply(404, b"unknown")


def test_a_sealed_contribution_is_served_until_its_payload_is_forgotten():
    one, id_ = with_work()
    seal(one.state.ledger)
    assert ask(one, f"/v1/contributions/{id_}/0").status == 200
    one.state.ledger.forget_payloads(1)
    assert ask(one, f"/v1/contributions/{id_}").status == 404


def test_links_come_in_pages():
    one = parts()
    for _ in range(LINKS_PER_REPLY_MAX + 5):
        seal(one.state.ledger)
    found: list[Link] = []
    while page := decode_links(ask(one, "/v1/links", f"from={len(found)}").body):
        assert len(page) == min(LINKS_PER_REPLY_MAX, LINKS_PER_REPLY_MAX + 5 - len(found))
        found += page
    assert found == one.state.ledger.links[1:]


def test_links_of_very_many_contributions_come_in_smaller_pages():
    one = parts()
    ledger = one.state.ledger
    for round_ in range(1, LINKS_PER_REPLY_MAX + 1):
        ids = tuple((round_ * LINK_IDS_MAX + i).to_bytes(32, "big") for i in range(LINK_IDS_MAX))
        ledger.links.append(Link(round=round_, chain=next_chain(ledger.tip.chain, ids), weight=round_, ids=ids))
    reply = ask(one, "/v1/links", "from=0")
    assert len(reply.body) <= LINKS_BYTES_MAX
    page = decode_links(reply.body)
    assert list(page) == ledger.links[1 : 1 + len(page)]
    assert LINKS_PER_REPLY_MAX // 4 <= len(page) < LINKS_PER_REPLY_MAX


def test_a_snapshot_and_its_segments():
    one = parts()
    model = np.arange(BLUEPRINT.size, dtype=np.float32)
    link = link_after(one.state.ledger.tip)
    one.kept.keep(take(one.state.run_id, link, model), 0.0)
    manifest = decode_snapshot(ask(one, f"/v1/snapshots/{link.chain.hex()}").body)
    assert (manifest.round, manifest.chain) == (1, link.chain)
    assert bytes(ask(one, f"/v1/snapshots/{link.chain.hex()}/0").body) == model.astype("<f4").tobytes()
    assert ask(one, f"/v1/snapshots/{link.chain.hex()}/1").status == 404
    genesis = one.state.ledger.tip.chain.hex()
    assert bytes(ask(one, f"/v1/snapshots/{genesis}/0").body) == one.state.replica.sealed.tobytes()


def test_gossip_is_answered_in_kind():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        _, body = other.gossiping.compose(None, ())
        reply = await one.serving.handle(Request("POST", "/v1/gossip", body))
        answer = decode_gossip(reply.body)
        assert (reply.status, answer.sender, [r.peer for r in answer.reports]) == (200, one.me, [one.me])
        assert [p.id for p in one.state.membership.view(0.0).peers] == [other.me]
        assert one.state.bytes_received == len(body)
        assert one.state.bytes_sent == len(reply.body)

    run(main)


# -- accounts ---------------------------------------------------------------------------------------------------------


def test_what_is_served_is_accounted_by_kind_to_the_member_who_asks():
    async def main() -> None:
        one, other = parts(), parts(index=2)
        entry = await one.publish(ones())
        assert entry is not None
        one.meet(other)
        path = f"/v1/contributions/{entry.id.hex()}"
        segment = await one.serving.handle(Request("GET", f"{path}/0", sender=other.me))
        manifest = await one.serving.handle(Request("GET", path, sender=other.me))
        missing = await one.serving.handle(Request("GET", f"{path}/1", sender=other.me))
        assert one.state.accounts.by_peer() == {
            other.me: Traffic(
                payload_sent=len(segment.body), header_sent=len(manifest.body) + len(missing.body), calls_received=3
            )
        }

    run(main)


@pytest.mark.parametrize("sender", [b"", b"short", peer(9)])
def test_who_is_no_member_has_no_line_of_their_own(sender):
    one = parts()
    run(lambda: one.serving.handle(Request("GET", "/v1/links", query="from=0", sender=sender)))
    assert list(one.state.accounts.by_peer()) == [traffic.UNKNOWN]


def test_segments_inside_gossip_are_payload_at_both_ends():
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            one, other = parts(wire, group=group), parts(wire, index=2, group=group)
            one.meet(other)
            other.meet(one)
            entry = await one.publish(ones())
            assert entry is not None
            plain_bytes = sum(len(segment or b"") for segment in entry.segments)
            one.gossiping._spawn(other.me, (entry.id,))
        body = wire.calls[0][1].body
        size_bytes = plain_bytes * len(body) // framed_bytes(body)  # a message is squeezed as a whole
        assert size_bytes > 0
        sent, received = one.state.accounts.by_peer()[other.me], other.state.accounts.by_peer()[one.me]
        assert (sent.payload_sent, sent.payload_received) == (size_bytes, 0)
        assert (received.payload_received, received.payload_sent) == (size_bytes, 0)
        assert (sent.gossip_sent, sent.gossip_received) == (received.gossip_received, received.gossip_sent)
        assert sent.gossip_sent > 0
        assert sent.sent == len(wire.calls[0][1].body)

    run(main)

"""Which address is called, and for how long one that belongs to nobody is tried."""

from __future__ import annotations

import random

import pytest

from p2pfusion.algorithms.base import Traffic
from p2pfusion.config import PEERS_MAX, GossipConfig
from p2pfusion.errors import DeadlineExceeded, Unreachable
from p2pfusion.node.calls import RETRY_MAX_S, STRANGER_TRIES_MAX, STRANGERS_MAX, Absent, Strangers
from p2pfusion.node.traffic import UNKNOWN
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from tests.node.parts import Wire, parts
from tests.swarm.made import peer, report

PING = Request("GET", "/v1/ping", b"12345")

# -- strangers --------------------------------------------------------------------------------------------------------


def test_a_stranger_is_tried_at_once_and_then_with_doubling_pauses():
    strangers, now_s, pauses = Strangers(()), 100.0, []
    strangers.add(["a"])
    for _ in range(STRANGER_TRIES_MAX - 1):
        assert strangers.due(now_s) == ["a"]
        strangers.called("a", now_s)
        pause_s = next(s / 2 for s in range(1, 200) if strangers.due(now_s + s / 2))
        pauses.append(pause_s)
        now_s += pause_s
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, RETRY_MAX_S]
    strangers.called("a", now_s)
    assert strangers.due(1e9) == [], "given up"


def test_discovery_brings_an_address_back_as_if_it_were_new():
    strangers = Strangers(())
    strangers.add(["a"])
    for _ in range(STRANGER_TRIES_MAX):
        strangers.called("a", 0.0)
    strangers.add(["a"])
    assert strangers.due(0.0) == ["a"]
    strangers.called("a", 0.0)
    assert strangers.due(1.0) == ["a"]


def test_an_address_found_again_is_tried_at_once():
    strangers = Strangers(())
    strangers.add(["a"])
    for _ in range(4):
        strangers.called("a", 0.0)
    assert strangers.due(1.0) == []
    strangers.add(["a"])
    assert strangers.due(1.0) == ["a"]


def test_the_users_own_addresses_are_never_given_up():
    strangers = Strangers(["b", "a"])
    assert strangers.due(0.0) == ["a", "b"]
    for tries in range(3 * STRANGER_TRIES_MAX):
        strangers.called("a", 1000.0 * tries)
        assert strangers.due(1000.0 * tries + RETRY_MAX_S) == ["a", "b"]
    strangers.forget("a")
    assert strangers.due(1e9) == ["b"], "its owner is a member now"


def test_strangers_max():
    strangers = Strangers(["own"])
    addresses = [f"a{number:03}" for number in range(STRANGERS_MAX)]
    strangers.add(addresses)
    assert len(strangers.due(0.0)) == STRANGERS_MAX
    assert addresses[-1] not in strangers.due(0.0)
    strangers.forget(addresses[0])
    strangers.add([addresses[-1], "another"])
    assert len(strangers.due(0.0)) == STRANGERS_MAX
    assert "another" not in strangers.due(0.0)
    assert addresses[-1] in strangers.due(0.0)


def test_what_is_forgotten_leaves_nothing_behind():
    strangers = Strangers(())
    for number in range(1000):
        strangers.add([f"{number}"])
        for _ in range(number % (STRANGER_TRIES_MAX + 1)):
            strangers.called(f"{number}", 0.0)
        strangers.forget(f"{number}")
        strangers.forget(f"{number}")
    assert not strangers._due_s
    assert not strangers._tries


def test_somebody_new_rings_and_the_next_moment_is_known():
    rings: list[str] = []
    strangers = Strangers((), lambda: rings.append("ring"))
    assert strangers.next_s() == float("inf")
    strangers.add(["a", "b"])
    assert (rings, strangers.next_s()) == (["ring"], 0.0)
    strangers.called("a", 10.0)
    strangers.postpone("b", 10.25)
    assert strangers.next_s() == 10.25


# -- the dead ---------------------------------------------------------------------------------------------------------


def test_the_dead_are_called_one_at_a_time_ever_more_slowly():
    absent, rng = Absent(GossipConfig()), random.Random(1)
    dead, called_s = [peer(n) for n in range(1, 6)], []
    for step in range(4000):
        called = absent.due(dead, step / 100, rng)
        assert len(called) <= 1
        called_s += [step / 100] * len(called)
    assert called_s[:6] == pytest.approx([0.0, 0.4, 1.2, 2.8, 6.0, 9.2], abs=0.02), "doubling, up to the longest"
    assert absent.due([*dead, peer(9)], 40.0, rng) != [], "one more died"
    assert absent.due([*dead, peer(9)], 40.1, rng) == []
    assert absent.due([], 99.0, rng) == []


# -- calls ------------------------------------------------------------------------------------------------------------


def answering(*addresses: str) -> Wire:
    async def handle(request: Request) -> Reply:
        return Reply(200, b"1234567")

    wire = Wire()
    wire.handlers = dict.fromkeys(addresses, handle)
    return wire


def test_a_member_is_called_where_it_answered_last():
    async def main() -> list[str]:
        wire = answering("b", "c")
        one = parts(wire)
        one.state.membership.observe(report(2, addresses=("a", "b", "c")), 0.0)
        for _ in range(2):
            assert (await one.calls.to_peer(peer(2), PING, 1.0)).status == 200
        del wire.handlers["b"]
        await one.calls.to_peer(peer(2), PING, 1.0)
        await one.calls.to_peer(peer(2), PING, 1.0)
        one.state.membership.observe(report(2, 2, addresses=("d", "b")), 0.0)
        with pytest.raises(Unreachable):
            await one.calls.to_peer(peer(2), PING, 1.0)
        return [address for address, _ in wire.calls]

    assert "".join(run(main)) == "ab" + "b" + "bac" + "c" + "db"


def test_a_member_without_addresses_is_out_of_reach():
    async def main() -> None:
        one = parts()
        one.state.membership.observe(report(2), 0.0)
        for nobody in (2, 3):
            with pytest.raises(Unreachable, match="has no address"):
                await one.calls.to_peer(peer(nobody), PING, 1.0)

    run(main)


def test_the_last_failure_is_the_one_that_is_raised():
    async def main() -> None:
        def slow(address: str, request: Request) -> None:
            if address == "b":
                raise DeadlineExceeded("slow")

        wire = answering()
        wire.fault = slow
        one = parts(wire)
        one.state.membership.observe(report(2, addresses=("a", "b")), 0.0)
        with pytest.raises(DeadlineExceeded):
            await one.calls.to_peer(peer(2), PING, 1.0)

    run(main)


def test_bytes_are_counted_when_they_move():
    async def main() -> tuple[int, int]:
        one = parts(answering("b"))
        await one.calls.to_address("b", PING, 1.0)
        with pytest.raises(Unreachable):
            await one.calls.to_address("c", PING, 1.0)
        return one.state.bytes_sent, one.state.bytes_received

    assert run(main) == (10, 7)


def test_bytes_are_accounted_by_kind_to_whom_they_went():
    async def main() -> None:
        one = parts(answering("b"))
        one.state.membership.observe(report(2, addresses=("a", "b")), 0.0)
        await one.calls.to_address("b", PING, 1.0)
        await one.calls.to_peer(peer(2), Request("POST", "/v1/gossip", b"123456789"), 1.0, inlined_bytes=4)
        accounts = one.state.accounts
        mine = Traffic(payload_sent=8, gossip_sent=10, gossip_received=7, calls_sent=2)
        assert accounts.by_peer()[peer(2)] == mine, "both tries"
        assert accounts.by_peer()[UNKNOWN] == Traffic(gossip_sent=5, gossip_received=7, calls_sent=1)
        assert accounts.total() == sum(accounts.by_peer().values(), Traffic())

    run(main)


def test_a_call_says_who_makes_it():
    async def main() -> None:
        wire = answering("b")
        one = parts(wire)
        await one.calls.to_address("b", PING, 1.0)
        assert [request.sender for _, request in wire.calls] == [one.me]

    run(main)


def test_good_addresses_are_remembered_of_peers_max_members():
    async def main() -> int:
        one = parts(answering("a"))
        for member in range(2, PEERS_MAX + 4):
            one.state.membership._records.clear()
            one.state.membership.observe(report(member, addresses=("a",)), 0.0)
            await one.calls.to_peer(peer(member), PING, 1.0)
        return len(one.calls._good)

    assert run(main) == PEERS_MAX


def test_where_a_member_surely_lives():
    async def main() -> None:
        one = parts(answering("b"))
        assert one.calls.home(peer(2)) is None
        one.state.membership.observe(report(2, addresses=("a", "b")), 0.0)
        assert one.calls.home(peer(2)) is None, "one of two"
        await one.calls.to_peer(peer(2), PING, 1.0)
        assert one.calls.home(peer(2)) == "b"
        one.state.membership.observe(report(3, addresses=("c",)), 0.0)
        assert one.calls.home(peer(3)) == "c"

    run(main)

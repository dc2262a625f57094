"""The simulated network: when packets arrive, what silence and refusal look like, and faults made from outside."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pfusion.errors import ConfigError, DeadlineExceeded, PortError, Unreachable
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.hosts import HANDLER_DEADLINE_S
from p2pfusion.sim.links import HEADER_BYTES
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import (
    CALLS_IN_FLIGHT_MAX,
    CALLS_PER_PEER_MAX,
    HOSTS_MAX,
    LinkModel,
    Network,
    SimTransport,
)

PING = Request("GET", "/v1/ping")
FAST = LinkModel(latency_s=0.01, jitter_s=0.0, bandwidth_bytes_per_s=float("inf"))
DEAF = LinkModel(loss=1.0)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def echo(request: Request) -> Reply:
    return Reply(200, request.body)


def post(body: bytes) -> Request:
    return Request("POST", "/v1/gossip", body)


class World:
    """Hosts 1..n that all echo, on one network; `transports[0]` is host 1."""

    def __init__(self, link: LinkModel = FAST, hosts: int = 2, seed: int = 7, **options) -> None:
        self.events: list[tuple[float, str, str, int]] = []
        self.network = Network(random.Random(seed), link, trace=self._note, **options)
        self.transports = [SimTransport(self.network, i + 1) for i in range(hosts)]

    def _note(self, at_s, fate, packet) -> None:
        self.events.append((round(at_s, 9), fate, packet.kind, packet.source))

    async def __aenter__(self):
        await self.network.__aenter__()
        for transport in self.transports:
            await transport.serve(echo)
        return self

    async def __aexit__(self, *error):
        await self.network.__aexit__(*error)

    async def call(self, source: int, target: int, request: Request = PING, deadline_s: float = 5.0) -> Reply:
        return await self.transports[source - 1].call(Network.address(target), request, deadline_s=deadline_s)


def test_addresses_are_numbered():
    assert [Network.address(n) for n in (1, 255, 256, HOSTS_MAX)] == [
        "10.0.0.1:7000",
        "10.0.0.255:7000",
        "10.0.1.0:7000",
        "10.0.16.0:7000",
    ]


@pytest.mark.parametrize("number", [0, -1, HOSTS_MAX + 1])
def test_host_numbers_are_limited(number):
    network = Network(random.Random(1), FAST)
    SimTransport(network, HOSTS_MAX)
    with pytest.raises(ConfigError, match=str(HOSTS_MAX)):
        SimTransport(network, number)


@pytest.mark.parametrize(
    "values", [{"loss": 1.1}, {"loss": -0.1}, {"latency_s": float("nan")}, {"bandwidth_bytes_per_s": 0}]
)
def test_link_models_are_checked_and_the_field_is_named(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        LinkModel(**values)


def test_a_call_takes_two_latencies_and_the_time_of_its_bytes():
    async def main():
        link = LinkModel(latency_s=0.25, jitter_s=0.0, bandwidth_bytes_per_s=1000)
        async with World(link) as world:
            reply = await world.call(1, 2, post(bytes(1000)))
            assert len(reply.body) == 1000
            assert now_s() == pytest.approx(2 * (0.25 + (1000 + HEADER_BYTES) / 1000))

    run(main)


def test_jitter_stays_in_its_range_and_varies():
    async def main():
        async with World(LinkModel(latency_s=1.0, jitter_s=0.5, bandwidth_bytes_per_s=float("inf"))) as world:
            taken = []
            for _ in range(50):
                began_s = now_s()
                await world.call(1, 2)
                taken.append(now_s() - began_s)
            assert 2.0 <= min(taken) < 2.3
            assert 2.7 < max(taken) < 3.0

    run(main)


@pytest.mark.parametrize("seed", range(5))
def test_a_link_is_first_in_first_out(seed):
    async def main():
        link = LinkModel(latency_s=0.0, jitter_s=1.0)
        async with World(link, hosts=1, seed=seed) as world:
            arrived = []

            async def note(request: Request) -> Reply:
                arrived.append(request.body)
                return Reply(200)

            server = SimTransport(world.network, 9)
            await server.serve(note)
            async with asyncio.TaskGroup() as group:
                for i in range(CALLS_PER_PEER_MAX):
                    group.create_task(world.call(1, 9, post(b"%d" % i)))
            assert arrived == [b"%d" % i for i in range(CALLS_PER_PEER_MAX)]

    run(main)


def test_bandwidth_is_shared_in_turn_by_one_direction_of_one_pair():
    async def main():
        size = 1000 - HEADER_BYTES
        link = LinkModel(latency_s=0.0, jitter_s=0.0, bandwidth_bytes_per_s=1000)
        async with World(link, hosts=3) as world:
            world.network.overrides.update({(2, 1): FAST, (3, 1): FAST})

            async def timed(source: int, target: int) -> float:
                await world.call(source, target, post(bytes(size)))
                return round(now_s(), 6)

            async with asyncio.TaskGroup() as group:
                pairs = [(1, 2), (1, 2), (1, 2), (1, 3)]
                calls = [group.create_task(timed(*pair)) for pair in pairs]
            assert [call.result() for call in calls] == [1.01, 2.01, 3.01, 1.01]

    run(main)


NARROW = LinkModel(latency_s=0.0, jitter_s=0.0, bandwidth_bytes_per_s=float("inf"), access_bytes_per_s=100_000.0)
LARGE = post(b"x" * (50_000 - HEADER_BYTES))


@pytest.mark.parametrize("calls", [((1, 2), (1, 3), (1, 4)), ((2, 1), (3, 1), (4, 1))])
def test_all_links_of_a_host_share_its_access(calls):
    async def main() -> None:
        async with World(NARROW, hosts=4) as world, asyncio.TaskGroup() as group:
            for source, target in calls:
                group.create_task(world.call(source, target, LARGE))
        arrivals = sorted(at_s for at_s, fate, kind, _ in world.events if (fate, kind) == ("arrived", "request"))
        assert arrivals == pytest.approx([0.5, 1.0, 1.5])

    run(main)


def test_who_has_little_to_send_hardly_waits_at_a_busy_access():
    async def main() -> None:
        async with World(NARROW, hosts=3) as world:
            busy = asyncio.create_task(world.call(1, 2, LARGE))
            await asyncio.sleep(0.1)
            await world.call(1, 3, PING)
            assert now_s() == pytest.approx(0.1 + 2 * HEADER_BYTES / 100_000)
            await busy

    run(main)


def test_a_link_stops_sending_for_a_caller_who_gave_up():
    async def main():
        link = LinkModel(latency_s=0.0, jitter_s=0.0, bandwidth_bytes_per_s=1000)
        async with World(link) as world:
            for _ in range(5):  # each would take 100 s
                with pytest.raises(DeadlineExceeded):
                    await world.call(1, 2, post(bytes(100_000)), deadline_s=1)
            assert now_s() == 5
            await world.call(1, 2)
            assert now_s() == pytest.approx(5 + 2 * HEADER_BYTES / 1000)
            assert world.network.traffic(2).received_packets == 1
            assert [fate for _, fate, _, _ in world.events[:5]] == ["late"] * 5

    run(main)


def test_a_lost_request_is_silence_and_never_handled():
    async def main():
        async with World(overrides={(1, 2): DEAF}) as world:
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 2, deadline_s=3)
            assert now_s() == 3
            assert world.events == [(0.0, "lost", "request", 1)]
            assert world.network.traffic(1).sent_packets == 1

    run(main)


def test_a_lost_reply_is_silence_though_it_was_handled():
    async def main():
        async with World(overrides={(2, 1): DEAF}) as world:
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 2, deadline_s=3)
            assert [event[1:] for event in world.events] == [
                ("sent", "request", 1),
                ("arrived", "request", 1),
                ("lost", "reply", 2),
            ]

    run(main)


def test_loss_strikes_each_packet_by_itself():
    async def main():
        async with World(LinkModel(loss=0.2)) as world:
            answered = 0
            for _ in range(1000):
                try:
                    await world.call(1, 2, deadline_s=1)
                    answered += 1
                except DeadlineExceeded:
                    pass
            return answered

    assert 600 < run(main) < 680  # 0.8 * 0.8


def test_nobody_listening_refuses_after_a_round_trip():
    async def main():
        async with World() as world:
            for address in ("10.0.0.77:7000", "nonsense"):
                began_s = now_s()
                with pytest.raises(Unreachable):
                    await world.transports[0].call(address, PING, deadline_s=5)
                assert now_s() - began_s == pytest.approx(0.02)
            assert world.events[0] == (0.0, "sent", "request", 1)
            assert world.events[-1] == (0.04, "arrived", "refusal", 0)

    run(main)


def test_a_crash_is_silence_both_ways_and_cancels_what_was_being_answered():
    async def main():
        async with World(hosts=1) as world:
            ended = []

            async def slow(request: Request) -> Reply:
                try:
                    await asyncio.sleep(2)
                finally:
                    ended.append(now_s())
                return Reply(200, b"alive")

            server = SimTransport(world.network, 9)
            await server.serve(slow)
            asyncio.get_running_loop().call_later(1, world.network.crash, 9)
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 9, deadline_s=10)
            assert ended == [1.0]
            with pytest.raises(DeadlineExceeded):
                await server.call(Network.address(1), PING, deadline_s=1)
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 9, deadline_s=1)
            world.network.revive(9)
            assert (await world.call(1, 9)).body == b"alive"
            assert (await server.call(Network.address(1), PING, deadline_s=1)).status == 200

    run(main)


def test_a_severed_pair_loses_what_is_in_flight_and_heals():
    async def main():
        async with World(hosts=3) as world:
            asyncio.get_running_loop().call_later(0.005, world.network.sever, 2, 1)
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 2, deadline_s=1)
            assert world.events == [(0.0, "sent", "request", 1), (0.01, "cut", "request", 1)]
            with pytest.raises(DeadlineExceeded):
                await world.call(2, 1, deadline_s=1)
            assert (await world.call(1, 3)).status == 200
            world.network.heal(1, 2)
            assert (await world.call(2, 1)).status == 200

    run(main)


def test_blocked_may_be_one_way():
    async def main():
        async with World() as world:
            handled = []

            async def note(request: Request) -> Reply:
                handled.append(now_s())
                return Reply(200)

            await SimTransport(world.network, 9).serve(note)
            world.network.blocked = lambda source, target: (source, target) == (9, 1)
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 9, deadline_s=1)
            assert handled == [0.01]

    run(main)


def test_a_host_has_one_server_at_a_time_and_a_new_one_after_close():
    async def main():
        async with World() as world:
            second = SimTransport(world.network, 2)
            with pytest.raises(PortError, match="is taken"):
                await second.serve(echo)
            await world.transports[1].close()
            await second.serve(echo)
            await world.transports[1].close()  # an old transport's second close leaves the new one alone
            assert (await world.call(1, 2)).status == 200

    run(main)


@pytest.mark.parametrize(("targets", "limit"), [(1, CALLS_PER_PEER_MAX), (20, CALLS_IN_FLIGHT_MAX)])
def test_calls_beyond_the_limit_wait_under_their_deadline(targets, limit):
    async def main():
        async with World(hosts=1) as world:
            release, entered = asyncio.Event(), []

            async def hold(request: Request) -> Reply:
                entered.append(request.body)
                await release.wait()
                return Reply(200)

            for number in range(2, 2 + targets):
                await SimTransport(world.network, number).serve(hold)

            async def call(i: int) -> str:
                try:
                    await world.call(1, 2 + i % targets, deadline_s=2)
                except DeadlineExceeded:
                    return "late"
                return "answered"

            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(call(i)) for i in range(limit + 3)]
                await asyncio.sleep(1)
                assert len(entered) == limit
                await asyncio.sleep(1.5)
                release.set()
            assert [call.result() for call in calls] == ["late"] * (limit + 3)
            assert len(entered) == limit  # the places came free only as those behind gave up too

    run(main)


def test_a_handler_that_hangs_gives_its_place_back():
    async def main():
        async with World() as world:

            async def hang(request: Request) -> Reply:
                await asyncio.Event().wait()
                return Reply(200)

            await SimTransport(world.network, 9).serve(hang)
            reply = await world.call(1, 9, deadline_s=2 * HANDLER_DEADLINE_S)
            assert (reply.status, reply.body) == (503, b"busy")

    run(main)


def test_handlers_that_raise_are_counted_even_a_timeout_of_their_own():
    async def main():
        async with World() as world:

            async def fail(request: Request) -> Reply:
                raise TimeoutError("mine")

            await SimTransport(world.network, 9).serve(fail)
            assert (await world.call(1, 9)).status == 500
            assert world.network.handler_errors == 1

    run(main)


def test_bytes_and_packets_are_counted_at_both_ends():
    async def main():
        async with World(hosts=3) as world:
            await world.call(1, 2, post(bytes(100)))
            await world.call(3, 2, post(bytes(7)))
            one, two, three = (world.network.traffic(n) for n in (1, 2, 3))
            assert (one.sent_bytes, one.received_bytes, one.sent_packets, one.received_packets) == (100, 100, 1, 1)
            assert (two.sent_bytes, two.received_bytes, two.sent_packets, two.received_packets) == (107, 107, 2, 2)
            assert (three.sent_bytes, three.received_bytes) == (7, 7)

    run(main)


def test_what_travels_is_a_copy():
    async def main():
        async with World() as world:
            kept = bytearray(b"before")

            async def share(request: Request) -> Reply:
                kept.extend(b"+" + request.body)
                asyncio.get_running_loop().call_soon(kept.__setitem__, slice(0, 6), b"AFTER!")
                return Reply(200, b"", (memoryview(bytes(kept)), bytearray(b".")))

            await SimTransport(world.network, 9).serve(share)
            sent = bytearray(b"sent")
            asyncio.get_running_loop().call_later(0.001, sent.__setitem__, slice(0, 4), b"LATE")
            reply = await world.call(1, 9, post(sent))
            assert reply.body == b"before+sent."

    run(main)


def test_leaving_the_network_cancels_handlers_and_silences_everybody():
    async def main():
        ended = []

        async def slow(request: Request) -> Reply:
            try:
                await asyncio.sleep(50)
            finally:
                ended.append(now_s())
            return Reply(200)

        async with asyncio.TaskGroup() as group:
            async with World() as world:
                await SimTransport(world.network, 9).serve(slow)
                call = group.create_task(world.call(1, 9, deadline_s=20))
                await asyncio.sleep(1)
            assert ended == [1.0]
            with pytest.raises(DeadlineExceeded):
                await world.call(1, 2, deadline_s=1)
            await asyncio.sleep(10)
            assert not call.done()
            call.cancel()

    run(main)


def test_an_error_inside_leaves_the_network_as_it_is():
    async def main():
        async with World():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main)

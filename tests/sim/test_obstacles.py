"""Links that duplicate and reorder, walls that hold, hosts clogged or deaf: each fault of the network alone."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from p2pfusion.errors import ConfigError, DeadlineExceeded
from p2pfusion.seams import Reply, Request
from p2pfusion.sim import obstacles
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import CALLS_PER_PEER_MAX, LinkModel, Network, SimTransport

LINK = LinkModel(latency_s=0.01, jitter_s=0.0, bandwidth_bytes_per_s=float("inf"))


class Pair:
    """Host 1 answers and notes the bodies it gets; host 2 calls."""

    def __init__(self, link: LinkModel = LINK) -> None:
        self.fates: Counter[str] = Counter()
        self.network = Network(random.Random(5), link, trace=lambda _, fate, packet: self._note(fate, packet.kind))
        self.caller = SimTransport(self.network, 2)
        self.heard: list[tuple[float, bytes]] = []

    def _note(self, fate: str, kind: str) -> None:
        self.fates[f"{kind} {fate}"] += 1

    async def __aenter__(self):
        await self.network.__aenter__()
        await SimTransport(self.network, 1).serve(self._handle)
        return self

    async def __aexit__(self, *error):
        await self.network.__aexit__(*error)

    async def _handle(self, request: Request) -> Reply:
        self.heard.append((asyncio.get_running_loop().time(), bytes(request.body)))
        return Reply(200, b"%d" % len(self.heard))

    async def ask(self, body: bytes = b"", deadline_s: float = 1.0) -> bytes:
        request = Request("POST", "/v1/gossip", body)
        return bytes((await self.caller.call(Network.address(1), request, deadline_s=deadline_s)).body)


@pytest.mark.parametrize("name", ["duplication", "reordering", "reordering_s"])
def test_odd_links_are_checked_and_the_field_is_named(name):
    with pytest.raises(ConfigError, match=name):
        LinkModel(**{name: -0.1})


def test_a_request_that_comes_twice_is_handled_twice_and_answered_once():
    async def main():
        async with Pair(replace(LINK, duplication=1.0)) as pair:
            assert await pair.ask(b"x") == b"1"
            await asyncio.sleep(1)
            assert [body for _, body in pair.heard] == [b"x", b"x"]
            assert pair.fates == {"request sent": 1, "request arrived": 2, "reply sent": 2, "reply arrived": 4}

    run(main)


def test_only_the_share_that_is_asked_for_comes_twice():
    async def main():
        async with Pair(replace(LINK, duplication=0.05)) as pair:
            for _ in range(400):
                await pair.ask()
            assert 400 < len(pair.heard) < 440

    run(main)


def test_on_a_link_that_reorders_some_overtake_others():
    async def main():
        async with Pair(replace(LINK, reordering=0.5, reordering_s=1.0)) as pair:
            sent = [b"%d" % i for i in range(CALLS_PER_PEER_MAX)]
            async with asyncio.TaskGroup() as group:
                for body in sent:
                    group.create_task(pair.ask(body, 5.0))
            heard = [body for _, body in pair.heard]
            assert sorted(heard) == sent != heard

    run(main)


def test_chance_is_the_same_with_and_without_odd_packets_elsewhere():
    """Two draws for a plain packet: a link that duplicates changes no plain link's history."""

    async def lost(**odd: float) -> Counter[str]:
        async with Pair(replace(LINK, loss=0.5, **odd)) as pair:
            for _ in range(50):
                try:
                    await pair.ask(deadline_s=0.1)
                except DeadlineExceeded:
                    continue
            return pair.fates

    assert run(lost()) == run(lost(duplication=0.0))
    assert run(lost()) != run(lost(duplication=0.5))


def test_what_a_wall_holds_arrives_after_it_fell_and_no_sooner():
    async def main():
        async with Pair() as pair:
            pair.network.held = lambda source, target: target == 1
            with pytest.raises(DeadlineExceeded):
                await pair.ask(b"late")
            assert not pair.heard
            pair.network.release()
            await asyncio.sleep(1)
            assert not pair.heard
            pair.network.held = lambda source, target: False
            pair.network.release()
            await asyncio.sleep(1)
            assert pair.heard == [(2.01, b"late")]
            assert pair.fates["request held"] == 1

    run(main)


def test_a_wall_holds_so_many_packets_and_no_more(monkeypatch):
    monkeypatch.setattr(obstacles, "HELD_MAX", 2)

    async def main():
        async with Pair() as pair:
            pair.network.held = lambda source, target: True
            for _ in range(3):
                with pytest.raises(DeadlineExceeded):
                    await pair.ask(deadline_s=0.1)
            assert (pair.fates["request held"], pair.fates["request lost"]) == (2, 1)

    run(main)


def test_large_bodies_do_not_pass_a_clogged_host_either_way():
    async def main():
        async with Pair() as pair:
            for host in (1, 2):
                pair.network.clog(host, 10)
                assert await pair.ask(bytes(10))
                with pytest.raises(DeadlineExceeded):
                    await pair.ask(bytes(11))
                pair.network.clog(host, None)
            assert await pair.ask(bytes(11))

    run(main)


def test_nothing_leaves_or_reaches_a_deaf_host_and_its_handlers_go_on():
    async def main():
        async with Pair() as pair:
            for host in (1, 2):
                pair.network.deafen(host, True)
                with pytest.raises(DeadlineExceeded):
                    await pair.ask()
                pair.network.deafen(host, False)
                assert await pair.ask()
            assert len(pair.heard) == 2

    run(main)

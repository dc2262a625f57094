"""Thirty nodes ping each other on a lossy network while some crash; prints a hash of everything that happened.

Run by `test_determinism` in processes of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys

from p2pfusion.errors import DeadlineExceeded
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.links import Packet
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport

NODES = 30
PINGS = 20
TAG = "5a5a5a5a5a5a5a5a"


async def node(number: int, network: Network, registry: Registry, rng: random.Random) -> None:
    transport, discovery, compute = SimTransport(network, number), SimDiscovery(registry), SimCompute()
    known: list[str] = []

    async def answer(request: Request) -> Reply:
        size = len(request.body)
        return Reply(200, await compute.run(lambda: bytes(size), cost_s=rng.random() / 100, lane="fold"))

    async def browse() -> None:
        async for addresses in discovery.found(TAG):
            known.extend(addresses)

    async def ping() -> None:
        await asyncio.sleep(1)
        for _ in range(PINGS):
            request = Request("POST", "/v1/gossip", bytes(rng.randrange(5000)))
            try:
                await transport.call(rng.choice(known), request, deadline_s=0.5)
            except DeadlineExceeded:
                await asyncio.sleep(0.1)

    await discovery.announce(TAG, await transport.serve(answer))
    async with asyncio.TaskGroup() as group:
        search = group.create_task(browse())
        async with asyncio.TaskGroup() as pings:
            for _ in range(2):
                pings.create_task(ping())
        search.cancel()


async def swarm(seed: int, note) -> None:
    rng = random.Random(seed)
    link = LinkModel(jitter_s=0.02, loss=0.1, bandwidth_bytes_per_s=1_000_000)
    async with Network(random.Random(rng.random()), link, trace=note) as network:
        registry = Registry()
        loop = asyncio.get_running_loop()
        for victim in (3, 7, 21):
            loop.call_later(2 + victim / 10, network.crash, victim)
            loop.call_later(4 + victim / 10, network.revive, victim)
        async with asyncio.TaskGroup() as group:
            for number in range(1, NODES + 1):
                group.create_task(node(number, network, registry, random.Random(rng.random())))


def trace_hash(seed: int) -> str:
    """SHA-256 of every packet's fate and moment, in order."""
    digest = hashlib.sha256()

    def note(at_s: float, fate: str, packet: Packet) -> None:
        digest.update(f"{at_s!r} {fate} {packet}\n".encode())

    run(swarm(seed, note))
    return digest.hexdigest()


if __name__ == "__main__":
    print(trace_hash(int(sys.argv[1])))

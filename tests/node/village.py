"""Several nodes that only talk and probe, over the simulated network: membership alone, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from p2pfusion.config import GossipConfig, NodeConfig
from p2pfusion.node.events import PeerEvent
from p2pfusion.node.probing import Probing
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.swarm.membership import Status
from tests.node.parts import Parts, Wire, parts, seen, until
from tests.swarm.made import peer

LAN = LinkModel(latency_s=0.005, jitter_s=0.005)
LOSSY = LinkModel(latency_s=0.005, jitter_s=0.005, loss=0.1)


async def pause(seconds_s: float) -> None:
    """Let that much virtual time pass."""
    await until(asyncio.get_running_loop().time() + seconds_s)


class Door(Wire):
    """A simulated transport in the place of the wire."""

    def __init__(self, network: Network, host: int) -> None:
        super().__init__()
        self.transport = SimTransport(network, host)

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        self.calls.append((address, request))
        return await self.transport.call(address, request, deadline_s=deadline_s, into=into)


@dataclass(frozen=True)
class Happened:
    """`who` (a host) thought at this moment that `about` became that."""

    at_s: float
    who: int
    about: bytes
    status: str


@dataclass
class Villager:
    node: Parts
    door: Door
    life: asyncio.Task[None]
    told: int = 0
    probing: asyncio.Task[None] | None = None


@dataclass
class Village:
    """Hosts 1 to n, everybody knows the address of host 1 and what gossip tells."""

    link: LinkModel = LAN
    seed: int = 1
    gossip: GossipConfig = field(default_factory=GossipConfig)
    living: dict[int, Villager] = field(default_factory=dict)
    history: list[Happened] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.network = Network(random.Random(self.seed), self.link)
        await self.network.__aenter__()
        self.group = await asyncio.TaskGroup().__aenter__()
        self.watch = self.group.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.watch.cancel()
        for villager in self.living.values():
            villager.life.cancel()
        await self.group.__aexit__(kind, error, trace)
        await self.network.__aexit__(kind, error, trace)

    async def start(self, host: int, *, identity: int | None = None, incarnation: int = 1 << 20) -> Parts:
        """A node on this host; `identity` is its peer number if not the host's."""
        number = identity or host
        door = Door(self.network, host)
        made = parts(door, number, config=NodeConfig(gossip=self.gossip, peers=(Network.address(1),)))
        made.state.addresses = (Network.address(host),)
        made.state.incarnation = incarnation
        made.state.doors.rng.seed(self.seed * 1000 + number)
        if host in self.living:
            await self.living.pop(host).door.transport.close()
        await door.transport.serve(made.serving.handle)
        self.network.revive(host)
        self.living[host] = Villager(made, door, self.group.create_task(self._live(host, made)))
        return made

    async def _live(self, host: int, made: Parts) -> None:
        async with asyncio.TaskGroup() as group:
            made.gossiping._group = group
            group.create_task(made.gossiping.run())
            self.living[host].probing = group.create_task(Probing(made.state, made.calls, group).run())

    def crash(self, host: int) -> bytes:
        """Silence at once; its id."""
        self.note()
        self.network.crash(host)
        self.living[host].life.cancel()
        return self.living[host].node.me

    def everybody(self) -> list[tuple[int, Parts]]:
        return [(host, villager.node) for host, villager in self.living.items() if not villager.life.done()]

    def note(self) -> None:
        """Write down what the nodes have seen since the last time."""
        now_s = asyncio.get_running_loop().time()
        for host, villager in self.living.items():
            events = [event for event in seen(villager.node.state) if isinstance(event, PeerEvent)]
            for event in events[villager.told :]:
                self.history.append(Happened(now_s, host, bytes.fromhex(event.id), event.state))
            villager.told = len(events)

    async def _watch(self) -> None:
        while True:
            await pause(0.05)
            self.note()

    def became(self, status: Status, about: bytes | None = None) -> list[Happened]:
        self.note()
        return [event for event in self.history if event.status == status and about in (None, event.about)]

    def knows(self, host: int) -> list[bytes]:
        return self.living[host].node.state.membership.live()

    def all_know_all(self) -> bool:
        ids = sorted(node.me for _, node in self.everybody())
        return all(sorted([*self.knows(host), node.me]) == ids for host, node in self.everybody())


async def settled(village: Village, nodes: int) -> None:
    """That many nodes, who all know each other and have nothing more to say."""
    for host in range(1, nodes + 1):
        await village.start(host)
    while not village.all_know_all():
        await pause(0.5)
    await pause(5.0)
    village.note()
    village.history.clear()


def identity(number: int) -> bytes:
    return peer(number)


Story = Callable[[], Coroutine[Any, Any, None]]

"""Parts of one device without the rest: offers typed in, a site whose doors record and do nothing by themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from p2pfusion.config import GossipConfig, NodeConfig
from p2pfusion.errors import Unreachable
from p2pfusion.hops.directory import Directory
from p2pfusion.hops.site import DeviceConfig, DeviceDoors, Site
from p2pfusion.hops.split import Split
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.doors import Registry, SimDiscovery
from p2pfusion.store.memory import MemoryStore
from p2pfusion.wire.hops import HeldShard, Hop, Offer, Passage, Take, Word
from tests.hops.street import split_of

T = TypeVar("T")
SPLIT = split_of()
ROOM = 10**6


def device(number: int) -> bytes:
    return bytes(15) + bytes([number])


def address(number: int) -> str:
    return f"10.0.0.{number}:7000"


def offer(number: int, **changes: Any) -> Offer:
    """A relay's, unless changes say otherwise."""
    fields: dict[str, Any] = {
        "run": SPLIT.tag, "device": device(number), "name": f"d{number}", "addresses": (address(number),),
        "incarnation": 1, "beat": 1, "is_owner": False, "is_relay": True, "is_leaving": False, "round": 0,
        "memory_bytes": ROOM, "batch_us": 0, "chain": (), "held": (),
    }  # fmt: skip
    return Offer(**{**fields, **changes})


def held(shard: int) -> HeldShard:
    return HeldShard(shard=shard, tip_round=1, chain=bytes(32), model_sha256=bytes(32), is_settled=True)


def hop(number: int, first: int, last: int) -> Hop:
    return Hop(device=device(number), address=address(number), first=first, last=last)


def take(owner: int, first: int, last: int, *, epoch: int = 1, since: int = 1, run: bytes = SPLIT.tag) -> Take:
    return Take(run=run, owner=device(owner), owner_address=address(owner), epoch=epoch, since=since, first=first,
                last=last, previous=address(100), next=address(101))  # fmt: skip


def word(owner: int, *, epoch: int = 1, batch: int = 0, place: int = 0) -> Word:
    return Word(run=SPLIT.tag, owner=device(owner), epoch=epoch, round=1, batch=batch, place=place)


@dataclass
class Board:
    """Where a device's own calls would go: `answers` decides each; an exception it gives is raised."""

    answers: Callable[[str, Request], Reply | Exception] = lambda address, request: Unreachable(address)
    calls: list[tuple[str, Request]] = field(default_factory=list)

    async def call(self, address: str, request: Request, *, deadline_s: float) -> Reply:
        self.calls.append((address, request))
        answer = self.answers(address, request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def topics(self, address: str) -> list[str]:
        """What was said to that address, in order."""
        return [request.path.removeprefix("/v1/hops/") for to, request in self.calls if to == address]


@dataclass
class Outbox:
    """What a relay hands to its sender: tensors by topic and batch, failures by batch and place."""

    passed: list[tuple[str, str, int, torch.Tensor]] = field(default_factory=list)
    failed: list[tuple[bytes, int, int]] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)

    def pass_on(self, take: Take, topic: str, address: str, passage: Passage, output: torch.Tensor) -> None:
        self.passed.append((topic, address, passage.batch, output))

    def tell_failed(self, take: Take, passage: Passage, place: int) -> None:
        self.failed.append((take.owner, passage.batch, place))

    def forget(self, owner: bytes) -> None:
        self.forgotten.append(owner)

    def sent(self) -> list[tuple[str, int]]:
        return [(topic, batch) for topic, _, batch, _ in self.passed]


class Gated:
    """A `Compute` whose work waits while `is_shut`: what happens meanwhile happens under the executor's hands."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        return work()

    async def close(self) -> None: ...


class Said:
    """A sender of words that keeps them, and does at once what is spawned."""

    def __init__(self) -> None:
        self.words: list[tuple[str, str, Word]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, what: Coroutine[object, object, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(what))  # type: ignore[arg-type]

    async def word(self, address: str, topic: str, word: Word) -> Reply:
        self.words.append((address, topic, word))
        return Reply(202)


def site(
    *, me: int = 50, split: Split = SPLIT, board: Any = None, sender: Any = None, compute: Any = None,
    memory_bytes: int = ROOM, quiet_s: float = 0.001,
) -> Site:  # fmt: skip
    """Made inside a loop."""
    doors = DeviceDoors(
        transport=None,  # type: ignore[arg-type] # all calls go through the board
        discovery=SimDiscovery(Registry()),
        compute=compute or Gated(),
        store=lambda shard: MemoryStore(),
        rng=random.Random(me),
    )
    config = DeviceConfig(node=NodeConfig(gossip=GossipConfig(quiet_s=quiet_s)), memory_bytes=memory_bytes)
    return Site(
        me=device(me), config=config, split=split, doors=doors, board=board or Board(),
        sender=sender or Said(), directory=Directory(device(me), split.tag, 3.0), addresses=(address(me),),
    )  # fmt: skip


async def settle(turns: int = 50) -> None:
    """Let everything run that can run now."""
    for _ in range(turns):
        await asyncio.sleep(0)

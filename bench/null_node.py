"""One process with one node whose training costs nothing, over real HTTP on loopback: for `null_rounds` and `idle`.

    python bench/null_node.py '{"listen": "127.0.0.1:7001", "peers": [], "name": "node-0", ...}'

The model has 256 parameters, and a round adds the same delta each time: what is left is the protocol. The process
prints lines of JSON: `begun` and `ended` at the first and the last report of a round, and `figures` whenever a line
comes in. It leaves at the end of its standard input. Bodies are counted here, at the transport, so that trees whose
nodes count in another way can be compared. It knows nothing of the other processes.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import numpy as np

from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.config import CadenceConfig, NodeConfig, RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.genesis import genesis
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
from p2pfusion.node import Node
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.memory import MemoryStore


def _no_network(spec: object) -> NoReturn:
    raise NotImplementedError("the null model has no network")


def blueprint(width: int = 16) -> Blueprint:
    """One sliced axis; width * width parameters."""
    weight = Parameter("body.weight", "body", (Dim("hidden"), Dim(None, width)), Init(None))
    return Blueprint(blocks=("body",), axes=(Axis("hidden", width),), parameters=(weight,), factory=_no_network)


class NullLearner:
    """An `Algorithm`: each round adds the same to every parameter. After `pause_round` it pauses for ever."""

    def __init__(self, index: int, *, pause_round: int | None = None) -> None:
        self._blueprint = blueprint()
        self._genesis = genesis(self._blueprint, 0)
        # Nothing that a lossless stage could shrink: real deltas are as good as random to it.
        self._delta = np.random.default_rng(index).normal(scale=2.0**-10, size=self._blueprint.size).astype(np.float32)
        self._pause_round = pause_round

    @property
    def blueprint(self) -> Blueprint:
        return self._blueprint

    @property
    def genesis(self) -> Vector:
        return self._genesis

    @property
    def product(self) -> Product:
        return Product()

    async def round(self, ctx: RoundContext) -> None:
        if self._pause_round is not None and ctx.round > self._pause_round:
            await asyncio.Event().wait()
        whole = self._blueprint.whole()
        await ctx.extract(whole)
        await ctx.contribute(whole, self._delta, samples=1, loss=0.0)

    def evaluate(self, model: Vector) -> Evaluation | None:
        return None


class Counting:
    """An `HttpTransport` that counts calls and the bytes of bodies, by route."""

    def __init__(self, listen: str) -> None:
        self._inner = HttpTransport(listen)
        self.calls: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        kind = request.path.split("/")[2]
        self.calls[kind] += 1
        self.sent[kind] += memoryview(request.body).nbytes
        reply = await self._inner.call(address, request, deadline_s=deadline_s, into=into)
        self.received[kind] += memoryview(reply.body).nbytes
        return reply

    async def serve(self, handler: Handler) -> Sequence[str]:
        async def counted(request: Request) -> Reply:
            kind = request.path.split("/")[2]
            self.received[kind] += memoryview(request.body).nbytes
            reply = await handler(request)
            self.sent[kind] += sum(memoryview(part).nbytes for part in (reply.body, *reply.pieces))
            return reply

        return await self._inner.serve(counted)

    async def close(self) -> None:
        await self._inner.close()


class Nobody:
    """A `Discovery` that finds nobody: the addresses are given."""

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        return None

    async def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        await asyncio.Event().wait()
        yield ()

    async def close(self) -> None:
        return None


def figures(transport: Counting, node: Node) -> dict[str, Any]:
    """Everything counted so far. Times in seconds; the loop's clock is the same in all processes of a Linux machine."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "at_s": asyncio.get_running_loop().time(),
        "cpu_s": used.ru_utime + used.ru_stime,
        "switches": used.ru_nvcsw + used.ru_nivcsw,
        "calls": dict(transport.calls),
        "sent": dict(transport.sent),
        "received": dict(transport.received),
        "tip_round": node.state.ledger.tip.round,
        "peers": len(node.state.membership.live()),
    }


def say(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


async def life(options: dict[str, Any], state: str | None) -> None:
    loop = asyncio.get_running_loop()
    transport = Counting(options["listen"])
    config = NodeConfig(
        run=RunConfig(swarm="null"),
        cadence=CadenceConfig(round_min_s=0.0),
        name=options["name"],
        min_peers=options["min_peers"],
        until_rounds=options["rounds"],
        peers=tuple(options["peers"]),
        codec=options["codec"],
    )
    store = FolderStore(state) if state is not None else MemoryStore()
    node = Node(
        config,
        NullLearner(options["seed"], pause_round=options["pause_round"]),
        transport=transport,
        discovery=MdnsDiscovery(["127.0.0.1"]) if options["mdns"] else Nobody(),
        compute=ThreadCompute(),
        store=store,
        rng=random.Random(options["seed"]),
    )

    async def follow() -> None:
        first, last = 0, None
        async for report in node.rounds():
            last = report.round, report.model_hash
            if not first:
                first = report.round
                say("begun", round=first, **figures(transport, node))
            elif config.until_rounds is not None and report.round >= config.until_rounds:
                say("ended", round=report.round, **figures(transport, node))
        done = node.done
        say("done", last=last, status=done and done.status, model=done and done.model_sha256)

    async with node:
        following = asyncio.create_task(follow())
        while await loop.run_in_executor(None, sys.stdin.readline):
            say("figures", **figures(transport, node))
        node.stop()
        await following


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["store"] == "memory":
        asyncio.run(life(options, None))
        return
    with tempfile.TemporaryDirectory(prefix="null-node-") as folder:
        asyncio.run(life(options, folder))


if __name__ == "__main__":
    main()

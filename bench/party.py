"""What moves contributions in a node, without rounds and without training: it talks, fetches and serves over real HTTP.

    python -m bench.party --rank 0 --elements 16777216 [--codec fp32] [--limit BYTES_PER_S]

A process for `bench.transport`, which tells it what to do, a line of JSON at a time. It also serves one body that knows
nothing of segments, hashes or gates: a plain aiohttp `StreamResponse` in pieces of 256 KiB, the measure of what this
machine's loopback and aiohttp can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import aiohttp
import numpy as np
from aiohttp import web
from blake3 import blake3

from bench.exchange import Nobody
from bench.peers.talk import Answer, Line, now_s
from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.config import NodeConfig, RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.node.calls import Calls
from p2pfusion.node.fetching import Fetching
from p2pfusion.node.gossiping import Gossiping
from p2pfusion.node.probing import Helping
from p2pfusion.node.serving import Serving
from p2pfusion.node.snapshots import Snapshots
from p2pfusion.node.state import Doors, State
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id, run_id
from p2pfusion.wire.compression import encode
from p2pfusion.wire.description import describe_run
from p2pfusion.wire.messages import Contribution, SegmentInfo

PIECE_BYTES = 256 << 10
LOOK_S = 0.005
"""Sleep of the task that looks how late the loop is."""
MOST_S = 120.0


def _no_network(spec: object) -> NoReturn:
    raise NotImplementedError("nothing is trained here")


class Idle:
    """An `Algorithm` nobody runs: one axis of so many elements."""

    def __init__(self, elements: int) -> None:
        axis = Dim("all")
        self.blueprint = Blueprint(
            blocks=("body",),
            axes=(Axis("all", elements),),
            parameters=(Parameter("body.bias", "body", (axis,), Init(None)),),
            factory=_no_network,
        )
        self.genesis = np.zeros(elements, np.float32)
        self.product = Product()

    async def round(self, ctx: RoundContext) -> None: ...

    def evaluate(self, model: Vector) -> Evaluation | None:
        return None


class Lag:
    """How late the loop comes back to a task that slept for `LOOK_S`."""

    def __init__(self) -> None:
        self._late_s: list[float] = []

    async def run(self) -> None:
        while True:
            due_s = time.perf_counter() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._late_s.append(time.perf_counter() - due_s)

    def take(self) -> list[float]:
        """What was seen since the last time, in ms."""
        late, self._late_s = self._late_s, []
        return [round(1e3 * one, 3) for one in late]


class Party:
    """The parts of one node that talk, fetch and serve."""

    def __init__(self, options: argparse.Namespace, group: asyncio.TaskGroup) -> None:
        self.rank, self.codec, self.group = options.rank, options.codec, group
        config = NodeConfig(
            run=RunConfig(swarm="bench"),
            name=str(options.rank),
            codec=options.codec,
            ledger_bytes_max=1 << 40,
            limit_bytes_per_s=options.limit,
        )
        idle = Idle(options.elements)
        rng = random.Random(options.rank)
        self.transport = HttpTransport("127.0.0.1:0", limit_bytes_per_s=options.limit)
        doors = Doors(
            transport=self.transport, discovery=Nobody(), compute=ThreadCompute(), store=MemoryStore(), rng=rng
        )
        described = describe_run(config.run, idle.blueprint, bytes(32), sender=rng.randbytes(16), members=1, newest=0)
        self.state = State(config, idle, doors, described)
        self.state.begin(run_id(config.run, idle.blueprint.fingerprint(), bytes(32)), bytes(32))
        self.state.role = "trains"
        self.calls = Calls(self.state)
        self.gossiping = Gossiping(self.state, self.calls, group, lambda refused: None)
        self.serving = Serving(self.state, self.gossiping, Snapshots(), Helping(self.state, self.calls))
        self.lag = Lag()
        self._before = self.state.accounts.total()
        self._came = asyncio.Event()
        completed = self.state.completed

        def came(entry: Entry) -> None:
            completed(entry)
            self._came.set()

        self.state.completed = came  # type: ignore[method-assign]
        self._used_s = 0.0
        self._held: tuple[Contribution, tuple[bytes | memoryview, ...]]
        self._buffer = bytearray(4 * options.elements)

    async def open(self) -> None:
        """Listen and begin to talk and fetch."""
        self.state.addresses = tuple(await self.transport.serve(self.serving.handle))
        fetching = Fetching(self.state, self.calls, self.gossiping, self.group)
        for task in (self.gossiping.run(), fetching.run(), self.lag.run()):
            self.group.create_task(task)

    # -- what it is told --------------------------------------------------------------------------------------------

    async def meet(self, told: Mapping[str, Any]) -> Answer:
        """Know everybody at these addresses."""
        self.gossiping.strangers.add([one for one in told["addresses"] if one not in self.state.addresses])
        async with asyncio.timeout(MOST_S):
            while len(self.state.membership.reports()) < len(told["addresses"]) - 1:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(LOOK_S)
        return {}

    async def hold(self, told: Mapping[str, Any]) -> Answer:
        """Have a contribution to a round; known to the ledger now, or when the exchange begins."""
        state = self.state
        values = np.random.default_rng(self.rank).standard_normal(len(self._buffer) // 4, np.float32)
        pieces = encode(self.codec, values)
        manifest = Contribution(
            shard=0,
            round=told["round"],
            peer=state.me,
            kind="work",
            base_round=told["round"] - 1,
            base_chain=state.ledger.tip.chain,
            weight=1 << 16,
            samples=1,
            sub_model=state.blueprint.whole(),
            codec=self.codec,
            segments=tuple(SegmentInfo(blake3(piece).digest(), len(piece)) for piece in pieces),
        )
        self._held = manifest, pieces
        if told["is_known"]:
            self._add()
        return {"id": contribution_id(manifest).hex(), "peer": state.me.hex()}

    def _add(self) -> bytes:
        state, (manifest, pieces) = self.state, self._held
        entry = state.ledger.add(contribution_id(manifest), manifest, state.now_s(), wanted=True)
        assert entry is not None
        for index, piece in enumerate(pieces):
            state.ledger.put(entry, index, piece)
        return entry.id

    async def want(self, told: Mapping[str, Any]) -> Answer:
        """Fetch these contributions, each from its author, as if it had just told of them."""
        state, ids = self.state, [bytes.fromhex(one["id"]) for one in told["wanted"]]
        await self._mark()
        await asyncio.sleep(max(0.0, told["at_s"] - now_s()))
        began_s, self._used_s = now_s(), time.process_time()
        for one in told["wanted"]:
            state.needed[bytes.fromhex(one["id"])] = None  # its round is not open, so that gossip does not tell of it
            state.wanted.offer(bytes.fromhex(one["id"]), bytes.fromhex(one["peer"]), None)
        state.bells["fetch"].ring()
        return await self._finished(ids, began_s)

    async def exchange(self, told: Mapping[str, Any]) -> Answer:
        """Tell of my own as a node does that has just published, and get everybody's."""
        ids = [bytes.fromhex(one["id"]) for one in told["all"]]
        await self._mark()
        await asyncio.sleep(max(0.0, told["at_s"] - now_s()))
        began_s, self._used_s = now_s(), time.process_time()
        self.gossiping.pass_on(self._add())
        return await self._finished(ids, began_s)

    async def forget(self, told: Mapping[str, Any]) -> Answer:
        """Let go of a round."""
        self.state.ledger.open.pop(told["round"], None)
        self.state.ledger.forget_payloads(told["round"])
        return {}

    async def plain(self, told: Mapping[str, Any]) -> Answer:
        """One body without segments, into a buffer that is there already."""
        await self._mark()
        view, filled = memoryview(self._buffer), 0
        async with aiohttp.ClientSession() as session:
            began_s = now_s()
            async with session.get(told["url"]) as response:
                async for chunk in response.content.iter_any():
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
        if filled != len(view):
            raise RuntimeError(f"{filled} bytes came of {len(view)}")
        took_s, used_s = now_s() - began_s, time.process_time() - self._used_s
        return {"seconds": took_s, "lag_ms": self.lag.take(), "cpu_s": used_s}

    async def mark(self, told: Mapping[str, Any]) -> Answer:
        """Begin to measure."""
        await self._mark()
        return {}

    async def measured(self, told: Mapping[str, Any]) -> Answer:
        """How late the loop was since then, and the processor seconds used."""
        return {"lag_ms": self.lag.take(), "cpu_s": time.process_time() - self._used_s}

    # -- measuring --------------------------------------------------------------------------------------------------

    async def _mark(self) -> None:
        """From here on it is measured; the first look of the lag's task still belongs to what was before."""
        await asyncio.sleep(2 * LOOK_S)
        self._before = self.state.accounts.total()
        self._used_s = time.process_time()
        self.lag.take()

    async def _finished(self, ids: list[bytes], began_s: float) -> Answer:
        entries = self.state.ledger.entries
        async with asyncio.timeout(MOST_S):
            while not all(id_ in entries and entries[id_].is_complete for id_ in ids):
                await self._came.wait()
                self._came.clear()
        took_s, used_s = now_s() - began_s, time.process_time() - self._used_s
        late = self.lag.take()
        received = (self.state.accounts.total() - self._before).payload_received
        others = [entries[id_] for id_ in ids if entries[id_].manifest.peer != self.state.me]
        needed = sum(segment.size for entry in others for segment in entry.manifest.segments)
        return {"seconds": took_s, "received": received, "needed": needed, "lag_ms": late, "cpu_s": used_s}


@asynccontextmanager
async def plain_body(size: int) -> AsyncIterator[str]:
    """A server of one body; yields its address."""
    body = memoryview(random.Random(0).randbytes(size))

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = size
        await response.prepare(request)
        for start in range(0, size, PIECE_BYTES):
            await response.write(body[start : start + PIECE_BYTES])
        await response.write_eof()
        return response

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def serve(options: argparse.Namespace, line: Line) -> None:
    loop = asyncio.get_running_loop()
    async with plain_body(4 * options.elements) as url, asyncio.TaskGroup() as group:
        party = Party(options, group)
        await party.open()
        line.say({"address": party.state.addresses[0], "url": url})
        deeds = {
            "meet": party.meet,
            "hold": party.hold,
            "want": party.want,
            "exchange": party.exchange,
            "forget": party.forget,
            "plain": party.plain,
            "mark": party.mark,
            "measured": party.measured,
        }
        while told := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(told)
            answer = await deeds[order["do"]](order)
            await loop.run_in_executor(None, line.say, answer)  # a long one fills the pipe until it is somebody's turn
        sys.exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--codec", default="fp32")
    parser.add_argument("--limit", type=float)
    asyncio.run(serve(parser.parse_args(), Line()))


if __name__ == "__main__":
    main()

"""How fast do our nodes agree on the mean of what they hold? One node process, told by `bench.averaging` what to do.

    python -m bench.exchange --rank 0 --peers 4 --elements 10000000 --seed 0 --port 40000

A real `Node` over HTTP on loopback; the others' addresses are given, there is no mDNS, and the store is memory, for the
systems it is compared with have no disk either. Its algorithm is not part of the product: a round waits for the start
signal, then contributes `vector - base` of its slice. Base is the sealed model; genesis is the part that all vectors
share (`problem.base`). The exchange is over when the *sealed* model of every node has that round.

So that one process can be asked again, each exchange takes a fresh vector: the sealed model plus the same offset, its
sign changing from time to time. What compression lost is thrown away in between (the product sends it with the next
contribution), for each exchange must be the same problem. Snapshots, every 8 rounds in a real run, are turned off.

A setting is `CODEC/RATE`, such as `int8/0.5`: slices of the double shift, rate 1 is the whole model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, NoReturn

import numpy as np
import psutil

from bench.peers import problem
from bench.peers.talk import Answer, Line, now_s
from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig, RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.replica import Replica
from p2pfusion.core.schemes import Seat, constant, double_shift, full
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.node import Node
from p2pfusion.node.state import State
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.thrift import Thrift

SIDES = (2500, 1000, 500, 250, 100)
"""Widths of the layers; the first that gives at least `LAYERS_MIN` square ones is taken."""
LAYERS_MIN = 4
OVERLAP = 0.5
"""Where the double shift's cosine begins."""
LOOK_S = 0.002
"""How often it is looked whether the round is sealed: a hundredth of the fastest exchange."""
QUIET_S = 0.5
PAYLOAD_ROUNDS = 1.25
"""Rounds of everybody's fp32 payload that fit `ledger_bytes_max`: the open one and a little; older ones are let go."""


def _no_network(spec: object) -> NoReturn:
    raise NotImplementedError("nothing is trained here")


def square_layers(elements: int) -> Blueprint:
    """Square layers one behind the other, every axis sliced. Raises `ValueError` for a size they cannot make up."""
    for side in SIDES:
        layers = elements // side**2
        if layers >= LAYERS_MIN and layers * side**2 == elements:
            break
    else:
        raise ValueError(f"{elements} parameters are not {LAYERS_MIN} or more square layers of {SIDES}")
    return Blueprint(
        blocks=tuple(f"b{index}" for index in range(layers)),
        axes=tuple(Axis(f"a{index:02}", side) for index in range(layers + 1)),
        parameters=tuple(
            Parameter(f"b{i}.weight", f"b{i}", (Dim(f"a{i + 1:02}"), Dim(f"a{i:02}")), Init(None))
            for i in range(layers)
        ),
        factory=_no_network,
    )


@dataclass(slots=True)
class Order:
    """One exchange: what to contribute, and the two moments a round and the one that measures wait for."""

    rate: float
    sign: int
    ready: asyncio.Future[int]
    start: asyncio.Future[None]
    published_s: float = 0.0


@dataclass(slots=True)
class Waiting:
    """An `Algorithm` whose rounds are orders."""

    blueprint: Blueprint
    genesis: Vector
    offset: Vector
    orders: asyncio.Queue[Order] = field(default_factory=asyncio.Queue)
    product: Product = field(default_factory=Product)

    async def round(self, ctx: RoundContext) -> None:
        order = await self.orders.get()
        scheme = full() if order.rate == 1 else double_shift(constant(OVERLAP))
        sub_model = scheme(self.blueprint, _seat(ctx.seat, order.rate), ctx.rng)
        before = await ctx.extract(sub_model)
        trained = await ctx.compute(
            lambda: moved(before, extract(self.blueprint, self.offset, sub_model), order.sign), 0
        )
        order.ready.set_result(problem.checksum(trained))
        await order.start
        delta = await ctx.compute(lambda: trained - before, 0)
        await ctx.contribute(sub_model, delta, 1, 0.0)
        order.published_s = now_s()

    def evaluate(self, model: Vector) -> Evaluation | None:
        return None


def moved(before: Vector, offset: Vector, sign: int) -> Vector:
    """The vector a node holds after it moved away from `before`: float32."""
    return before + offset if sign > 0 else before - offset


def _seat(seat: Seat, rate: float) -> Seat:
    return replace(seat, rates=(rate,) * seat.peers)


class Nobody:
    """A `Discovery` that finds nobody: the addresses are given."""

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        return None

    async def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        await asyncio.Event().wait()
        yield ()

    async def close(self) -> None:
        return None


class Peer:
    """One node, and what it is told."""

    def __init__(self, options: argparse.Namespace, node: Node, learner: Waiting) -> None:
        self._options = options
        self._node = node
        self._learner = learner
        self._before: Vector | None = None
        self._order: Order | None = None
        self._sign = 1
        self._codec = ""

    async def prepare(self, told: Mapping[str, Any]) -> Answer:
        """Choose codec and slice, throw away what compression lost, hold the vector ready."""
        state, loop = self._node.state, asyncio.get_running_loop()
        codec, rate = told["setting"].split("/")
        self._codec = codec
        use(state, codec)
        self._before = state.replica.sealed
        self._sign = 1 if told["turn"] % 2 == 0 else -1
        self._order = Order(float(rate), self._sign, loop.create_future(), loop.create_future())
        self._learner.orders.put_nowait(self._order)
        return {"checksum": await self._order.ready}

    async def go(self, told: Mapping[str, Any]) -> Answer:
        """Contribute at the moment given; done when the round is in the sealed model."""
        state, order = self._node.state, self._order
        if order is None:
            raise RuntimeError("prepare comes first")
        round_, used = state.ledger.tip.round + 1, cpu_by_thread()
        await asyncio.sleep(told["at_s"] - now_s())
        order.start.set_result(None)
        complete_s = 0.0
        while state.ledger.tip.round < round_:
            if not complete_s and len(state.ledger.counted(round_)) == self._options.peers:
                complete_s = now_s()
            await asyncio.sleep(LOOK_S)
        done_s = now_s()
        return {
            "done_s": done_s,
            "published_s": order.published_s - told["at_s"],
            "complete_s": (complete_s or done_s) - told["at_s"],
            "counted": sum(e.manifest.codec == self._codec for e in state.ledger.sealed_entries(round_) or ()),
            "cpu_by_thread": {name: round(s - used.get(name, 0.0), 3) for name, s in cpu_by_thread().items()},
        }

    async def verify(self, told: Mapping[str, Any]) -> Answer:
        """The sealed model's hash; one of the peers also compares it with the fold's formula in float64."""
        answer: Answer = {"model": self._node.state.model_hash.hex()}
        if told["is_full"]:
            answer["error"] = await asyncio.to_thread(self._error)
        return answer

    def _error(self) -> float:
        state, before = self._node.state, self._before
        if before is None:
            raise RuntimeError("prepare comes first")
        names = {report.peer: report.name for report, _ in state.membership.reports()} | {state.me: state.name}
        parts = [
            (int(names[entry.manifest.peer]), entry.manifest.sub_model)
            for entry in state.ledger.sealed_entries(state.ledger.tip.round) or ()
        ]
        expected = folded(self._learner.blueprint, before, parts, self._sign, self._options.seed)
        return problem.error(state.replica.sealed, expected)


def use(state: State, codec: str) -> None:
    """From now on this codec, as if the node had never used another; one node serves all, for starting costs seconds.

    A lossy codec finds a residual of zeros, its memory touched, as in any round but the first.
    """
    state.config = replace(state.config, codec=codec)
    state.thrift = Thrift(state.config)
    state.replica = Replica(state.blueprint, state.replica.sealed)
    if codec != "fp32":
        state.replica.residual.fill(0)


def folded(
    blueprint: Blueprint, before: Vector, parts: Sequence[tuple[int, SubModel]], sign: int, seed: int
) -> problem.Exact:
    """`before` plus the mean over who covers an element of what they hold minus `before`, in float64."""
    whole = blueprint.whole()
    total, count = np.zeros(blueprint.size), np.zeros(blueprint.size, np.uint8)
    for peer, sub_model in parts:
        delta = moved(before, problem.offset(blueprint.size, seed, peer), sign).astype(np.float64) - before
        if sub_model == whole:
            total += delta
            count += 1
        else:
            places = sub_model.positions(blueprint)
            total[places] += delta[places]
            count[places] += 1
    np.divide(total, count, out=total, where=count > 0)
    total += before
    return total


def cpu_by_thread() -> dict[str, float]:
    """Processor seconds of each thread so far, by its name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: dict[str, float] = {}
    for thread in psutil.Process().threads():
        name = names.get(thread.id, "other")
        used[name] = used.get(name, 0.0) + thread.user_time + thread.system_time
    return used


def configured(options: argparse.Namespace) -> NodeConfig:
    """No least time between rounds, memory for two rounds, no snapshots."""
    others = tuple(f"127.0.0.1:{options.port + rank}" for rank in range(options.peers) if rank != options.rank)
    return NodeConfig(
        run=RunConfig(swarm="bench", seed=options.seed, horizon_rounds=1, snapshot_every_rounds=1024),
        gossip=GossipConfig(quiet_s=QUIET_S),
        cadence=CadenceConfig(round_min_s=0.0, quorum=1.0),
        name=str(options.rank),
        min_peers=options.peers,
        peers=others,
        codec="fp32",
        ledger_bytes_max=max(1 << 20, round(PAYLOAD_ROUNDS * options.peers * 4 * options.elements)),
    )


async def serve(options: argparse.Namespace, line: Line) -> None:
    blueprint = square_layers(options.elements)
    learner = Waiting(
        blueprint,
        problem.base(options.elements, options.seed),
        problem.offset(options.elements, options.seed, options.rank),
    )
    node = Node(
        configured(options),
        learner,
        transport=HttpTransport(f"127.0.0.1:{options.port + options.rank}"),
        discovery=Nobody(),
        compute=ThreadCompute(),
        store=MemoryStore(),
        rng=random.Random(f"{options.seed} {options.rank}"),
    )
    loop = asyncio.get_running_loop()
    async with node:
        while node.state.role == "syncing":
            await node.state.bells["round"].wait(LOOK_S)
        peer = Peer(options, node, learner)
        deeds = {"prepare": peer.prepare, "go": peer.go, "verify": peer.verify}
        line.say({"ready": True, "versions": {name: version(name) for name in ("p2pfusion", "numpy", "aiohttp")}})
        while told := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(told)
            line.say(await deeds[order["do"]](order))
        node.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rank", "peers", "elements", "seed", "port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asyncio.run(serve(parser.parse_args(), Line()))


if __name__ == "__main__":
    main()

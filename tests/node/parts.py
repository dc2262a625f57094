"""A node's parts put together by hand, over a wire without time: what one part does can be looked at alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from p2pfusion.algorithms.base import RoundReport, Vector
from p2pfusion.config import NodeConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import Refused, Unreachable
from p2pfusion.node.authoring import Authoring
from p2pfusion.node.calls import Calls
from p2pfusion.node.chain import Chain
from p2pfusion.node.events import Event, WarningEvent
from p2pfusion.node.fetching import Fetching
from p2pfusion.node.gossiping import Gossiping
from p2pfusion.node.grafting import Grafting
from p2pfusion.node.probing import Helping
from p2pfusion.node.serving import Serving
from p2pfusion.node.snapshots import Snapshots, hash_of, take
from p2pfusion.node.state import Doors, State
from p2pfusion.seams import Handler, Reply, Request, Store
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.store.memory import MemoryStore
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id, run_id
from p2pfusion.wire.description import describe_run
from p2pfusion.wire.messages import Contribution, Gossip, PeerId
from tests.sim.learners import LightLearner, light_blueprint
from tests.swarm.made import peer

BLUEPRINT = light_blueprint()
WHOLE = BLUEPRINT.whole()
SLICES = (
    WHOLE,
    SubModel.of(BLUEPRINT, {"hidden": range(0, 4), "inner": range(0, 2)}),
    SubModel.of(BLUEPRINT, {"hidden": range(2, 6), "inner": range(1, 4)}),
    SubModel.of(BLUEPRINT, {"hidden": [(0, 2), (6, 8)]}, ["body"]),
)


async def until(moment_s: float) -> None:
    """Let virtual time pass."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()
    loop.call_at(moment_s, lambda: reached.done() or reached.set_result(None))
    await reached


class Wire:
    """Everybody's `Transport`: a call is a function call. `fault`, asked before each call, may raise or answer."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.calls: list[tuple[str, Request]] = []
        self.fault: Callable[[str, Request], Reply | None] = lambda address, request: None

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        self.calls.append((address, request))
        reply = self.fault(address, request)
        if reply is None and address not in self.handlers:
            raise Unreachable(f"nobody answers at {address}")
        reply = reply or await self.handlers[address](request)
        if into is not None and reply.status == 200:
            into[:] = reply.body
        return reply

    async def serve(self, handler: Handler) -> list[str]:
        raise AssertionError("parts are put on the wire by hand")

    async def close(self) -> None: ...

    def paths(self, address: str | None = None) -> list[str]:
        """What was asked for, in order."""
        return [request.path for to, request in self.calls if address in (None, to)]


@dataclass
class Parts:
    """One node, nothing of it running. Made inside a loop; `role` is `trains`."""

    state: State
    calls: Calls
    kept: Snapshots
    authoring: Authoring
    gossiping: Gossiping
    chain: Chain
    serving: Serving
    refusals: list[Refused]

    @property
    def address(self) -> str:
        return self.state.addresses[0]

    @property
    def me(self) -> PeerId:
        return self.state.me

    def warnings(self) -> list[WarningEvent]:
        return [event for event in seen(self.state) if isinstance(event, WarningEvent)]

    def meet(self, *others: Parts) -> None:
        """Hear the others' present reports."""
        for other in others:
            report = other.state.report(is_beat=True)
            self.gossiping.absorb(Gossip(run_id=other.state.run_id, sender=other.me, reports=(report,)))

    async def publish(self, delta: Vector, sub_model: SubModel = WHOLE) -> Entry | None:
        _, base = await self.authoring.head(sub_model)
        return await self.authoring.publish(sub_model, delta, 10, base)


def seen(state: State) -> list[Event]:
    """Events so far."""
    return list(state.events._events)


def parts(
    wire: Wire | None = None,
    index: int = 1,
    *,
    config: NodeConfig | None = None,
    group: asyncio.TaskGroup | None = None,
    store: Store | None = None,
    blueprint: Blueprint = BLUEPRINT,
) -> Parts:
    wire = wire or Wire()
    learner = LightLearner(index, blueprint=blueprint)
    chosen = replace(config or NodeConfig(), name=f"node-{index}")
    doors = Doors(
        transport=wire,
        discovery=SimDiscovery(Registry()),
        compute=SimCompute(),
        store=store or MemoryStore(),
        rng=random.Random(index),
    )
    genesis_hash = hash_of(learner.genesis)
    described = describe_run(chosen.run, blueprint, genesis_hash, sender=peer(index), members=1, newest=0)
    state = State(chosen, learner, doors, described)
    state.begin(run_id(chosen.run, blueprint.fingerprint(), genesis_hash), genesis_hash)
    state.addresses = (f"10.0.0.{index}:7000",)
    state.role = "trains"
    kept = Snapshots()
    kept.keep(take(state.run_id, state.ledger.tip, state.replica.sealed), 0.0)
    calls, authoring, refusals = Calls(state), Authoring(state), []
    gossiping = Gossiping(state, calls, group or asyncio.TaskGroup(), refusals.append)
    made = Parts(
        state=state,
        calls=calls,
        kept=kept,
        authoring=authoring,
        gossiping=gossiping,
        chain=Chain(state, calls, kept, authoring, Grafting(state, gossiping.pass_on)),
        serving=Serving(state, gossiping, kept, Helping(state, calls)),
        refusals=refusals,
    )
    wire.handlers[made.address] = made.serving.handle
    return made


def ones(sub_model: SubModel = WHOLE, value: float = 1.0) -> Vector:
    return np.full(sub_model.size(BLUEPRINT), value, np.float32)


def copied(entry: Entry, to: Parts) -> Entry:
    """Another node's contribution arrives, complete."""
    ledger = to.state.ledger
    found = ledger.add(entry.id, entry.manifest, 0.0, wanted=True)
    assert found is not None
    for index, segment in enumerate(entry.segments):
        assert segment is not None
        ledger.put(found, index, segment)
    return found


async def sealed(one: Parts, *entries: Entry) -> None:
    """The node seals its next round with these, model and all."""
    await one.chain._append(one.state.ledger.next_link(entries), entries)


async def grown(one: Parts, rounds: int) -> None:
    """The node publishes and seals, alone."""
    for round_ in range(rounds):
        entry = await one.publish(ones(value=float(round_ + one.me[-1])))
        assert entry is not None
        await sealed(one, entry)


async def at_work(one: Parts, until_s: float) -> None:
    """Let the tasks that move the tip run until that moment."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one.chain.run()),
            group.create_task(Fetching(one.state, one.calls, one.gossiping, group).run()),
        ]
        one.state.stir()
        await until(until_s)
        for task in tasks:
            task.cancel()


def changed(manifest: Contribution, **changes: object) -> tuple[bytes, Contribution]:
    """A manifest with other fields, and its id."""
    other = replace(manifest, **changes)
    return contribution_id(other), other


def round_report(round: int) -> RoundReport:
    return RoundReport(
        round=round,
        sub_model=WHOLE,
        share=1.0,
        loss=0.5,
        heard=1,
        missing=0,
        late=0,
        coverage=1.0,
        patience_s=1.0,
        bytes_sent=0,
        bytes_received=0,
        head="",
        tip_round=0,
        model_hash="",
        peers=1,
    )

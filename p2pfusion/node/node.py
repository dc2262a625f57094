"""Node: one participant's life from entering the swarm to leaving it.

It makes the parts, gives them their doors, runs each as a task of one `TaskGroup`, and turns what happens into events.
It knows no algorithm, no real network and no topic names; `net.lan` and `sim.world` give it the doors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from blake3 import blake3

from p2pfusion.algorithms.base import Algorithm, RoundReport, Vector
from p2pfusion.config import NodeConfig
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import LocalError, RemoteError
from p2pfusion.node import snapshots
from p2pfusion.node.authoring import Authoring
from p2pfusion.node.calls import Calls
from p2pfusion.node.chain import Chain
from p2pfusion.node.events import Done, Event
from p2pfusion.node.fetching import Fetching
from p2pfusion.node.gossiping import Gossiping
from p2pfusion.node.grafting import Grafting
from p2pfusion.node.memory import Memory
from p2pfusion.node.probing import Helping, Probing
from p2pfusion.node.remembering import remember
from p2pfusion.node.resuming import resume
from p2pfusion.node.rounds import Rounds
from p2pfusion.node.serving import Serving
from p2pfusion.node.snapshots import Snapshots
from p2pfusion.node.state import Doors, State
from p2pfusion.seams import Compute, Discovery, Request, Store, Transport
from p2pfusion.wire.codec import run_id
from p2pfusion.wire.description import describe_run

FAREWELL_S = 0.5
"""Longest time spent on saying goodbye; who does not hear it notices the silence."""

Status = Literal["ok", "interrupted", "timeout", "failed"]


class Node:
    """A participant. `async with Node(...) as node:` enters the swarm; leaving the block leaves it."""

    def __init__(  # noqa: PLR0913 - four doors, randomness and what to do with them: this is where they meet
        self,
        config: NodeConfig,
        algorithm: Algorithm,
        *,
        transport: Transport,
        discovery: Discovery,
        compute: Compute,
        store: Store,
        rng: random.Random,
        rate: float = 1.0,
        observes: Callable[[], bool] = lambda: False,
    ) -> None:
        """`rate` is the share of each sliced axis this node trains, in (0, 1].

        `observes` is asked before each round: True while there is nothing to train. The node then follows, votes and
        serves, and nobody waits for it; call `stir` when the answer has changed.
        """
        doors = Doors(transport=transport, discovery=discovery, compute=compute, store=store, rng=rng)
        blueprint, run = algorithm.blueprint, config.run
        genesis_hash = snapshots.hash_of(algorithm.genesis)
        self._run_id = run_id(run, blueprint.fingerprint(), genesis_hash)
        described = describe_run(run, blueprint, genesis_hash, sender=rng.randbytes(16), members=1, newest=0)
        self._state = State(config, algorithm, doors, described)
        self._genesis_hash = genesis_hash
        self._kept = Snapshots()
        self._rate = rate
        self._observes = observes
        self._group = asyncio.TaskGroup()
        self._stopping = asyncio.Event()
        self._rounds: Rounds | None = None
        self.done: Done | None = None
        self.error: LocalError | None = None
        self.resumed_round: int | None = None
        """Where the disk left this node when it entered; None when there was nothing of this run."""

    def __repr__(self) -> str:
        return f"<Node {self._state.name} {self._state.role} {self._state.ledger!r} {self._state.membership!r}>"

    # -- what others may read ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._state.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node can be reached."""
        return self._state.addresses

    @property
    def state(self) -> State:
        """Everything the node knows, for checkers and views: to be read, never written."""
        return self._state

    def model(self) -> Vector:
        """A copy of the sealed model, flat float32 in blueprint order."""
        return self._state.replica.sealed.copy()

    async def events(self) -> AsyncIterator[Event]:
        """Everything that happens, from the start, ending with `Done`. Raises what made the node fail."""
        async for event in self._state.events.follow():
            yield event
        if self.error is not None:
            raise self.error

    async def rounds(self) -> AsyncIterator[RoundReport]:
        """A report per finished round, until the node is done. Raises what made the node fail."""
        async for event in self.events():
            if isinstance(event, RoundReport):
                yield event

    def stir(self) -> None:
        """Something outside changed, such as whether there is anything to train: look again at once."""
        self._state.stir()

    def stop(self) -> None:
        """Ask the node to end early; `events()` then ends with `interrupted`."""
        if self._rounds is not None:
            self._rounds.stop()
        self._stopping.set()

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen, announce, begin. Raises `PortError`."""
        await self._group.__aenter__()
        opened: asyncio.Future[asyncio.TaskGroup] = asyncio.get_running_loop().create_future()
        self._scope = self._group.create_task(_hold(opened))
        try:
            await self._begin(await opened)
        except BaseException:
            await self._end()
            raise
        return self

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Be who I was, make the parts, open the doors, start the tasks."""
        remembered = await remember(self._state, self._run_id)
        state = self._state = remembered.state
        state.begin(self._run_id, self._genesis_hash)
        self._kept.keep(snapshots.take(self._run_id, state.ledger.tip, state.replica.sealed), state.now_s())
        self._calls, authoring = Calls(state), Authoring(state)
        self._gossiping = Gossiping(state, self._calls, group, self._refused)
        grafting = Grafting(state, self._gossiping.pass_on)
        self._chain = Chain(state, self._calls, self._kept, authoring, grafting)
        self._rounds = Rounds(state, authoring, self._chain, self._gossiping.pass_on, self._rate, self._observes)
        state.ledger.published(remembered.last)
        if remembered.found is not None:
            resume(remembered.found, state, self._kept, authoring, grafting, remembered.last)
            self.resumed_round = state.ledger.tip.round
            self._gossiping.strangers.add(remembered.found.record.addresses)
        serving = Serving(state, self._gossiping, self._kept, Helping(state, self._calls))
        state.addresses = tuple(await state.doors.transport.serve(serving.handle))
        await state.doors.discovery.announce(self._tag, state.addresses)
        for task in (
            self._gossiping.run(),
            Fetching(state, self._calls, self._gossiping, group).run(),
            Probing(state, self._calls, group).run(),
            Memory(state).run(),
            self._discover(),
        ):
            group.create_task(task)
        self._sealing = group.create_task(self._chain.run())
        self._life = group.create_task(self._live(self._rounds))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: gracefully when the block ended well, at once when it raised."""
        if kind is None and not self._life.done():
            self.stop()
            await self._life
        await self._end(kind if kind is asyncio.CancelledError else None, error, trace)

    async def _end(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """End all tasks, then close the doors: a task that finds a door closed would fail and hide `error`."""
        doors = self._state.doors
        if self._rounds is not None:
            self._rounds.stop()
        self._scope.cancel()
        self._state.events.close()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            await doors.discovery.close()
            await doors.transport.close()
            await doors.compute.close()

    @property
    def _tag(self) -> str:
        """What discovery announces: equal for equal swarm names, so that other models meet and differ aloud."""
        return blake3(b"p2pfusion swarm " + self._state.config.run.swarm.encode()).hexdigest()[:16]

    async def _discover(self) -> None:
        async for addresses in self._state.doors.discovery.found(self._tag):
            self._gossiping.strangers.add([a for a in addresses if a not in self._state.addresses])

    def _refused(self, error: LocalError) -> None:
        self.error = error
        self._stopping.set()

    async def _live(self, rounds: Rounds) -> None:
        """Run the rounds until they end, somebody asks us to stop, or something fails; then say so and goodbye."""
        status: Status = "interrupted"
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(rounds.run())
                stopping = group.create_task(self._stopping.wait())
                stopping.add_done_callback(lambda _: running.cancel())
                running.add_done_callback(lambda _: stopping.cancel())
            status = "interrupted" if running.cancelled() else running.result()
            if status in ("ok", "timeout"):
                self._sealing.cancel()  # what is measured, saved and reported is one model
                await rounds.evaluate()
        except* LocalError as errors:
            self.error, status = _first(errors), "failed"
        state = self._state
        if self.error is None or state.role != "syncing":
            self._sealing.cancel()
            if state.role != "syncing":  # else there is nothing of mine, and an older model would be hidden
                await self._chain.save()
            self._finish(status, rounds.seconds)
        state.events.close()
        await self._farewell()

    def _finish(self, status: Status, seconds: float) -> None:
        state, traffic = self._state, self._state.accounts.total()
        self.done = Done(
            status=status,
            name=state.name,
            round=state.ledger.tip.round,
            accuracy=state.measured.accuracy,
            model_sha256=model_sha256(state.replica.sealed),
            chain=state.ledger.tip.chain.hex(),
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=seconds,
            traffic=traffic,
            widths=state.measured.widths,
            served=state.measured.served,
        )
        state.events.add(self.done)

    async def _farewell(self) -> None:
        """Tell everybody at once that I leave."""
        request = self._gossiping.farewell()
        peers = [peer.id for peer in self._state.membership.view(self._state.now_s()).peers]
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S), asyncio.TaskGroup() as group:
                for peer in peers:
                    group.create_task(self._say(peer, request))

    async def _say(self, peer: bytes, request: Request) -> None:
        with suppress(RemoteError):
            await self._calls.to_peer(peer, request, FAREWELL_S)


async def _hold(opened: asyncio.Future[asyncio.TaskGroup]) -> None:
    """A scope for the node's tasks: cancelling it cancels all of them, and no other."""
    async with asyncio.TaskGroup() as group:
        if not opened.done():  # else whoever waited was cancelled, and cancels us next
            opened.set_result(group)
        await asyncio.Event().wait()


def _first(errors: BaseExceptionGroup[LocalError]) -> LocalError:
    """The first single error of a group."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, LocalError) else LocalError(str(found))

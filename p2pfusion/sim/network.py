"""A network in memory: hosts with one address each, directed links with latency, jitter, loss and bandwidth.

`SimTransport(network, host)` is the simulator's `Transport`. A call is two packets, a request and a reply, and each
takes the directed link between the two hosts:

    leaves   when the link has sent everything before it, at bandwidth_bytes_per_s      (`links`)
    arrives  latency_s + jitter later, never before the packet that left before it
    or not   with probability `loss`; or if an end is down or the pair severed as it leaves or arrives
    answered by the handler of the target, whose own limits are those of a real server  (`hosts`)

    twice    with probability `duplication`: the handler runs twice, the caller takes the first answer
    late     with probability `reordering`: then others that left after it may arrive before it

A packet that gets lost is silence: the caller learns of it by its own deadline. Nobody listening at a live address
is a refusal, which travels back like a reply and raises `Unreachable`. A link stops sending for a caller whose deadline
has passed, as a closed TCP connection does; so no queue outlives the calls that filled it.

The request's handler is a task of the network's own `TaskGroup`, not of the caller: a caller that gives up or is
cancelled does not cancel it, just as aiohttp's server goes on with a request whose client has gone. A crash cancels it.

All chance comes from the given generator, two draws a packet (six where packets come twice or out of order), drawn as
packets leave; nothing iterates a set. So one seed is one history on a `VirtualLoop`. Faults are made here and never in
a node: `crash`, `sever`, `blocked`, `held`, `clog`, `deafen`. This module knows neither nodes nor what the bytes mean.
The model of a link is ours and simple: what leaves one host on two links shares an antenna only where the link names
an `access_bytes_per_s`, and then in turns, large ones one after another.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import fields, replace
from functools import partial
from types import TracebackType
from typing import Self

from p2pfusion.errors import ConfigError, DeadlineExceeded, LocalError, PortError, Unreachable, WireError
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.sim.hosts import Call, Host
from p2pfusion.sim.links import HEADER_BYTES, SMALL_BYTES, Access, Fate, Link, LinkModel, Packet, Trace, Traffic
from p2pfusion.sim.obstacles import Obstacles
from p2pfusion.wire.routes import reply_bytes_max

__all__ = ["Fate", "LinkModel", "Network", "Packet", "SimTransport", "Trace", "Traffic"]

HOSTS_MAX = 4096
"""Hosts are numbered 1 to this; four times as many peers as a node keeps. Bounds the table of links."""
PORT = 7000
CALLS_IN_FLIGHT_MAX = 64
"""Calls of one host that run at once; more wait for their turn under their deadline, as in an HTTP client's pool."""
CALLS_PER_PEER_MAX = 8
"""The same towards one peer, so that a silent peer holds up calls to itself alone."""
UP, DOWN = "up", "down"
NOWHERE = 0
"""The host behind every address that nobody has: it refuses."""


class Network(Obstacles):
    """All hosts and links. An async context manager: handlers run in its task group and end with it.

    `overrides` gives single directed pairs (source, target) another model; it may be changed while running.
    What can be in a packet's way, `obstacles` says.
    """

    def __init__(
        self,
        rng: random.Random,
        link: LinkModel,
        *,
        overrides: Mapping[tuple[int, int], LinkModel] | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__()
        self.link = link
        self.overrides = dict(overrides or {})
        self._rng = rng
        self._trace = trace
        self._context = copy_context()  # packets travel on when their sender stands still
        self._numbers: dict[str, int] = {}
        self._links: dict[tuple[int, int], Link] = {}
        self._accesses: dict[tuple[int, str], Access] = {}
        self._group: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group, self._group = self._group, None  # packets still on their way arrive nowhere
        for host in self._hosts.values():
            host.drop_requests()
        if group is not None:
            await group.__aexit__(None, None, None)

    @staticmethod
    def address(host: int) -> str:
        """`10.0.0.7:7000` for host 7."""
        return f"10.0.{host >> 8}.{host & 255}:{PORT}"

    def release(self) -> None:
        """Send on what was held and is not any more, in the order it was held, one latency late."""
        now_s = asyncio.get_running_loop().time()
        for packet, arrive in self._released():
            model = self.overrides.get((packet.source, packet.target), self.link)
            self._deliver_at(now_s + model.latency_s, packet, arrive)

    def traffic(self, host: int) -> Traffic:
        """The counters of one host since the network was made."""
        counted = self._hosts[host]
        return Traffic(**{item.name: getattr(counted, item.name) for item in fields(Traffic)})

    @property
    def handler_errors(self) -> int:
        """Handlers that raised, all hosts together; each was answered 500 and is a bug."""
        return sum(host.handler_errors for host in self._hosts.values())

    def host(self, number: int) -> Host:
        """The machine of that number, made at its first use."""
        if not 1 <= number <= HOSTS_MAX:
            raise ConfigError(f"host {number}: must be 1 to {HOSTS_MAX}")
        self._numbers[self.address(number)] = number
        return self._hosts.setdefault(number, Host())

    def number(self, address: str) -> int:
        """The host of an address, `NOWHERE` for one that nobody has."""
        return self._numbers.get(address, NOWHERE)

    def ask(self, call: Call) -> None:
        """Send the request of a call whose deadline its caller watches."""
        packet = Packet("request", call.source, call.target, call.request.path, len(call.request.body))
        self._send(packet, call.give_up_s, partial(self._asked, call))

    def _asked(self, call: Call) -> None:
        """A request has arrived (loop callback)."""
        host = self._hosts.get(call.target)
        if host is None or host.handler is None or self._group is None:
            self._answer(call, None)
        elif (refusal := host.refusal(call.request)) is not None:
            self._answer(call, refusal)
        else:
            context = host.context.copy() if host.context is not None else None
            task = self._group.create_task(self._handle(call, host, host.handler), context=context)
            host.answering[task] = None
            task.add_done_callback(host.answering.pop)

    async def _handle(self, call: Call, host: Host, handler: Handler) -> None:
        try:
            self._answer(call, await host.handle(handler, call.request))
        except asyncio.CancelledError:
            self._answer(call, None)  # as a closed connection; after a crash it does not get out
            raise

    def _answer(self, call: Call, reply: Reply | None) -> None:
        size_bytes = len(reply.body) if reply else 0
        packet = Packet("reply" if reply else "refusal", call.target, call.source, call.request.path, size_bytes)
        self._send(packet, call.give_up_s, partial(call.settle, reply))

    def _send(self, packet: Packet, give_up_s: float, arrive: Callable[[], None]) -> None:
        """Put a packet on its link; `arrive` is called when and if it gets there, twice for one that is duplicated."""
        pair = (packet.source, packet.target)
        jitter, chance = self._rng.random(), self._rng.random()  # always two draws, so that histories stay comparable
        loop, model = asyncio.get_running_loop(), self.overrides.get(pair, self.link)
        odds = [self._rng.random() for _ in range(4)] if model.is_odd else ()
        if self._group is None or self._is_cut(packet.source, pair):
            return self._note("cut", packet)
        link = self._links.setdefault(pair, Link())
        duration_s = (packet.size_bytes + HEADER_BYTES) / model.bandwidth_bytes_per_s
        left_s = link.transmit(loop.time(), duration_s, give_up_s)
        if left_s is not None and model.access_bytes_per_s is not None:
            left_s = self._passed(packet, model.access_bytes_per_s, left_s, give_up_s)
        if left_s is None:
            return self._note("late", packet)
        if source := self._hosts.get(packet.source):
            source.sent_bytes += packet.size_bytes
            source.sent_packets += 1
        if chance < model.loss or self._is_clogged(packet):
            return self._note("lost", packet)
        self._note("sent", packet)
        arrives_s = left_s + model.latency_s + jitter * model.jitter_s
        if odds and odds[0] < model.duplication:
            self._deliver_at(arrives_s + odds[1] * model.reordering_s, packet, arrive)
        if odds and odds[2] < model.reordering:
            self._deliver_at(arrives_s + odds[3] * model.reordering_s, packet, arrive)
        else:
            self._deliver_at(link.arrival(arrives_s), packet, arrive)

    def _passed(self, packet: Packet, bytes_per_s: float, begin_s: float, give_up_s: float) -> float | None:
        """When the last byte is through the sender's access, and then the receiver's; None if the caller gives up."""
        duration_s = (packet.size_bytes + HEADER_BYTES) / bytes_per_s
        is_small = packet.size_bytes <= SMALL_BYTES
        for end in ((packet.source, UP), (packet.target, DOWN)):
            access = self._accesses.setdefault(end, Access())
            left_s = access.transmit(begin_s, duration_s, give_up_s, is_small=is_small)
            if left_s is None:
                return None
            begin_s = left_s - duration_s  # what has left the one end is passing the other meanwhile
        return begin_s + duration_s

    def _deliver_at(self, moment_s: float, packet: Packet, arrive: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_at(moment_s, self._arrive, packet, arrive, context=self._context)

    def _arrive(self, packet: Packet, arrive: Callable[[], None]) -> None:
        pair = (packet.source, packet.target)
        if self._group is None or self._is_cut(packet.target, pair):
            return self._note("cut", packet)
        if self.held(*pair):
            return self._note("held" if self._hold(packet, arrive) else "lost", packet)
        target = self._hosts.get(packet.target)
        if target is not None:
            target.received_bytes += packet.size_bytes
            target.received_packets += 1
        self._note("arrived", packet)
        if target is None or not target.defer(arrive):
            arrive()

    def _note(self, fate: Fate, packet: Packet) -> None:
        if self._trace is not None:
            self._trace(asyncio.get_running_loop().time(), fate, packet)


class SimTransport:
    """The `Transport` of one host. One transport at a time serves a host; after `close` another may."""

    def __init__(self, network: Network, host: int) -> None:
        self._network = network
        self._number = host
        self._host = network.host(host)
        self._slots = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._slots_of: dict[int, asyncio.Semaphore] = {}  # at most one a host
        self._calls: dict[Call, None] = {}  # at most CALLS_IN_FLIGHT_MAX
        self._is_serving = False
        self._is_closed = False

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        """See `seams.Transport.call`. On a closed transport raises `Unreachable`, for a foreign path `LocalError`."""
        if not request.path.startswith("/v1/"):
            raise LocalError(f"not a path of the protocol: {request.path!r}")
        if into is not None and request.method != "GET":
            raise LocalError(f"only a GET has a buffer to go to, not a {request.method}")
        target = self._network.number(address)
        peer_slots = self._slots_of.setdefault(target, asyncio.Semaphore(CALLS_PER_PEER_MAX))
        try:
            async with asyncio.timeout(deadline_s) as limit, peer_slots, self._slots:
                reply = await self._ask(target, request, limit.when())
        except TimeoutError:
            raise DeadlineExceeded(f"no answer from {address} within {deadline_s:g} s") from None
        if reply is None:
            raise Unreachable(f"nobody answers at {address}")
        if into is not None and reply.status == 200:
            return _fill(reply, into)
        if len(reply.body) > (bytes_max := reply_bytes_max(request.path, reply.status)):
            raise WireError(f"the answer has {len(reply.body)} bytes, the limit of its route is {bytes_max}")
        return reply

    async def _ask(self, target: int, request: Request, give_up_s: float | None) -> Reply | None:
        if self._is_closed:
            return None
        is_fixed = isinstance(request.body, bytes)  # any other buffer may change while the request travels
        sent = request if is_fixed else replace(request, body=bytes(request.body))
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        call = Call(self._number, target, sent, give_up_s or 0.0, answer)
        self._calls[call] = None
        try:
            self._network.ask(call)
            return await answer
        finally:
            del self._calls[call]

    async def serve(self, handler: Handler) -> Sequence[str]:
        """Answer at this host's one address from now on. Raises `PortError` if another transport does."""
        if self._is_closed or self._is_serving:
            raise LocalError("a transport serves once, and not after it was closed")
        if self._host.handler is not None:
            raise PortError(f"{self._network.address(self._number)} is taken")
        self._host.listen(handler)
        self._is_serving = True
        return [self._network.address(self._number)]

    async def close(self) -> None:
        """Stop answering (requests in hand are dropped) and end own calls with `Unreachable`."""
        if self._is_serving and not self._is_closed:
            self._host.handler = None
            self._host.drop_requests()
        self._is_closed = True
        for call in self._calls:
            call.settle(None)


def _fill(reply: Reply, into: memoryview) -> Reply:
    """The reply with its body moved to the caller's buffer."""
    if len(reply.body) != into.nbytes:
        raise WireError(f"body of {len(reply.body)} bytes where {into.nbytes} were expected")
    if into.nbytes:
        into.cast("B")[:] = reply.body
    return Reply(reply.status, into)

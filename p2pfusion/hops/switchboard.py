"""One transport for everybody who lives on a device: its own calls, and a line for the node of each shard it holds.

A shard's calls have its number in front of their path (`wire.routes`); apart from that a node cannot tell a line from
a transport of its own. Knows neither shards' contents nor who calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pfusion.algorithms.base import Direction, Traffic
from p2pfusion.errors import LocalError
from p2pfusion.seams import Body, Handler, Reply, Request, Transport
from p2pfusion.wire.routes import kind, shard_path, split_shard

NOT_HELD = Reply(404, b"shard")


class Switchboard:
    """Serves all lines at once; the transport belongs to it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.addresses: tuple[str, ...] = ()
        self.traffic = Traffic()
        """Of the device's own calls, both ways; nodes count theirs."""
        self._own: Handler | None = None
        self._lines: dict[int, Handler] = {}

    async def open(self, handler: Handler) -> tuple[str, ...]:
        """Listen; `handler` answers what is for no shard. Returns the addresses. Raises `PortError`."""
        self._own = handler
        self.addresses = tuple(await self.transport.serve(self._handle))
        return self.addresses

    async def close(self) -> None:
        await self.transport.close()

    async def call(self, address: str, request: Request, *, deadline_s: float) -> Reply:
        """A call of the device's own. Raises as `Transport.call`."""
        self._count("sent", request.path, request.body)
        reply = await self.transport.call(address, request, deadline_s=deadline_s)
        self._count("received", request.path, reply.body)
        return reply

    def _count(self, direction: Direction, path: str, body: Body) -> None:
        self.traffic = self.traffic + Traffic(**{f"{kind(path)}_{direction}": memoryview(body).nbytes})

    def line(self, shard: int) -> Line:
        """The transport of the node that holds this shard."""
        return Line(self, shard)

    def connect(self, shard: int, handler: Handler) -> None:
        """Calls for this shard go to this handler from now on. Raises `LocalError` where one answers already."""
        if shard in self._lines:
            raise LocalError(f"shard {shard} has a node already")
        self._lines[shard] = handler

    def disconnect(self, shard: int) -> None:
        """Nobody answers for this shard any more."""
        self._lines.pop(shard, None)

    async def _handle(self, request: Request) -> Reply:
        shard, path = split_shard(request.path)
        if shard is None:
            assert self._own is not None
            self._count("received", path, request.body)
            reply = await self._own(request)
            self._count("sent", path, reply.body)
            return reply
        handler = self._lines.get(shard)
        return NOT_HELD if handler is None else await handler(replace(request, path=path))


class Line:
    """`seams.Transport` of one shard's node."""

    def __init__(self, board: Switchboard, shard: int) -> None:
        self._board = board
        self._shard = shard

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        """See `seams.Transport.call`."""
        path = shard_path(self._shard, request.path)
        return await self._board.transport.call(address, replace(request, path=path), deadline_s=deadline_s, into=into)

    async def serve(self, handler: Handler) -> Sequence[str]:
        """See `seams.Transport.serve`; the device listens already."""
        self._board.connect(self._shard, handler)
        return self._board.addresses

    async def close(self) -> None:
        """The device goes on listening."""
        self._board.disconnect(self._shard)

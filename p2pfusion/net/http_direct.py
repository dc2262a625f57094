"""GET straight into the caller's memory: HTTP/1.1 answers of a known size, received where they are to stay.

aiohttp hands a body over in pieces, each of which was copied twice by then and is copied once more by whoever collects
them. Segments are most of a node's traffic, and all one needs of HTTP for them is a status and a length. So they come
over connections of their own, on which the kernel writes into the buffer that was given. Everything else is aiohttp's.

What an answer may be is narrow: HTTP/1.1, a `Content-Length`, no encoding of any kind, a head of at most
`HEAD_BYTES_MAX`. Anything odd is a `WireError`, and the connection ends. It knows no routes and no peers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from p2pfusion.errors import RemoteError, Unreachable, WireError
from p2pfusion.net.rate import Throttle
from p2pfusion.seams import Reply

HEAD_BYTES_MAX = 8 << 10
"""Status line and headers of an answer: ours have 150 bytes, aiohttp's own limit is the same."""
IDLE_CONNECTIONS_MAX = 64
"""Kept open without a request on them; the oldest are closed first."""

Place = tuple[str, int]

_VERSION = b"HTTP/1.1 "
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
"""Blanks around the value are stripped afterwards: two neighbours that match the same take quadratic time to fail."""
_LENGTH = re.compile(rb"[0-9]{1,15}")


class Head:
    """Status, length of the body, and whether the connection stays open; parsed or refused."""

    __slots__ = ("is_kept", "length", "status")

    def __init__(self, data: bytes) -> None:
        """`data` ends before the empty line. Raises `WireError`."""
        first, *lines = data.split(b"\r\n")
        if (status := _STATUS.fullmatch(first)) is None:
            raise WireError("the answer is not HTTP/1.1")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            found = _HEADER.fullmatch(line)
            if found is None:
                raise WireError("the answer has a malformed header")
            name = found[1].lower()
            if name == b"content-length" and name in headers:
                raise WireError("the answer has two lengths")
            headers[name] = found[2].strip(b" \t")
        self.status = int(status[1])
        if self.status < 200:
            raise WireError("an answer before the answer; nobody asked for that")
        if b"transfer-encoding" in headers or headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise WireError("the answer is encoded; nobody asked for that")
        length = headers.get(b"content-length", b"0" if self.status in (204, 304) else b"")
        if _LENGTH.fullmatch(length) is None:
            raise WireError("the answer has no length")
        self.length = 0 if self.status in (204, 304) else int(length)
        self.is_kept = b"close" not in headers.get(b"connection", b"").lower()


class Connection(asyncio.BufferedProtocol):
    """One connection, one request at a time."""

    def __init__(self, lost: Callable[[Connection], None]) -> None:
        """`lost` is called once, when the connection has ended."""
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._throttle = Throttle(None)
        self._into = memoryview(b"")
        self._limit_bytes = 0
        self._head_buffer = bytearray(HEAD_BYTES_MAX)
        self._head: Head | None = None
        self._body = memoryview(b"")
        self._filled = 0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def get(self, request: bytes, into: memoryview, limit_bytes: int, throttle: Throttle) -> Reply:
        """Send a request and receive its answer: status 200 into `into`, others (up to `limit_bytes`) apart.

        Raises `RemoteError`. Whatever ends it early, cancellation included, ends the connection.
        """
        if self._transport is None or self._answer is not None:
            raise Unreachable("the connection has ended")
        self._into, self._limit_bytes, self._throttle = into, limit_bytes, throttle
        self._head, self._filled = None, 0
        self._answer = self._loop.create_future()
        try:
            self._transport.write(request)
            return await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer, self._into, self._body = None, memoryview(b""), memoryview(b"")

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    # -- what asyncio calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._head is None:
            return memoryview(self._head_buffer)[self._filled :]
        return self._body[self._filled : self._filled + self._throttle.piece_bytes(len(self._body))]

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # it speaks without being asked
            return
        self._filled += nbytes
        try:
            if self._head is None:
                self._begin()
            elif self._filled == len(self._body):
                self._end()
        except RemoteError as error:
            self._fail(error)
            return
        if (wait_s := self._throttle.book(nbytes, is_payload=True)) > 0 and self._transport is not None:
            self._transport.pause_reading()
            self._resume = self._loop.call_later(wait_s, self._read_on)

    def eof_received(self) -> None:
        return None  # asyncio closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._resume is not None:
            self._resume.cancel()
        self._fail(Unreachable("the connection ended"))
        self._lost(self)

    # -- an answer --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Look whether the head is complete, and whether its body may come."""
        end = self._head_buffer.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if not self._head_buffer.startswith(_VERSION[: self._filled]):
                raise WireError("the answer is not HTTP/1.1")
            if self._filled == HEAD_BYTES_MAX:
                raise WireError(f"the answer has a head of more than {HEAD_BYTES_MAX} bytes")
            return
        head = Head(bytes(self._head_buffer[:end]))
        if head.status == 200 and head.length != len(self._into):
            raise WireError(f"the answer has {head.length} bytes instead of {len(self._into)}")
        if head.length > self._limit_bytes and head.status != 200:
            raise WireError(f"the answer has {head.length} bytes, the limit is {self._limit_bytes}")
        here = memoryview(self._head_buffer)[end + 4 : self._filled]
        if len(here) > head.length:
            raise WireError("the answer goes on behind its end")
        self._head = head
        self._body = self._into if head.status == 200 else memoryview(bytearray(head.length))
        self._body[: len(here)] = here
        self._filled = len(here)
        if self._filled == head.length:
            self._end()

    def _end(self) -> None:
        head, answer = self._head, self._answer
        if head is None or answer is None:
            raise AssertionError("the end of an answer that has not begun")
        answer.set_result(Reply(head.status, self._into if head.status == 200 else bytes(self._body)))
        self._head, self._filled = None, 0
        if not head.is_kept and self._transport is not None:
            self._transport.close()

    def _fail(self, error: RemoteError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()

    def _read_on(self) -> None:
        self._resume = None
        if self.is_open and self._transport is not None:
            self._transport.resume_reading()


class Direct:
    """Kept connections by address, at most `per_place_max` in use at a time for each and `in_use_max` for all."""

    def __init__(self, throttle: Throttle, *, in_use_max: int, per_place_max: int, keep_alive_s: float) -> None:
        self._throttle = throttle
        self._all = asyncio.Semaphore(in_use_max)
        self._per_place_max = per_place_max
        self._keep_alive_s = keep_alive_s
        self._places: dict[Place, tuple[asyncio.Semaphore, int]] = {}
        """Of the addresses in use or waited for: the places, and how many have or want one."""
        self._open: dict[Connection, None] = {}
        self._idle: dict[Connection, tuple[Place, asyncio.TimerHandle]] = {}
        self._closed = False

    async def get(self, place: Place, request: bytes, into: memoryview, limit_bytes: int) -> Reply:
        """One answer, over a kept connection when there is one. Raises `RemoteError` and `OSError`."""
        semaphore, users = self._places.get(place, (asyncio.Semaphore(self._per_place_max), 0))
        self._places[place] = semaphore, users + 1
        try:
            async with semaphore, self._all:
                return await self._over_one(place, request, into, limit_bytes)
        finally:
            semaphore, users = self._places.pop(place)
            if users > 1:
                self._places[place] = semaphore, users - 1

    async def close(self) -> None:
        """End every connection; calls in progress end with `Unreachable`."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # for transports to call `connection_lost`

    async def _over_one(self, place: Place, request: bytes, into: memoryview, limit_bytes: int) -> Reply:
        if self._closed:
            raise Unreachable("this transport is closed")
        connection = self._kept(place) or await self._opened(place)
        reply = await connection.get(request, into, limit_bytes, self._throttle)
        if connection.is_open:
            self._keep(place, connection)
        return reply

    def _kept(self, place: Place) -> Connection | None:
        """The one used last: the others may grow old and be closed."""
        found = [connection for connection, (where, _) in self._idle.items() if where == place]
        if not found:
            return None
        self._idle.pop(found[-1])[1].cancel()
        return found[-1]

    def _keep(self, place: Place, connection: Connection) -> None:
        if len(self._idle) >= IDLE_CONNECTIONS_MAX:
            oldest = next(iter(self._idle))
            self._idle.pop(oldest)[1].cancel()
            oldest.abort()
        timer = asyncio.get_running_loop().call_later(self._keep_alive_s, connection.abort)
        self._idle[connection] = place, timer

    async def _opened(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._ended), *place)
        self._open[connection] = None
        return connection

    def _ended(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        if (idle := self._idle.pop(connection, None)) is not None:
            idle[1].cancel()

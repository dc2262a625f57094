"""The serving half of HTTP: bytes from strangers become a `Request` only after every cheap check has passed.

Order of the checks (RELIABILITY.md 5): connections and headers in time (`http_connection`), method and path, no
browser, length given, size, no encoding, requests and body bytes in flight, body in time; then the handler; then the
caller must take the answer in time. Each check has one status and one fixed short code as its body; nothing a stranger
sent is ever echoed, and nothing a stranger can repeat is logged more than once.

This module does not know what the bodies mean or who calls.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from aiohttp import ClientError, hdrs, web

from p2pfusion.net.http_connection import SENDER, Connection, ConnectionServer, HttpLimits, error_reply, reply_headers
from p2pfusion.net.rate import Throttle
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.wire import routes

_log = logging.getLogger(__name__)

PIECE_BYTES_MAX = 256 << 10
"""One write: four times faster than whole bodies of 128 MiB and fair to the other connections (MEASUREMENTS.md A5)."""
FIRST_PIECE_BYTES = 16 << 10
"""Of a large answer, what leaves with its head."""
PAYLOAD_BYTES_PER_S_MIN = 128 << 10
"""Under a limit so few segments leave at a time that each gets this much: twice the slowest rate that those who wait
for one are content with. The others hear that we are busy, and come back or ask somebody else."""
STALLED_S = 2.0
"""So much longer than on the slowest link a piece of a limited answer may wait for its caller: who takes nothing does
not use the limit, and others have the place."""
BODY_BYTES_PER_S_MIN = 256 << 10
"""Large bodies get this much longer than the plain deadline; slower links cannot take part in split training anyway."""
LOGGED_MAX = 64
"""Kinds of handler failure that are logged with their traceback; the rest is counted by whoever sees the 500."""


_SENDER = re.compile(r"[0-9a-f]{32}")


class _Refusal(Exception):
    """A check failed: the request is answered with this status and its code."""

    def __init__(self, status: int) -> None:
        self.status = status


class _PayloadPlaces:
    """Of the answers that share a limit, as many at a time as leave each what it needs to be in time."""

    def __init__(self, sending: Throttle) -> None:
        self._sending = sending
        self._taken = 0

    def take(self) -> bool:
        if self._taken > 0 and self._sending.seconds((self._taken + 1) * PAYLOAD_BYTES_PER_S_MIN) > 1:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        self._taken -= 1


class _PayloadPlace:
    """The place of one answer: others may have it while the caller takes nothing."""

    def __init__(self, places: _PayloadPlaces) -> None:
        """Raises `_Refusal` when all places are taken."""
        self._places = places
        self._is_held = places.take()
        if not self._is_held:
            raise _Refusal(503)

    def give_back(self) -> None:
        """Harmless when called twice."""
        if self._is_held:
            self._is_held = False
            self._places.give_back()

    async def write(self, response: web.StreamResponse, piece: memoryview) -> None:
        """Raises `TimeoutError` when the caller stalled for so long that others have all places now."""
        patience_s = STALLED_S + 2 * piece.nbytes / PAYLOAD_BYTES_PER_S_MIN
        timer = asyncio.get_running_loop().call_later(patience_s, self.give_back)
        try:
            await response.write(piece)
        finally:
            timer.cancel()
        self._is_held = self._is_held or self._places.take()
        if not self._is_held:
            raise TimeoutError


class HttpServer:
    """Listens on one address and passes every `/v1/` request within the limits to one handler."""

    def __init__(
        self, handler: Handler, limits: HttpLimits, sending: Throttle | None = None, receiving: Throttle | None = None
    ) -> None:
        """`sending` and `receiving` limit the bodies of answers and requests."""
        self._sending, self._receiving = sending or Throttle(None), receiving or Throttle(None)
        self._payload_places = _PayloadPlaces(self._sending)
        self._handler = handler
        self._limits = limits
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._logged: dict[tuple[str, str], None] = {}
        self._server = ConnectionServer(self.answer, limits)
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port that was bound. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        backlog = self._limits.connections_max
        bound = socket.create_server((host, port), family=family, backlog=backlog)  # asyncio's own hides the errno
        self._listener = await asyncio.get_running_loop().create_server(self._server, sock=bound, backlog=backlog)
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, let requests in progress finish within `shutdown_s`, then cut every connection."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        listener.close()
        await self._server.cut()
        await listener.wait_closed()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request whose headers are complete."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving():
            try:
                length = _admit(request)
                path, query = request.rel_url.raw_path, _query(request)
                with self._place(length):
                    body = await self._body(request, length)
                    with self._payload_place(path) as place:
                        reply = await self._handle(Request(request.method, path, body, query, _sender(request)))
                        return await self._send(request, reply, place)
            except _Refusal as refusal:
                return error_reply(refusal.status, unread=not request.content.is_eof())

    @contextmanager
    def _place(self, length: int) -> Iterator[None]:
        limits = self._limits
        if self._in_flight >= limits.in_flight_max or self._in_flight_bytes + length > limits.in_flight_bytes_max:
            raise _Refusal(503)
        self._in_flight += 1
        self._in_flight_bytes += length
        try:
            yield
        finally:
            self._in_flight -= 1
            self._in_flight_bytes -= length

    @contextmanager
    def _payload_place(self, path: str) -> Iterator[_PayloadPlace | None]:
        """None for what never waits."""
        if not self._sending.is_limited or routes.kind(path) != "payload":
            yield None
            return
        place = _PayloadPlace(self._payload_places)
        try:
            yield place
        finally:
            place.give_back()

    async def _body(self, request: web.BaseRequest, length: int) -> bytes:
        if length == 0:
            return b""
        try:
            chunks, is_payload = [], routes.kind(request.rel_url.raw_path) == "payload"
            async with asyncio.timeout(self._deadline_s(length, self._receiving)):
                async for chunk in request.content.iter_any():
                    chunks.append(chunk)
                    await self._receiving.wait(len(chunk), is_payload=is_payload)
        except TimeoutError:
            raise _Refusal(408) from None
        except (ClientError, web.RequestPayloadError, ConnectionError):
            raise _Refusal(400) from None  # the caller is gone; nobody will read this
        return b"".join(chunks)

    async def _handle(self, request: Request) -> Reply:
        try:
            async with asyncio.timeout(self._limits.handler_deadline_s) as deadline:
                return await self._handler(request)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise _Refusal(503) from None
            self._blame_ourselves(request, error)

    def _blame_ourselves(self, request: Request, error: Exception) -> NoReturn:
        kind = (type(error).__name__, request.path.split("/")[2][:32])
        if kind not in self._logged and len(self._logged) < LOGGED_MAX:
            self._logged[kind] = None
            _log.error("the handler failed on %s /v1/%s; answered 500", request.method, kind[1], exc_info=error)
        raise _Refusal(500) from None

    async def _send(self, request: web.BaseRequest, reply: Reply, place: _PayloadPlace | None) -> web.StreamResponse:
        """Stream the answer in pieces. `reply`'s buffers must not change until it is out."""
        views = [memoryview(part).cast("B") for part in (reply.body, *reply.pieces) if len(part)]
        if reply.status in (204, 304):
            views = []  # HTTP forbids a body here
        length = sum(view.nbytes for view in views)
        is_payload = routes.kind(request.rel_url.raw_path, reply.status) == "payload"
        piece_bytes = self._sending.piece_bytes(PIECE_BYTES_MAX) if is_payload else PIECE_BYTES_MAX
        response = _Answer(status=reply.status, headers=reply_headers(reply.status))
        response.content_length = length
        try:
            async with asyncio.timeout(self._deadline_s(length, self._sending)):
                await response.prepare(request)
                for piece in _pieces(views, piece_bytes):
                    await self._sending.wait(piece.nbytes, is_payload=is_payload)
                    await (response.write(piece) if place is None else place.write(response, piece))
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # asked, but takes nothing
        except ConnectionError:
            pass  # the caller left; aiohttp ends the connection
        return response

    def _deadline_s(self, length: int, throttle: Throttle) -> float:
        """A limit of ours is no fault of the other's, who gets what `_payload_place` leaves to each, or half of it."""
        ours_s = max(throttle.seconds(length), length / PAYLOAD_BYTES_PER_S_MIN) if throttle.is_limited else 0.0
        return self._limits.body_deadline_s + length / BODY_BYTES_PER_S_MIN + 2 * ours_s


def _pieces(views: Sequence[memoryview], most_bytes: int) -> Iterator[memoryview]:
    """What is written at once; of a large answer first a little, because it is copied to leave with the head."""
    size = min(FIRST_PIECE_BYTES, most_bytes) if sum(view.nbytes for view in views) > most_bytes else most_bytes
    for view in views:
        start = 0
        while start < view.nbytes:
            yield view[start : start + size]
            start, size = start + size, most_bytes


class _Answer(web.StreamResponse):
    """Its head leaves with the first piece of its body: one packet less, and one turn less of the caller's loop.

    Where aiohttp does not know the name, nothing else changes.
    """

    _send_headers_immediately = False


def _admit(request: web.BaseRequest) -> int:
    """Judge a request by its headers alone; returns the length of its body in bytes. Raises `_Refusal`."""
    path = request.rel_url.raw_path
    headers = request.headers
    if request.method not in ("GET", "POST") or not path.startswith(routes.PREFIX):
        raise _Refusal(404)
    if hdrs.ORIGIN in headers or "Sec-Fetch-Site" in headers:
        raise _Refusal(400)  # a web page in somebody's browser; browsers are no peers
    if hdrs.TRANSFER_ENCODING in headers or (request.method == "POST" and hdrs.CONTENT_LENGTH not in headers):
        raise _Refusal(411)
    length = request.content_length or 0
    if length > routes.request_bytes_max(request.method, path):
        raise _Refusal(413)
    if headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise _Refusal(415)
    return length


def _query(request: web.BaseRequest) -> str:
    return request.rel_url.raw_query_string


def _sender(request: web.BaseRequest) -> bytes:
    """The id the caller claims; empty for none and for what is no id."""
    said = request.headers.get(SENDER, "")
    return bytes.fromhex(said) if _SENDER.fullmatch(said) else b""

"""One served connection: aiohttp's parser with the two bounds it lacks, and the errors nobody can word otherwise.

aiohttp has no deadline for the headers of a request (a peer that sent half a request line keeps its connection for
ever) and no bound on connections; it also echoes and logs the bytes it cannot parse. `Connection` adds the bounds and
answers every error with one status and one fixed short code. This module does not know what a request asks for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

_log = logging.getLogger(__name__)

CODES = {
    400: b"malformed",
    404: b"unknown",
    408: b"deadline",
    411: b"length",
    413: b"size",
    415: b"encoding",
    500: b"bug",
    503: b"busy",
}
"""The whole body of an error of ours."""

SENDER = "P2PFusion-Peer"
"""Header in which a caller says which peer it is, 16 bytes in hex: a claim nobody proves, for statistics only."""
RETRY_AFTER_S = "1"
LINGER_S = 1.0
"""How long we read on after refusing a body, so that the caller sees our answer and not a reset."""
_HEADERS = {"Server": "p2pfusion", "Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one server grants strangers (RELIABILITY.md 5)."""

    header_deadline_s: float = 5.0
    """From the first byte of a request to the end of its headers."""
    body_deadline_s: float = 10.0
    """From there to the end of the body, plus its size at `BODY_BYTES_PER_S_MIN`; again for the answer to be taken."""
    handler_deadline_s: float = 60.0
    """A handler that hangs gives its place back."""
    idle_s: float = 60.0
    """A kept connection without a request; twice the client's, so that it is the client who closes."""
    shutdown_s: float = 0.5
    """Requests in progress when we close may finish within this."""
    connections_max: int = 128
    in_flight_max: int = 64
    in_flight_bytes_max: int = 256 << 20
    """Sum of the declared bodies of the requests in flight."""
    headers_max: int = 64


class Connection(web.RequestHandler):
    """One connection, with a deadline for headers and a place among `connections_max`."""

    def __init__(self, server: ConnectionServer, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_s,
            max_headers=limits.headers_max,
            lingering_time=LINGER_S,
            auto_decompress=False,
            logger=_log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth
        )
        self._server = server
        self._limits = limits
        self._header_timer: asyncio.TimerHandle | None = None
        self._busy = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._server.connections) < self._limits.connections_max:
            super().connection_made(transport)
            self.task = self._task_handler  # aiohttp forgets it with the connection, even while it still lingers
            return
        assert isinstance(transport, asyncio.Transport)
        transport.write(_bare(503))
        transport.close()
        self.force_close()  # makes data_received deaf

    def data_received(self, data: bytes) -> None:
        if data and not self._busy and self._header_timer is None:
            self._header_timer = self._loop.call_later(self._limits.header_deadline_s, self._headers_late)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self.task is not None and not self._busy:
            self.task.cancel()  # else it would linger for a body that cannot come

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The headers are complete; until the answer is out, what arrives is a body."""
        self._stop_timer()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, without its habit of echoing and logging the offending bytes."""
        level = logging.ERROR if status == 500 else logging.DEBUG  # 500: a bug between the two halves of this server
        _log.log(level, "answered %d", status, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; nothing can be put in its place")
        return error_reply(status if status in CODES else 400, unread=True)

    def _headers_late(self) -> None:
        self._header_timer = None
        if not self._busy and self.transport is not None:
            self.transport.write(_bare(408))
            self.force_close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class ConnectionServer(web.Server):
    """aiohttp's server, making connections of ours."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: HttpLimits) -> None:
        super().__init__(answer)
        self._limits = limits

    def __call__(self) -> web.RequestHandler:
        return Connection(self, self._limits, asyncio.get_running_loop())

    async def cut(self) -> None:
        """Let requests in progress finish within `shutdown_s`, then end every connection and every task of theirs."""
        ours = [connection for connection in self.connections if isinstance(connection, Connection)]
        transports = [connection.transport for connection in ours if connection.transport is not None]
        tasks = [connection.task for connection in ours if connection.task is not None]
        self.pre_shutdown()
        await self.shutdown(self._limits.shutdown_s)
        for transport in transports:
            transport.abort()  # a caller who takes nothing must not keep us
        for task in tasks:
            task.cancel()
        with suppress(TimeoutError):  # a handler that will not be cancelled is its author's to find
            async with asyncio.timeout(self._limits.shutdown_s):
                await asyncio.gather(*tasks, return_exceptions=True)


def reply_headers(status: int) -> dict[str, str]:
    """What every answer of this status carries."""
    return {**_HEADERS, "Retry-After": RETRY_AFTER_S} if status in (429, 503) else _HEADERS


def error_reply(status: int, *, unread: bool) -> web.Response:
    """One of our own errors. With a body left unread the connection ends: reading on would be what we refused."""
    response = web.Response(status=status, body=CODES[status], headers=reply_headers(status))
    if unread:
        response.force_close()
    return response


def _bare(status: int) -> bytes:
    """The same where no request has been parsed yet."""
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(CODES[status])}", "Connection: close"]
    if status == 503:
        lines.append(f"Retry-After: {RETRY_AFTER_S}")
    return "\r\n".join([*lines, "", ""]).encode() + CODES[status]

"""Transport over HTTP/1.1 on aiohttp: kept connections, bounded reads, no redirects, cookies, proxies or name look-ups.

The calling half lives here, the serving half in `http_server`, and segments, which have a buffer to go to, are received
by `http_direct`. A call ends in one of four ways and in no other: a
`Reply` of any status, `Unreachable`, `DeadlineExceeded`, or `WireError`; aiohttp's own exceptions end at this border.
Answers are read piece by piece against the route's limit (`routes`), because aiohttp bounds no answer by itself, and
addresses are judged by the dial policy (`addresses`) before any packet leaves.

This module does not know what the bodies mean, when to try again, or who its peers are.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Sequence

import aiohttp
from aiohttp import hdrs
from yarl import URL

from p2pfusion.errors import DeadlineExceeded, LocalError, PortError, Unreachable, WireError
from p2pfusion.net import addresses
from p2pfusion.net.http_connection import SENDER, HttpLimits
from p2pfusion.net.http_direct import Direct, Place
from p2pfusion.net.http_server import PIECE_BYTES_MAX, HttpServer
from p2pfusion.net.rate import Throttle
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.wire import routes

CONNECTIONS_MAX = 64
"""Our own outgoing connections; a call beyond waits, within its own deadline, for one to become free."""
CONNECTIONS_PER_PEER_MAX = 8
"""Of calls that say something: more at a time would only wait in the other's loop."""
SEGMENTS_PER_PEER_MAX = 4
"""Parallel segments from one holder fill a link with these; it has 128 connections for everybody."""
KEEP_ALIVE_S = 30.0
"""Half of the server's, so that a kept connection is closed by us and never under a request of ours."""

_PATH = re.compile(r'/v1/[!-"$->@-~]*')
_QUERY = re.compile(r'[!-"$-~]*')


class HttpTransport:
    """`seams.Transport` on real sockets. One per node; use it from the event loop's thread only."""

    def __init__(
        self,
        listen: str = "0.0.0.0:0",
        *,
        limits: HttpLimits | None = None,
        limit_bytes_per_s: float | None = None,
    ) -> None:
        """Does not listen yet. `listen` is `host:port`, port 0 for a free one. Raises `UsageError`.

        `limit_bytes_per_s` bounds the bodies sent, and those received, each averaged over about a second.
        """
        self._bound, self._port = addresses.listening(listen)
        self._limits = limits or HttpLimits()
        self._sending, self._receiving = Throttle(limit_bytes_per_s), Throttle(limit_bytes_per_s)
        self._direct: Direct | None = None
        self._server: HttpServer | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        """See `seams.Transport.call`. Raises `LocalError` for a request that is not HTTP."""
        if self._closed:
            raise Unreachable("this transport is closed")
        try:
            ip, port = addresses.dialable(address)
        except ValueError as error:
            raise Unreachable(f"{address[: addresses.ADDRESS_CHARS_MAX]!r} is not dialled: {error}") from None
        if not (_PATH.fullmatch(request.path) and _QUERY.fullmatch(request.query)):
            raise LocalError(f"not a path and query of the protocol: {request.path!r}, {request.query!r}")
        if into is not None and request.method != "GET":
            raise LocalError(f"only a GET has a buffer to go to, not a {request.method}")
        target = f"{request.path}?{request.query}" if request.query else request.path
        place = addresses.join(ip, port)
        try:
            async with asyncio.timeout(deadline_s):
                if into is not None:
                    return await self._get((str(ip), port), place, target, request, into)
                return await self._exchange(URL(f"http://{place}{target}", encoded=True), request)
        except TimeoutError:
            raise DeadlineExceeded(f"{address}: no answer within {deadline_s:g} s") from None
        except aiohttp.ClientResponseError as error:
            raise WireError(f"{address}: the answer is not HTTP ({type(error).__name__})") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{address}: {type(error).__name__}") from None

    async def serve(self, handler: Handler) -> Sequence[str]:
        """See `seams.Transport.serve`. Once per transport."""
        if self._closed or self._server is not None:
            raise LocalError("a transport serves once, and not after it was closed")
        self._server = HttpServer(handler, self._limits, self._sending, self._receiving)
        try:
            port = await self._server.start(str(self._bound), self._port)
        except OSError as error:
            self._server = None
            raise PortError(_why_not(error, addresses.join(self._bound, self._port), str(self._bound))) from None
        return addresses.own(self._bound, port)

    async def close(self) -> None:
        """See `seams.Transport.close`. Takes at most about a second; calls in progress end with `Unreachable`."""
        self._closed = True
        if self._direct is not None:
            await self._direct.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def _get(self, to: Place, host: str, target: str, request: Request, into: memoryview) -> Reply:
        """A segment, received into its place."""
        if self._direct is None:
            self._direct = Direct(
                self._receiving,
                in_use_max=CONNECTIONS_MAX,
                per_place_max=SEGMENTS_PER_PEER_MAX,
                keep_alive_s=KEEP_ALIVE_S,
            )
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
        if request.sender:
            lines.append(f"{SENDER}: {request.sender.hex()}")
        said = "\r\n".join([*lines, "", ""]).encode("ascii")
        reply = await self._direct.get(to, said, into.cast("B"), routes.reply_bytes_max(request.path, 404))
        return Reply(200, into) if reply.status == 200 else reply

    async def _exchange(self, url: URL, request: Request) -> Reply:
        headers: dict[str, str] = {hdrs.ACCEPT_ENCODING: "identity"}
        if request.sender:
            headers[SENDER] = request.sender.hex()
        if request.body or request.method != "GET":
            headers[hdrs.CONTENT_LENGTH] = str(memoryview(request.body).nbytes)
        async with self._opened().request(
            request.method, url, data=await self._outgoing(request), headers=headers, allow_redirects=False
        ) as response:
            try:
                return await self._reply(response, request.path)
            except WireError:
                response.close()  # never read the rest of what we refused
                raise

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on first use because it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX, limit_per_host=CONNECTIONS_PER_PEER_MAX, keepalive_timeout=KEEP_ALIVE_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.CONTENT_TYPE),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
                raise_for_status=False,
            )
        return self._session

    async def _reply(self, response: aiohttp.ClientResponse, path: str) -> Reply:
        """Read an answer within its limits. Raises `WireError`."""
        if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise WireError("the answer is encoded; nobody asked for that")
        limit = routes.reply_bytes_max(path, response.status)
        if (response.content_length or 0) > limit:
            raise WireError(f"the answer has {response.content_length} bytes, the limit is {limit}")
        chunks: list[bytes] = []
        received, is_payload = 0, routes.kind(path, response.status) == "payload"
        async for chunk in response.content.iter_any():
            received += len(chunk)
            if received > limit:
                raise WireError(f"the answer has more than {limit} bytes")
            chunks.append(chunk)
            await self._receiving.wait(len(chunk), is_payload=is_payload)
        return Reply(response.status, b"".join(chunks))

    async def _outgoing(self, request: Request) -> bytes | AsyncIterator[memoryview] | None:
        """Small bodies leave in one write with the headers, large ones in pieces so that the loop stays fair."""
        view = memoryview(request.body).cast("B")
        is_payload = routes.kind(request.path) == "payload"
        piece_bytes = self._sending.piece_bytes(PIECE_BYTES_MAX) if is_payload else PIECE_BYTES_MAX
        if view.nbytes <= piece_bytes:
            await self._sending.wait(view.nbytes, is_payload=is_payload)
            return bytes(view) or None
        return self._pieces(view, piece_bytes, is_payload=is_payload)

    async def _pieces(self, view: memoryview, piece_bytes: int, *, is_payload: bool) -> AsyncIterator[memoryview]:
        for start in range(0, view.nbytes, piece_bytes):
            piece = view[start : start + piece_bytes]
            await self._sending.wait(piece.nbytes, is_payload=is_payload)
            yield piece


def _why_not(error: OSError, address: str, host: str) -> str:
    """One line for the user: what is wrong with the address, and the fix."""
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: no interface has that address; --listen 0.0.0.0:0 listens on all"
    free = addresses.join(host, 0)
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {address}: another program uses that port; --listen {free} picks a free one"
    return f"cannot listen on {address}: {error.strerror or error}; --listen {free} picks a free port"

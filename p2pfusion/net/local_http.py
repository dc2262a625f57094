"""A page of text for programs on this computer: one path, read only, on 127.0.0.1 and on no other interface.

It is never part of the swarm's own listener, so no peer can reach it. A web page in somebody's browser might try to:
what comes with an `Origin`, from another site, or under any host name but this computer's own (the way DNS rebinding
goes) is refused, and there is nothing here that a request could change. The page is made anew for every request.

It does not know what the text says.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import hdrs, web

from p2pfusion.errors import PortError
from p2pfusion.net.http_connection import Connection, ConnectionServer, HttpLimits, error_reply

HOST = "127.0.0.1"
LIMITS = HttpLimits(connections_max=16, in_flight_max=4, in_flight_bytes_max=1 << 20)
"""A scraper or two and somebody who looks; whoever needs more looks too often."""
HOST_NAMES = (HOST, "localhost")
SITES = ("none", "same-origin")
"""What a browser says of a page that its user asked for; anything else came from another page."""
_HEADERS = {"Server": "p2pfusion", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class LocalPage:
    """`async with LocalPage(port, "/metrics", content_type, text) as page:` serves `text()` there meanwhile."""

    def __init__(self, port: int, path: str, content_type: str, text: Callable[[], bytes]) -> None:
        """Does not listen yet. Port 0 is a free one."""
        self._port = port
        self._path = path
        self._content_type = content_type
        self._text = text
        self._server = ConnectionServer(self._answer, LIMITS)
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self._port}{self._path}"

    async def __aenter__(self) -> Self:
        """Listen. Raises `PortError`."""
        try:
            bound = socket.create_server((HOST, self._port), backlog=LIMITS.connections_max)
        except OSError as error:
            why = "another program uses that port" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise PortError(f"cannot serve metrics on {HOST}:{self._port}: {why}; 0 picks a free port") from None
        self._listener = await asyncio.get_running_loop().create_server(self._server, sock=bound)
        self._port = int(bound.getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and cut every connection."""
        assert self._listener is not None
        self._listener.close()
        await self._server.cut()
        await self._listener.wait_closed()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving():
            status = self._status(request)
            if status != 200:
                return error_reply(status, unread=not request.content.is_eof())
            return web.Response(body=self._text(), headers={**_HEADERS, hdrs.CONTENT_TYPE: self._content_type})

    def _status(self, request: web.BaseRequest) -> int:
        """200 for what may be answered."""
        name, _, port = request.headers.get(hdrs.HOST, "").partition(":")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if name not in HOST_NAMES or port not in ("", str(self._port)) or site not in SITES:
            return 400
        if hdrs.ORIGIN in request.headers or request.content_length or hdrs.TRANSFER_ENCODING in request.headers:
            return 400
        return 200 if (request.method, request.rel_url.raw_path) == ("GET", self._path) else 404

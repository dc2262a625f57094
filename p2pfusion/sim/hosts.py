"""One simulated machine and one call to it: who answers, what it is answering now, what it has counted.

The rules a server applies to a request whatever it means, the same as `net` applies to real ones: a handler that raises
is answered 500, one that hangs 503, a body too large for its route 413, and an answer's buffers are copied before the
handler may change them. This module knows neither links nor addresses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass

from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.sim import gates
from p2pfusion.wire.routes import request_bytes_max

logger = logging.getLogger(__name__)

REQUESTS_IN_FLIGHT_MAX = 64
"""Requests one host handles at once; one more is answered 503 at once."""
DEFERRED_MAX = 1024
"""Callbacks and packets that wait for a machine that stands still; packets beyond are lost: a kernel's buffers end."""
HANDLER_DEADLINE_S = 60.0
"""A handler that hangs gives its place back; its caller gets 503."""

BUSY = Reply(503, b"busy")
TOO_LARGE = Reply(413, b"size")


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A request on its way and the future its caller waits for; None is a refusal."""

    source: int
    target: int
    request: Request
    give_up_s: float
    answer: asyncio.Future[Reply | None]

    def settle(self, reply: Reply | None) -> None:
        """Give the caller its answer, if it is still there."""
        if not self.answer.done():
            self.answer.set_result(reply)


class Host:
    """One machine. `handler` is None while nobody listens; `up` is False while it is silent.

    `is_deaf`: up, yet nothing leaves or reaches it, as behind a closed lid. `clog_bytes`: the largest body that passes.
    """

    def __init__(self) -> None:
        self.up = True
        self.is_deaf = False
        self.clog_bytes: int | None = None
        self.handler: Handler | None = None
        self._gate: gates.Gate | None = None
        self.context: Context | None = None
        """What its handlers run in: that of the task that listens; None while nobody does."""
        self.answering: dict[asyncio.Task[None], None] = {}
        """In order of arrival; at most `REQUESTS_IN_FLIGHT_MAX`."""
        self.handler_errors = 0
        self.sent_bytes = self.received_bytes = self.sent_packets = self.received_packets = 0

    def listen(self, handler: Handler) -> None:
        """Answer with this handler, in the context of the running task and behind its gate."""
        self.handler, self.context, self._gate = handler, copy_context(), gates.current()

    def defer(self, arrive: Callable[[], None]) -> bool:
        """While the machine stands still, keep what has arrived for when it runs on; False when it does not."""
        if self._gate is None or not self._gate.is_shut:
            return False
        if len(self._gate.waiting) < DEFERRED_MAX:
            self._gate.waiting.append(asyncio.Handle(arrive, (), asyncio.get_running_loop(), self.context))
        return True

    def refusal(self, request: Request) -> Reply | None:
        """The reply to a request that is too large for its route, or one more than there is a place for."""
        if len(request.body) > request_bytes_max(request.method, request.path):
            return TOO_LARGE
        return BUSY if len(self.answering) >= REQUESTS_IN_FLIGHT_MAX else None

    def drop_requests(self) -> None:
        """Cancel the handlers of all requests in hand."""
        for task in list(self.answering):
            task.cancel()

    async def handle(self, handler: Handler, request: Request) -> Reply:
        """The handler's reply as it goes on the wire, pieces joined into a copy."""
        try:
            async with asyncio.timeout(HANDLER_DEADLINE_S) as deadline:
                reply = await handler(request)
            body = b"" if reply.status in (204, 304) else b"".join((reply.body, *reply.pieces))  # HTTP: none there
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                return BUSY
            logger.exception("the handler failed on %s; answered 500", request.path)
            self.handler_errors += 1
            return Reply(500, b"bug")
        return Reply(reply.status, body)

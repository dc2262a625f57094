"""One node from its first breath to its last line, as a person or a script sees it.

`follow` enters the node's context, shows every event, keeps the clock of the view going, turns signals into a request
to leave, and holds back the `done` line until the node has really left. It knows the node only as something with
events and a way to stop; which one, and how it was made, is the caller's business.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from p2pfusion.algorithms.base import Traffic
from p2pfusion.app.interrupts import Interrupts
from p2pfusion.app.live import View
from p2pfusion.app.moments import mark
from p2pfusion.app.output import DoneLine, Line, PeerLine, RoundLine, Status, line_of
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.errors import P2PFusionError
from p2pfusion.node.events import Event

TICK_S = 0.25
"""A clock that moves four times a second looks alive and costs nothing."""
LONELY_S = 5.0
"""After this long without anybody a person is told what to do (UX.md 2.3, rule 1)."""


class Following(Protocol):
    """What is needed of a node."""

    def events(self) -> AsyncIterator[Event]:
        """Everything that happens, until it is done."""

    def stop(self) -> None:
        """Ask it to leave."""


class Session:
    """The lines of one node on their way to the view, and what is left to say when they end."""

    def __init__(self, name: str, blueprint: Blueprint, view: View, hint: str = "") -> None:
        self.name, self.blueprint, self.view = name, blueprint, view
        self.done: DoneLine | None = None
        self._hint = hint
        self._last: RoundLine | None = None
        self._sent = self._received = 0
        self._traffic = Traffic()
        self._met_somebody = False
        self._started_s = asyncio.get_running_loop().time()

    @property
    def has_begun(self) -> bool:
        """Whether the run had begun, so that a script is owed a `done` line."""
        return self._last is not None or self.done is not None

    def elapsed_s(self) -> float:
        """Since this session was made."""
        return asyncio.get_running_loop().time() - self._started_s

    async def read(self, node: Following) -> None:
        """Show the node's events until it is done; its last line is kept for `finish`."""
        async for event in node.events():
            self._take(line_of(event, self.blueprint))

    def _take(self, line: Line) -> None:
        if isinstance(line, DoneLine):
            self.done = line
            return
        if isinstance(line, RoundLine):
            if self._last is None:
                mark("training", sum(line.seconds.values()))
            self._last = line
            self._sent += line.bytes_sent
            self._received += line.bytes_received
            self._traffic += line.traffic
        if isinstance(line, PeerLine):
            mark("met")
            self._met_somebody = True
        self.view.show(self.name, line)

    async def tick(self) -> None:
        """Keep the clock going; after a while alone, say once what helps."""
        while True:
            self.view.tick(self.elapsed_s())
            await asyncio.sleep(TICK_S)
            if self._hint and self.elapsed_s() > LONELY_S:
                if not self._met_somebody:
                    self.view.note(self._hint)
                self._hint = ""

    def finish(self, status: Status) -> DoneLine | None:
        """Show the last line, made up from what is known if the node never told it. None if nothing had begun."""
        if self.done is None and self._last is not None:
            self.done = DoneLine(
                status=status,
                name=self.name,
                round=self._last.round,
                accuracy=self._last.accuracy,
                model_sha256=None,
                chain=None,
                bytes_sent=self._sent,
                bytes_received=self._received,
                seconds=round(self.elapsed_s(), 3),
                traffic=self._traffic,
                widths=self._last.widths,
                served=max(self._last.widths, key=self._last.widths.__getitem__, default=None),
            )
        if self.done is not None:
            self.view.show(self.name, self.done)
            self.view.tick(self.elapsed_s())
        return self.done

    def abandon(self) -> None:
        """The last words of a process that ends at once."""
        self.view.close()
        self.finish("interrupted")


async def follow(
    context: AbstractAsyncContextManager[Following], session: Session, *, leave_on_eof: bool = False
) -> DoneLine | None:
    """Run one node and show it. Returns its end, or None if it was interrupted before anything had begun.

    Raises what the node raised; a group of errors is reduced to the first that says something to a user.
    """
    task = asyncio.current_task()
    assert task is not None
    with Interrupts(task.cancel, session.abandon) as interrupts:
        try:
            async with asyncio.TaskGroup() as tasks:
                ticking = tasks.create_task(session.tick())
                try:
                    async with context as node:
                        interrupts.ask_instead(node.stop)
                        await _read(node, session, leave_on_eof=leave_on_eof)
                finally:
                    ticking.cancel()
        except asyncio.CancelledError:
            if not interrupts.seen:
                raise
            task.uncancel()
            return session.finish("interrupted")
        except Exception as error:
            session.finish("failed")
            raise first_cause(error) from error
        return session.finish("interrupted" if interrupts.seen else "failed")


def first_cause(error: BaseException) -> BaseException:
    """The first error of a group, and of groups in it, that is one of ours; else simply the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, P2PFusionError)), causes[0])


async def _read(node: Following, session: Session, *, leave_on_eof: bool) -> None:
    if not leave_on_eof:
        return await session.read(node)
    loop = asyncio.get_running_loop()
    # A pipe from the parent that ends when the parent does, however it ended: nobody is left behind.
    transport, _ = await loop.connect_read_pipe(lambda: _EndOfInput(node.stop), sys.stdin)
    try:
        await session.read(node)
    finally:
        transport.close()


class _EndOfInput(asyncio.Protocol):
    """Calls `ended` when standard input ends; what comes before is ignored."""

    def __init__(self, ended: Callable[[], object]) -> None:
        self._ended = ended

    def eof_received(self) -> None:
        self._ended()

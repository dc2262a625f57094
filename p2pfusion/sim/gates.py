"""A gate stands still for one node: while it is shut, none of the node's callbacks run; opened, they run on in order.

That is what a closed lid, a stopped process or an overloaded machine does to a program: it cannot tell that time stood
still but by the clock, which has jumped. What belongs to a node is known by context: asyncio runs every callback in the
context it was made in, tasks hand theirs on, and a node's first task is started in a context that names its gate. So
whatever the node starts stands behind its gate, and neither node nor asyncio has to help.

`VirtualLoop` asks the gates before each pass, and only while one of them is shut. This module knows no loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context, ContextVar, copy_context
from typing import Any, cast

_GATE: ContextVar[Gate | None] = ContextVar("p2pfusion gate", default=None)


class Gate:
    """Open at first. Shut twice, it opens once."""

    def __init__(self) -> None:
        self.is_shut = False
        self.waiting: list[asyncio.Handle] = []
        """What would have run, in the order it would have; bounded by the tasks and timers of one node."""
        self._shut_s = 0.0
        self._stood_s = 0.0

    def context(self) -> Context:
        """A copy of the current context in which everything stands behind this gate."""
        context = copy_context()
        context.run(_GATE.set, self)
        return context

    def shut(self, now_s: float) -> None:
        """Nothing behind the gate runs from the next pass of the loop on."""
        if not self.is_shut:
            self.is_shut, self._shut_s = True, now_s

    def open(self, now_s: float) -> list[asyncio.Handle]:
        """Returns what waited, for the loop to run."""
        if self.is_shut:
            self.is_shut = False
            self._stood_s += now_s - self._shut_s
        waited, self.waiting = self.waiting, []
        return waited

    def awake_s(self, now_s: float) -> float:
        """Seconds that passed behind this gate: the clock less all it stood still."""
        return (self._shut_s if self.is_shut else now_s) - self._stood_s


def current() -> Gate | None:
    """The gate that the running code stands behind."""
    return _GATE.get()


def pass_gates(handles: Iterable[asyncio.Handle]) -> list[asyncio.Handle]:
    """Those that may run, in order; the others wait at their gates."""
    free = []
    for handle in handles:
        context: Context = cast(Any, handle)._context  # private, and all that says whose callback this is
        gate = context.get(_GATE)
        if gate is not None and gate.is_shut:
            gate.waiting.append(handle)
        else:
            free.append(handle)
    return free

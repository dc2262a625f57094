"""Those who look on at a simulated run: who is told what, and what happens when one of them objects.

What an observer raises would be lost in the loop's callbacks, or end one node and not the run. So the first objection
is kept here, nobody is asked after it, and the run ends with it. This module judges nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

from p2pfusion.errors import LocalError
from p2pfusion.node import Event
from p2pfusion.sim.faults import Fault
from p2pfusion.sim.watching import Observer, Swarm

Asked = TypeVarTuple("Asked")


class Audience:
    """Observers in their order, then the caller's own watch."""

    def __init__(self, swarm: Swarm, observers: list[Observer], watch: Callable[[int], None] | None) -> None:
        self.objection: Exception | None = None
        self._swarm = swarm
        self._observers = observers
        self._watch = watch
        self._objected = asyncio.Event()

    def look(self, index: int) -> None:
        """Node `index` may have changed. Called at every packet, so it does little."""
        if self.objection is None and index in self._swarm.nodes:
            self._guarded(self._look, index)

    def _look(self, index: int) -> None:
        for observer in self._observers:
            observer.look(index)
        if self._watch is not None:
            self._watch(index)

    def told(self, index: int, event: Event) -> None:
        """It has told this."""
        self._guarded(self._check_handlers)
        for observer in self._observers:
            self._guarded(observer.told, index, event)

    def befell(self, fault: Fault) -> None:
        """This has just happened."""
        for observer in self._observers:
            self._guarded(observer.befell, fault)

    def ended(self) -> None:
        """The run is over. Raises the objection, if there is one."""
        self._guarded(self._check_handlers)
        for index in sorted(self._swarm.nodes):
            self.look(index)
        for observer in self._observers:
            self._guarded(observer.ended)
        if self.objection is not None:
            raise self.objection

    async def wait(self) -> None:
        """Until somebody objects; raises that."""
        await self._objected.wait()
        if self.objection is not None:
            raise self.objection

    def _check_handlers(self) -> None:
        if self._swarm.network.handler_errors:
            raise LocalError("a request was answered 500, which is a bug: see the log")

    def _guarded(self, ask: Callable[[*Asked], None], *what: *Asked) -> None:
        if self.objection is not None:
            return
        try:
            ask(*what)
        except Exception as error:
            self.objection = error
            self._objected.set()

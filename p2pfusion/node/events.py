"""What a node tells the world: a bounded log of events that any number of readers follow.

Readers never hold the node up: a slow one loses the oldest events and is told how many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.config import EVENTS_MAX


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A member came, fell silent, died or left. `state`: alive, suspect, dead, left."""

    name: str
    id: str
    state: str


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """Something a person may want to know; `code` is fixed, `text` says it with the remedy."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a run ended for this node. `model_sha256` and `chain` are of the sealed model, never the head.

    `traffic` splits the bytes by kind. Of a model that holds several networks `widths` are the accuracies of all, and
    `served` names the one to use, whose accuracy is told.
    """

    status: Literal["ok", "interrupted", "timeout", "failed"]
    name: str
    round: int
    accuracy: float | None
    model_sha256: str
    chain: str
    bytes_sent: int
    bytes_received: int
    seconds: float
    traffic: Traffic = field(default_factory=Traffic)
    widths: Mapping[str, float] = field(default_factory=dict)
    served: str | None = None


Event = PeerEvent | RoundReport | WarningEvent | Done


class EventLog:
    """The last `EVENTS_MAX` events; readers begin with the oldest kept and end when the log is closed."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._count = 0
        self._news = asyncio.Event()
        self._is_closed = False

    def add(self, event: Event) -> None:
        """What happens after the end is told to nobody."""
        if self._is_closed:
            return
        self._events.append(event)
        self._count += 1
        self._wake()

    def close(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self) -> AsyncIterator[Event]:
        """Every event from the oldest kept on; a reader that fell behind gets a warning with the number lost."""
        position = 0
        while True:
            oldest = self._count - len(self._events)
            if position < oldest:
                lost, position = oldest - position, oldest
                yield WarningEvent("events-lost", f"{lost} events were dropped: read faster")
            elif position < self._count:
                event = self._events[position - oldest]
                position += 1
                yield event
            elif self._is_closed:
                return
            else:
                await self._news.wait()

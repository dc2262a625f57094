"""A node that follows a script, lines as it would write them, and a view that remembers what it was shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from p2pfusion.algorithms.base import RoundReport, Traffic
from p2pfusion.app.live import QuietView
from p2pfusion.app.output import DoneLine, RoundLine
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.submodel import SubModel
from p2pfusion.node.events import Done, Event

TRAFFIC = Traffic(
    payload_sent=900, header_sent=60, gossip_sent=40, payload_received=1800, header_received=120, gossip_received=80,
    calls_sent=5, calls_received=6,
)  # fmt: skip


class MemoryView(QuietView):
    """Remembers everything, in order."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, Any]] = []
        self.notes: list[str] = []
        self.expected: list[str] = []
        self.ticks = 0
        self.is_closed = False

    def note(self, text: str) -> None:
        self.notes.append(text)

    def expect(self, name: str) -> None:
        self.expected.append(name)

    def show(self, source: str, line: Any) -> None:
        self.shown.append((source, line))

    def tick(self, elapsed_s: float) -> None:
        self.ticks += 1

    def close(self) -> None:
        self.is_closed = True


class ScriptedNode:
    """Yields its events; then, if asked to, waits for `stop` before its last one, or raises."""

    def __init__(
        self,
        events: Sequence[Event],
        *,
        until_stopped: Event | None = None,
        error: Exception | None = None,
        on_leave: Callable[[], object] | None = None,
    ) -> None:
        self._events, self._last, self._error, self._on_leave = events, until_stopped, error, on_leave
        self._stopped = asyncio.Event()
        self.waiting = asyncio.Event()
        self.has_left = False

    async def __aenter__(self) -> ScriptedNode:
        return self

    async def __aexit__(self, *details: object) -> None:
        self.has_left = True
        if self._on_leave is not None:
            self._on_leave()

    def stop(self) -> None:
        self._stopped.set()

    async def events(self) -> AsyncIterator[Event]:
        for event in self._events:
            yield event
        if self._last is not None:
            self.waiting.set()
            await self._stopped.wait()
            yield self._last
        if self._error is not None:
            raise self._error


@pytest.fixture
def view() -> MemoryView:
    return MemoryView()


@pytest.fixture
def scripted() -> type[ScriptedNode]:
    return ScriptedNode


@pytest.fixture
def blueprint() -> Blueprint:
    """One weight of 4 x 8 between two axes."""
    weight = Parameter("weight", "layer", (Dim("out"), Dim("in")), Init(None))

    def factory(spec: Any) -> Any:
        raise AssertionError("nobody builds this network")

    return Blueprint(("layer",), (Axis("in", 8), Axis("out", 4)), (weight,), factory)


@pytest.fixture
def report(blueprint: Blueprint) -> Callable[..., RoundReport]:
    """A round's report with any field changed."""

    def make(**changes: Any) -> RoundReport:
        made = RoundReport(
            round=3,
            sub_model=SubModel.of(blueprint, {"in": [range(2, 6)]}),
            share=0.5,
            loss=0.75,
            heard=2,
            missing=1,
            late=0,
            coverage=1.0,
            patience_s=0.5,
            bytes_sent=1000,
            bytes_received=2000,
            head="ab" * 32,
            tip_round=2,
            model_hash="cd" * 32,
            peers=3,
            accuracy=0.9,
            traffic=TRAFFIC,
        )
        return replace(made, **changes)

    return make


@pytest.fixture
def done() -> Callable[..., Done]:
    """The end of a run with any field changed."""

    def make(**changes: Any) -> Done:
        made = Done(
            status="ok",
            name="fox",
            round=3,
            accuracy=0.9,
            model_sha256="12" * 32,
            chain="34" * 32,
            bytes_sent=3000,
            bytes_received=6000,
            seconds=1.5,
            traffic=TRAFFIC + TRAFFIC + TRAFFIC,
        )
        return replace(made, **changes)

    return make


@pytest.fixture
def done_line(done: Callable[..., Done]) -> Callable[..., DoneLine]:
    def make(**changes: Any) -> DoneLine:
        event = done(**changes)
        return DoneLine(**{name: getattr(event, name) for name in Done.__dataclass_fields__})

    return make


@pytest.fixture
def round_line() -> Callable[..., RoundLine]:
    """A round's line with any field changed."""

    def make(**changes: Any) -> RoundLine:
        made = RoundLine(
            round=1,
            loss=0.5,
            share=0.3,
            heard=3,
            missing=0,
            patience_s=1.0,
            bytes_sent=1000,
            bytes_received=2000,
            head="ab" * 32,
            accuracy=0.9,
            traffic=TRAFFIC,
        )
        return replace(made, **changes)

    return make

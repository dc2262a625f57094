"""Following one node: what is shown, in which order, and what is owed at the end, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.app import interrupts, session
from p2pfusion.app.output import DoneLine
from p2pfusion.app.session import Session, first_cause, follow
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.errors import PortError, TooFewPeers, TrainingError
from p2pfusion.node.events import Done, PeerEvent, WarningEvent

pytestmark = pytest.mark.asyncio

Make = Callable[..., Any]


def kinds(view: Any) -> list[str]:
    return [line.event for _, line in view.shown]


async def test_everything_is_shown_and_done_comes_last_after_the_node_has_left(
    view: Any, scripted: Make, blueprint: Blueprint, report: Callable[..., RoundReport], done: Callable[..., Done]
) -> None:
    seen_on_leaving: list[list[str]] = []
    node = scripted(
        [PeerEvent("otter", "ab", "alive"), report(), WarningEvent("code", "text"), done()],
        on_leave=lambda: seen_on_leaving.append(kinds(view)),
    )
    line = await follow(node, Session("fox", blueprint, view))
    assert kinds(view) == ["peer", "round", "warning", "done"]
    assert seen_on_leaving == [["peer", "round", "warning"]]
    assert {source for source, _ in view.shown} == {"fox"}
    assert line == view.shown[-1][1]
    assert view.ticks >= 1


async def test_an_error_before_anything_had_begun_owes_no_done(view: Any, scripted: Make, blueprint: Blueprint) -> None:
    node = scripted([PeerEvent("otter", "ab", "alive")], error=TooFewPeers("1 of 3 after 30 s"))
    with pytest.raises(TooFewPeers, match="1 of 3"):
        await follow(node, Session("fox", blueprint, view))
    assert kinds(view) == ["peer"]
    assert node.has_left


async def test_an_error_after_a_round_owes_a_failed_done(
    view: Any, scripted: Make, blueprint: Blueprint, report: Callable[..., RoundReport]
) -> None:
    node = scripted([report(round=7, accuracy=0.5)], error=TrainingError("loss is nan"))
    with pytest.raises(TrainingError):
        await follow(node, Session("fox", blueprint, view))
    line = view.shown[-1][1]
    assert isinstance(line, DoneLine)
    assert (line.status, line.round, line.accuracy, line.model_sha256) == ("failed", 7, 0.5, None)


async def test_the_nodes_own_words_are_preferred(
    view: Any, scripted: Make, blueprint: Blueprint, report: Callable[..., RoundReport], done: Callable[..., Done]
) -> None:
    node = scripted([report(), done(status="failed", round=6)], error=TrainingError("loss is nan"))
    with pytest.raises(TrainingError):
        await follow(node, Session("fox", blueprint, view))
    assert kinds(view) == ["round", "done"]
    assert view.shown[-1][1].model_sha256 == "12" * 32


async def test_an_error_on_entering_is_raised_as_it_is(view: Any, blueprint: Blueprint) -> None:
    @asynccontextmanager
    async def taken() -> AsyncIterator[Any]:
        raise PortError("port 7790 is in use")
        yield

    with pytest.raises(PortError):
        await follow(taken(), Session("fox", blueprint, view))
    assert view.shown == []


async def test_our_errors_come_before_their_consequences() -> None:
    inner = ExceptionGroup("tasks", [OSError("pipe"), TrainingError("nan")])
    assert isinstance(first_cause(ExceptionGroup("node", [ValueError("x"), inner])), TrainingError)
    assert isinstance(first_cause(ExceptionGroup("node", [ValueError("x"), OSError("y")])), ValueError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_the_node_to_leave(
    number: signal.Signals, view: Any, scripted: Make, blueprint: Blueprint, report: Make, done: Make
) -> None:
    before = signal.getsignal(number)
    node = scripted([report()], until_stopped=done(status="interrupted"))

    async def press() -> None:
        await node.waiting.wait()
        signal.raise_signal(number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(press())
        line = await follow(node, Session("fox", blueprint, view))
    assert line is not None
    assert line.status == "interrupted"
    assert node.has_left
    assert signal.getsignal(number) is before


async def test_a_signal_before_the_node_is_up_gives_up_entering(view: Any, blueprint: Blueprint) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[Any]:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        yield

    assert await follow(slow(), Session("fox", blueprint, view)) is None
    assert view.shown == []
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelling_from_outside_is_not_an_interrupt(view: Any, blueprint: Blueprint) -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await follow(slow(), Session("fox", blueprint, view))


async def test_the_second_signal_ends_the_process_at_once(
    view: Any, scripted: Make, blueprint: Blueprint, report: Make, done: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(interrupts.os, "_exit", end)
    node = scripted([report()], until_stopped=done(status="interrupted"))
    my_session = Session("fox", blueprint, view)

    async def press_twice() -> None:
        await node.waiting.wait()
        node.stop = lambda: None  # a node that hangs
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Ended, match="130"):
            signal.raise_signal(signal.SIGINT)
        node._stopped.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(press_twice())
        await follow(node, my_session)
    assert view.is_closed
    assert view.shown[-2][1].status == "interrupted"


async def test_whoever_is_alone_for_a_while_is_told_what_helps(
    view: Any, scripted: Make, blueprint: Blueprint, done: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LONELY_S", 0.0)
    monkeypatch.setattr(session, "TICK_S", 0.001)
    node = scripted([], until_stopped=done())

    def note(text: str) -> None:
        view.notes.append(text)
        node.stop()

    view.note = note
    await follow(node, Session("fox", blueprint, view, "start another"))
    assert view.notes == ["start another"]


async def test_whoever_met_somebody_is_not(
    view: Any, scripted: Make, blueprint: Blueprint, done: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LONELY_S", 0.0)
    monkeypatch.setattr(session, "TICK_S", 0.001)
    node = scripted([PeerEvent("otter", "ab", "alive")], until_stopped=done())

    def tick(elapsed_s: float) -> None:
        view.ticks += 1
        if view.ticks == 4:
            node.stop()

    view.tick = tick
    await follow(node, Session("fox", blueprint, view, "start another"))
    assert view.notes == []


async def test_the_end_of_standard_input_asks_the_node_to_leave(
    view: Any, scripted: Make, blueprint: Blueprint, done: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    node = scripted([], until_stopped=done(status="interrupted"))

    async def hang_up() -> None:
        await node.waiting.wait()
        os.write(write_end, b"ignored\n")
        os.close(write_end)

    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hang_up())
            line = await follow(node, Session("fox", blueprint, view), leave_on_eof=True)
        await asyncio.sleep(0)  # the pipe's transport closes it in the next turn of the loop
    assert line is not None
    assert line.status == "interrupted"

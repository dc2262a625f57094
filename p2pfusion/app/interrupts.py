"""Ctrl-C and SIGTERM: the first asks, the second ends the process at once with status 130.

Only the command line handles signals; an application that embeds a node keeps its own. Handlers run in the main thread
between two instructions, so they only hand a callback to the loop, or, the second time, end the process without
waiting for anybody: state files are replaced atomically, so nothing on disk can be half written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from types import FrameType, TracebackType
from typing import Any

HARD_EXIT_STATUS = 130
SAME_S = 1.0
"""Real seconds within which a second signal is the first once more: `timeout` sends it to a process and its group."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, the first signal calls `ask` in the loop; a second calls `abandon` and ends the process.

    `abandon` must be quick and may not raise: it restores the terminal or kills children.
    """

    def __init__(self, ask: Callable[[], object], abandon: Callable[[], object]) -> None:
        self._ask, self._abandon = ask, abandon
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self.seen = 0

    def __enter__(self) -> Interrupts:
        self._loop = asyncio.get_running_loop()
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def ask_instead(self, ask: Callable[[], object]) -> None:
        """From now on the first signal calls this."""
        self._ask = ask

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen += 1
        if self.seen > 1 or self._loop is None:
            with suppress(Exception):
                self._abandon()
            os._exit(HARD_EXIT_STATUS)
        self._loop.call_soon_threadsafe(self._call_ask)

    def _call_ask(self) -> None:
        self._ask()


def terminate_like_interrupt() -> None:
    """Outside a loop SIGTERM raises KeyboardInterrupt, so that `finally` blocks run and no child is left behind."""

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, raise_interrupt)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """For a command that runs virtual loops, or none: while entered, the first signal raises KeyboardInterrupt.

    Those that follow at once do nothing, a later one ends the process.

    What a loop that is broken off in its middle says while it falls apart is kept from the terminal, and whoever was
    interrupted leaves this with the end of the process: finalizers would only say more.
    """
    first_s: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        if first_s is not None:
            if perf_counter() - first_s >= SAME_S:
                os._exit(HARD_EXIT_STATUS)
            return
        first_s = perf_counter()
        sys.unraisablehook = _say_nothing
        logging.disable()
        if not _told_loop():
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        if first_s is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(HARD_EXIT_STATUS)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _told_loop() -> bool:
    """Whether a virtual loop runs here; it then raises KeyboardInterrupt itself, where that breaks nothing."""
    try:
        interrupt = getattr(asyncio.get_running_loop(), "interrupt", None)
    except RuntimeError:
        return False
    if interrupt is not None:
        interrupt()
    return interrupt is not None


def _say_nothing(unraisable: object) -> None:
    """As `sys.unraisablehook`."""

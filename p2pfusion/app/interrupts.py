"""Ctrl-C and SIGTERM: the first asks, the second ends the process at once with status 130.

Only the command line handles signals; an application that embeds a node keeps its own. Handlers run in the main thread
between two instructions, so they only hand a callback to the loop, or, the second time, end the process without
waiting for anybody: state files are replaced atomically, so nothing on disk can be half written.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

HARD_EXIT_STATUS = 130
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

"""Compute on threads: one thread per lane, so that training never holds up folding and neither holds up the loop.

numpy and torch let go of the interpreter lock inside their kernels, so threads are enough. Each lane has a bounded
backlog; a caller beyond it waits. A running thread cannot be stopped from outside: `close` refuses new work and waits
for nobody, but the interpreter joins the threads when the process exits, so work that takes long must ask its own
`should_stop` now and then (`core.training` does so at every step; a process then exits within one step).

Intra-op threads of torch are set to a small number because they are poison as soon as another process wants the cores
(MEASUREMENTS.md A2). This module does not know what the work is, and does not import torch.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from collections.abc import Callable
from typing import TypeVar

from p2pfusion.errors import LocalError

T = TypeVar("T")

LANES = ("train", "fold", "gate")
BACKLOG_MAX = 2
"""Works queued behind the running one in a lane; more would only grow old there."""


class _Lane:
    """One thread and the places in front of it."""

    def __init__(self, name: str) -> None:
        self.places = asyncio.Semaphore(1 + BACKLOG_MAX)
        self.executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"p2pfusion-{name}")


class ThreadCompute:
    """`seams.Compute` on one thread per lane."""

    def __init__(self, threads: int = 1) -> None:
        """`threads` is how many cores torch may use inside one operation."""
        self._threads = threads
        self._lanes = {name: _Lane(name) for name in LANES}
        self._closed = False

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        """See `seams.Compute.run`. Raises `LocalError` when closed, also for work that was queued but never ran.

        Cancelling the caller withdraws queued work; running work goes on and its result is dropped.
        """
        if lane not in self._lanes:
            raise LocalError(f"no lane {lane!r}; there are {', '.join(LANES)}")
        place = self._lanes[lane]
        async with place.places:
            if self._closed:
                raise LocalError("compute is closed")
            future = place.executor.submit(self._call, work)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                if self._closed and not _cancelled_from_outside():
                    raise LocalError("compute was closed before the work ran") from None
                raise

    async def close(self) -> None:
        """See `seams.Compute.close`. Queued work is dropped, running work is left to its `should_stop`."""
        self._closed = True
        for lane in self._lanes.values():
            lane.executor.shutdown(wait=False, cancel_futures=True)

    def _call(self, work: Callable[[], T]) -> T:
        """In the lane's thread. Torch may have been loaded since the last work, so we look at it each time."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        return work()


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

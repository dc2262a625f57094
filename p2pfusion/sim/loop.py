"""An asyncio event loop on virtual time: when every task waits, the clock jumps to the next timer.

`run(main)` is `asyncio.run` for the simulator: `sleep`, `timeout`, `TaskGroup`, `Queue` work unchanged, an hour of
waiting takes no time, and the same program with the same generators does the same things in the same order in every
process. Four sources of chance that a plain asyncio loop has are closed here:

- Time starts at 0.0 and only moves to the exact moment of the next timer.
- Timers of one moment fire in the order of their creation. (A plain heap fires 50 equal sleeps as 0, 2, 6, 14, ...)
- Tasks hash by number instead of by memory address. `TaskGroup` and `all_tasks` keep tasks in sets, so the order in
  which an aborted group cancels its children would otherwise differ from process to process.
- Threads are refused: `run_in_executor`, hence `asyncio.to_thread` and every name lookup, raises.

A program that can never go on is told so. Every task waits and no timer is set: `Deadlock`, with the place where each
task waits. Callbacks go on for ever without time moving: `Deadlock` as well. An exception that asyncio would only log
(in a callback, or in a task nobody awaits) fails `run` once the main coroutine has returned.

Part of a program can stand still while the rest goes on: `shut` and `reopen` a gate (`sim.gates`).

There is no selector, no socket and no file descriptor. The loop relies on five names of `BaseEventLoop` that are
private yet the same from Python 3.11 to 3.13: `_selector.select`, `_process_events`, `_scheduled`, `_ready`,
`_clock_resolution`. Signals are `asyncio.Runner`'s business. This module knows no network and no node.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context
from pathlib import PurePath
from typing import Any, TypeVar, TypeVarTuple

from p2pfusion.errors import LocalError
from p2pfusion.sim.gates import Gate, pass_gates

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

STEPS_PER_MOMENT_MAX = 100_000
"""Passes of the loop at one virtual moment: hundreds of nodes need some hundred, two tasks waking each other no end."""
TASKS_NAMED_MAX = 10
"""Waiting tasks that an error names: enough to see the cycle, few enough to read."""

_ASYNCIO = PurePath(asyncio.__file__).parent


class Deadlock(LocalError):
    """The simulated program can never go on; the text says where each task waits."""


class _Timer(asyncio.TimerHandle):
    """A timer ordered by (moment, creation)."""

    __slots__ = ("_order",)
    _when: float
    _scheduled: bool
    _order: int

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        if self._when == other._when:
            return self._order < other._order
        return self._when < other._when


class _Task(asyncio.Task[T]):
    """A task that hashes by its number, so that sets of tasks iterate alike in every process."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, order: int, **options: Any) -> None:
        self.order = order  # before Task registers itself in a set
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.order


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. `until_s` is the virtual moment after which `TimeoutError` ends the run, once."""

    _scheduled: list[_Timer]
    _ready: deque[asyncio.Handle]
    _clock_resolution: float

    def __init__(self, until_s: float | None = None) -> None:
        super().__init__()
        self._now_s = 0.0
        self._until_s = until_s
        self._steps = 0
        self._timers = itertools.count()
        self._tasks = itertools.count(1)
        self._gates_shut = 0
        self._is_interrupted = False
        self.failure: BaseException | None = None
        """The first exception nobody would have seen."""
        self._selector = self  # the base class asks its selector one question: select(timeout)
        self._clock_resolution = math.ulp(0.0)
        self.set_task_factory(_numbered)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """What the base class believes to be the wait for sockets: moves the clock to the next timer."""
        if self._is_interrupted:
            self._is_interrupted = False  # so that whoever is cancelled now can clean up
            raise KeyboardInterrupt
        if timeout is not None and timeout <= 0:
            self._steps += 1
            if self._steps > STEPS_PER_MOMENT_MAX:
                self._steps = 0  # so that whoever is cancelled now can clean up
                raise self._deadlock(f"{STEPS_PER_MOMENT_MAX} steps without time passing")
            self._keep_behind_gates()
            return []
        when_s = self._scheduled[0].when() if self._scheduled else math.inf
        if math.isinf(when_s):
            raise self._deadlock("every task waits and no timer is set")
        if self._until_s is not None and when_s > self._until_s:
            self._move_to(self._until_s)
            self._until_s = None  # so that whoever is cancelled now can clean up
            raise TimeoutError(f"not done at {self._now_s:g} s of virtual time; {self._waiting()}") from self.failure
        self._move_to(when_s)
        self._keep_behind_gates()
        return []

    def interrupt(self) -> None:
        """For a signal handler: raise KeyboardInterrupt out of `run` before the next callback.

        Raised at any instruction it may hit asyncio's own bookkeeping, which then waits for ever for a task that is
        done, or a finalizer, which swallows it.
        """
        self._is_interrupted = True

    def shut(self, gate: Gate) -> None:
        """Nothing behind the gate runs until `reopen`; what is already under way in this pass does."""
        self._gates_shut += not gate.is_shut
        gate.shut(self._now_s)

    def reopen(self, gate: Gate) -> None:
        """What waited behind the gate runs next."""
        self._gates_shut -= gate.is_shut
        self._ready.extend(gate.open(self._now_s))

    def _keep_behind_gates(self) -> None:
        """Take out of what is about to run whatever stands behind a shut gate, timers that are due included."""
        if not self._gates_shut:
            return
        due = list(self._ready)
        while self._scheduled and self._scheduled[0].when() <= self._now_s:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False  # as the base class does with a timer that is due
            due.append(timer)
        self._ready.clear()
        self._ready.extend(pass_gates(due))

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio, but timers of one moment fire in the order they were made."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = _Timer(when, callback, args, self, context)
        timer._order = next(self._timers)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # what the base class's own call_at does; counts cancelled timers
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Always raises: a thread would make the run depend on real time."""
        raise RuntimeError("no threads on virtual time: use the Compute door (p2pfusion.sim.doors.SimCompute)")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log as asyncio does, and remember the first one for `run` to raise."""
        super().default_exception_handler(context)
        if self.failure is None:
            self.failure = context.get("exception") or RuntimeError(context["message"])

    def _move_to(self, when_s: float) -> None:
        self._now_s = when_s
        self._steps = 0
        # The base class fires timers before now + resolution: the next float, so exactly those that are due.
        self._clock_resolution = math.ulp(when_s)

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing: there are no sockets."""

    def _write_to_self(self) -> None:
        """Nothing to wake: this loop never blocks. Runner's Ctrl-C handler calls it."""

    def _deadlock(self, why: str) -> Deadlock:
        error = Deadlock(f"{why} at {self._now_s:g} s of virtual time; {self._waiting()}")
        error.__cause__ = self.failure  # a callback that failed is the usual reason why nobody wakes
        return error

    def _waiting(self) -> str:
        tasks = sorted((task for task in asyncio.all_tasks(self) if isinstance(task, _Task)), key=lambda t: t.order)
        named = [_where(task) for task in tasks[:TASKS_NAMED_MAX]]
        if len(tasks) > TASKS_NAMED_MAX:
            named.append(f"and {len(tasks) - TASKS_NAMED_MAX} more")
        return "waiting: " + ("; ".join(named) or "nobody")


def run(main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T], *, until_s: float | None = None) -> T:
    """Run a coroutine (or coroutine function) to its end on a new `VirtualLoop`; tasks left over are cancelled.

    Raises what `main` raises, `Deadlock` when it can never end, `TimeoutError` when it has not ended at `until_s`
    virtual seconds, and the first exception that was raised where nobody would have seen it.
    """
    loop = VirtualLoop(until_s)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(main() if callable(main) else main)
    if loop.failure is not None:
        raise loop.failure
    return result


def _numbered(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> asyncio.Future[T]:
    """Task factory: numbered per loop, the default name too (asyncio counts for the whole process)."""
    assert isinstance(loop, VirtualLoop)
    assert asyncio.iscoroutine(coro)
    order = next(loop._tasks)
    options["name"] = options.get("name") or f"Task-{order}"
    return _Task(coro, loop=loop, order=order, **options)


def _where(task: asyncio.Task[Any]) -> str:
    """`name at file:line in function` of the innermost coroutine that waits, asyncio's own left out."""
    place = task.get_name()
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        path = PurePath(frame.f_code.co_filename)
        if path.parent != _ASYNCIO:
            place = f"{task.get_name()} at {path.name}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = awaited.cr_await
    return place

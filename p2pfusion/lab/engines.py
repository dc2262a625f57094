"""Where the runs of a sweep are done: in this process, in several on this machine, or as tasks of a Ray cluster.

An engine takes orders as text, gives each to a `Work`, and yields (number, what came back as text) as runs finish, in
any order; what a run gives does not depend on where it was done. It knows neither scenarios nor files. Whatever ends a
generator early (an error, Ctrl-C, the caller closing it), no process of ours is left behind: workers also end by
themselves as soon as their parent is gone.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from typing import Any

from p2pfusion.errors import LocalError, TaskError

JOBS_MAX = 256
"""Processes at once: a worker that trains takes half a gigabyte, more of them than this is a typing mistake."""
LOOK_S = 0.2
"""Real seconds between two looks at what the workers said: often enough for a person who watches."""

Say = Callable[[int], None]
Work = Callable[[str, Say], str]
"""One run: order text, whom to tell the rounds done -> trace text. A function of a module, so that workers find it."""
Told = Callable[[int, int], None]
"""Called with the number of a run and its rounds done."""
Finished = Generator[tuple[int, str], None, None]
"""Closing it ends what still runs."""


def default_jobs(runs: int) -> int:
    """As many processes as there are cores, but not more than runs."""
    return max(1, min(os.cpu_count() or 1, runs))


def local(orders: Sequence[str], work: Work, told: Told, jobs: int) -> Finished:
    """On this machine: here if one process is enough, else in `jobs` processes.

    Raises what a run raised, and `LocalError` when a worker was killed.
    """
    if jobs == 1 or len(orders) <= 1:
        for number, order in enumerate(orders):
            yield number, work(order, _teller(told, number))
    else:
        yield from _on_processes(orders, work, told, min(jobs, JOBS_MAX, len(orders)))


def _teller(told: Told, number: int) -> Say:
    return lambda rounds: told(number, rounds)


# -- processes --------------------------------------------------------------------------------------------------------

_news: SimpleQueue[tuple[int, int]] | None = None
"""In a worker: where it says how far it is."""


def _on_processes(orders: Sequence[str], work: Work, told: Told, jobs: int) -> Finished:
    context = multiprocessing.get_context("spawn")
    news: SimpleQueue[tuple[int, int]] = context.SimpleQueue()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(news,))
    others = frozenset(child.pid for child in multiprocessing.active_children())
    done: queue.SimpleQueue[tuple[int, Future[str]]] = queue.SimpleQueue()
    try:
        for number, order in enumerate(orders):
            pool.submit(_do, work, number, order).add_done_callback(partial(_note, done, number))
        for _ in orders:
            number, future = _next(done, news, told)
            yield number, _result(future)
        pool.shutdown()
    finally:
        _end(pool, others)
        news.close()


def _note(done: queue.SimpleQueue[tuple[int, Future[str]]], number: int, future: Future[str]) -> None:
    done.put((number, future))


def _next(
    done: queue.SimpleQueue[tuple[int, Future[str]]], news: SimpleQueue[tuple[int, int]], told: Told
) -> tuple[int, Future[str]]:
    """The next run that has finished.

    Not by `concurrent.futures.wait`: a Ctrl-C that comes while it takes the futures' locks leaves one of them locked,
    and then the pool never ends. This queue is one call into C, which an interrupt leaves whole.
    """
    while True:
        try:
            return done.get(timeout=LOOK_S)
        except queue.Empty:
            pass
        finally:
            _pass_on(news, told)


def _result(future: Future[str]) -> str:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise LocalError(
            "a worker process was killed, for want of memory perhaps: run it again with fewer processes (--jobs)"
        ) from error


def _end(pool: ProcessPoolExecutor, others: frozenset[int | None]) -> None:
    """Let no worker outlive the sweep: those that still run are working for nobody."""
    workers = [child for child in multiprocessing.active_children() if child.pid not in others]
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    # Only now can its own thread end, and must: else the interpreter reports its semaphores as leaked.
    pool.shutdown(cancel_futures=True)


def _pass_on(news: SimpleQueue[tuple[int, int]], told: Told) -> None:
    while not news.empty():
        told(*news.get())


def _begin_worker(news: SimpleQueue[tuple[int, int]]) -> None:
    """In a worker, first of all: Ctrl-C concerns the parent alone, and without a parent there is nothing to do."""
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _do(work: Work, number: int, order: str) -> str:
    news = _news
    return work(order, lambda rounds: news.put((number, rounds)) if news is not None else None)


# -- Ray --------------------------------------------------------------------------------------------------------------


def find_ray() -> Any:
    """The library. Raises `TaskError` with the fix where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise TaskError("--engine ray: ray is not installed: run pip install 'p2pfusion[ray]'") from error


def on_ray(orders: Sequence[str], work: Work, told: Told, ray: Any) -> Finished:
    """As tasks of one core each on the cluster that is running, or on one started for this on this machine.

    The rounds of a run are told when it has finished. Raises what a run raised.
    """
    _connect(ray)
    pending: dict[Any, int] = {}
    try:
        task = ray.remote(_ray_work)
        pending = {task.remote(work, order): number for number, order in enumerate(orders)}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                yield pending.pop(reference), _ray_result(ray, reference)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _ray_result(ray: Any, reference: Any) -> str:
    """What the run gave, or what it raised: Ray wraps that into an error with the whole traceback in its text."""
    try:
        text: str = ray.get(reference)
    except Exception as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None
    return text


def _connect(ray: Any) -> None:
    """To the cluster that runs (RAY_ADDRESS, or `ray start` on this machine), else to a new one on this machine."""
    words = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        ray.init(address="auto", **words)
    except ConnectionError:
        ray.init(include_dashboard=False, **words)


def _ray_work(work: Work, order: str) -> str:
    return work(order, lambda _: None)

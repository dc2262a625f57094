"""Wherever a run is done it gives the same, and nobody is left behind when something ends early."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from p2pfusion.errors import LocalError, TaskError
from p2pfusion.lab import engines
from p2pfusion.lab.engines import Say, default_jobs, find_ray, local, on_ray

ROOT = Path(__file__).parents[2]


def shout(text: str, say: Say) -> str:
    for rounds in range(1, 4):
        say(rounds)
    return text.upper()


def fail(text: str, say: Say) -> str:
    if text == "bad":
        raise TaskError("a bad order; give a good one")
    return text


def die(text: str, say: Say) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return text


def linger(text: str, say: Say) -> str:
    """The first order is done at once; the others never are."""
    if text != "first":
        threading.Event().wait()
    return text


class Told:
    def __init__(self) -> None:
        self.last: dict[int, int] = {}

    def __call__(self, run: int, rounds: int) -> None:
        self.last[run] = rounds


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_order_comes_back_with_its_number(jobs: int) -> None:
    told = Told()
    assert dict(local(["a", "b", "c"], shout, told, jobs)) == {0: "A", 1: "B", 2: "C"}
    assert multiprocessing.active_children() == []
    assert told.last.get(0) == 3


def test_a_single_order_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_on_processes", None)
    assert list(local(["a"], shout, Told(), 8)) == [(0, "A")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_run_raises_is_raised(jobs: int) -> None:
    with pytest.raises(TaskError, match="give a good one"):
        list(local(["good", "bad", "good"], fail, Told(), jobs))
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told_with_the_fix() -> None:
    with pytest.raises(LocalError, match="--jobs"):
        list(local(["a", "b"], die, Told(), 2))
    assert multiprocessing.active_children() == []


def test_whoever_stops_listening_leaves_no_process() -> None:
    results = local(["first", "never", "never"], linger, Told(), 2)
    assert next(results) == (0, "first")
    assert multiprocessing.active_children()
    results.close()
    assert multiprocessing.active_children() == []


def test_jobs_are_bounded_by_cores_runs_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [default_jobs(runs) for runs in (0, 1, 3, 100)] == [1, 1, 3, 4]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_jobs(5) == 1
    seen: list[int] = []

    def processes(orders: Sequence[str], work: object, told: object, jobs: int) -> Any:
        seen.append(jobs)
        yield from ()

    monkeypatch.setattr(engines, "_on_processes", processes)
    orders = ["order"] * (engines.JOBS_MAX + 5)
    for jobs in (engines.JOBS_MAX, engines.JOBS_MAX + 1):
        assert list(local(orders, shout, Told(), jobs)) == []
    assert seen == [engines.JOBS_MAX] * 2


PARENT = """
import multiprocessing
from contextlib import closing
from tests.lab.test_engines import Told, linger
from p2pfusion.lab.engines import local

if __name__ == "__main__":
    with closing(local(["first", "never", "never"], linger, Told(), 2)) as results:
        next(results)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        next(results)
"""


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_worker_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, str(script)]
    with subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.send_signal(number)
        assert parent.wait(20) != 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


# -- Ray: the seam, with the five functions of the library that are used ----------------------------------------------


class FakeRay:
    """Runs tasks when they are waited for, the last one first."""

    def __init__(self, *, has_cluster: bool) -> None:
        self.has_cluster = has_cluster
        self.inits: list[dict[str, Any]] = []
        self.cancelled: list[Any] = []
        self.is_shut = False

    def init(self, **words: Any) -> None:
        self.inits.append(words)
        if words.get("address") == "auto" and not self.has_cluster:
            raise ConnectionError("Could not find any running Ray instance.")

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(remote=lambda *arguments: Reference(function, arguments))

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: Any) -> Any:
        try:
            return reference.function(*reference.arguments)
        except TaskError as error:
            wrapped = RuntimeError(f"ray::work\nTraceback ...\n{error}")
            wrapped.cause = error  # type: ignore[attr-defined] # as ray.exceptions.RayTaskError has it
            raise wrapped from None

    def cancel(self, reference: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    def shutdown(self) -> None:
        self.is_shut = True


class Reference:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments


@pytest.mark.parametrize("has_cluster", [True, False])
def test_ray_does_the_same_sweep(has_cluster: bool) -> None:
    ray = FakeRay(has_cluster=has_cluster)
    results = list(on_ray(["a", "b", "c"], shout, Told(), ray))
    assert results == [(2, "C"), (1, "B"), (0, "A")]
    assert [words.get("address") for words in ray.inits] == (["auto"] if has_cluster else ["auto", None])
    assert ray.is_shut
    assert ray.cancelled == []


def test_what_a_run_raises_on_ray_is_raised_without_its_wrapping() -> None:
    ray = FakeRay(has_cluster=True)
    with pytest.raises(TaskError, match=r"^a bad order"):
        list(on_ray(["good", "bad"], fail, Told(), ray))
    assert len(ray.cancelled) == 1
    assert ray.is_shut


def test_whoever_stops_listening_cancels_what_ray_has_not_done() -> None:
    ray = FakeRay(has_cluster=True)
    results = on_ray(["a", "b", "c"], shout, Told(), ray)
    next(results)
    results.close()
    assert len(ray.cancelled) == 2
    assert ray.is_shut


def test_without_ray_there_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TaskError, match=r"pip install 'p2pfusion\[ray\]'"):
        find_ray()
    fake = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert find_ray() is fake
    assert importlib.import_module("ray") is fake

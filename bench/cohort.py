"""Processes that are measured: started together, told together, ended for certain.

Every child leads a session of its own and dies with us; whatever it started in turn is handed to us when it dies first
(`PR_SET_CHILD_SUBREAPER`), so that nothing of it can hide; every answer has a time limit. Where we may, we move into a
network namespace with nothing but loopback, so that its byte counters count what is measured and nothing else, and no
program can reach further. Linux only. It knows no system by name.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.peers.talk import ONE_THREAD, now_s

ROOT = Path(__file__).resolve().parents[1]
START_S_MAX = 120.0
"""From the command to the first word; hivemind's eighth peer takes 30 s on two busy cores."""
ANSWER_S_MAX = 180.0
LEAVE_S = 8.0
"""How long a child that was told to leave is waited for before it is killed."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A shell starts what it puts into the background with Ctrl-C ignored, so even that one is set."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A child did not answer in time, or ended."""


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever happens inside, Ctrl-C and termination included: afterwards no process of ours is left."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    before = {number: signal.signal(number, _interrupt) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        end(psutil.Process().children(recursive=True))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def end(processes: Sequence[psutil.Process], grace_s: float = 0.0) -> int:
    """Wait, then kill these and whatever they have started meanwhile; returns how many had to be killed."""
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    killed = 0
    while left:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                killed += 1
        psutil.wait_procs(left, timeout=1.0)
        left = [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    return killed


def own_loopback() -> bool:
    """Move this process into a network of its own, loopback up; False where that is not allowed."""
    if _libc.unshare(CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        wanted = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, wanted))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
    return True


def loopback_bytes() -> int:
    """Bytes that went over loopback in this network so far, headers included."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise Failed("no loopback interface")


def free_port(count: int) -> int:
    """The first of `count` free ports in a row, above where the system takes its own."""
    for first in range(61000, 65000, 16):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise Failed("no free ports")


class Child:
    """One process that answers lines (`bench.peers.talk`)."""

    def __init__(self, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **(extra or {})}
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.relative_to(ROOT) if log.is_relative_to(ROOT) else log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,  # some write into the folder they start in
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._rest = b""

    def tree(self) -> list[psutil.Process]:
        """The process and everything below it."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def tell(self, order: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            raise Failed("no pipe")
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"it has ended; {self._log} says why") from None

    def hear(self, limit_s: float = ANSWER_S_MAX) -> dict[str, Any]:
        """Its next answer. Raises `Failed`."""
        if self._process.stdout is None:
            raise Failed("no pipe")
        deadline_s = now_s() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline_s - now_s())):
                    raise Failed(f"no answer in {limit_s:g} s; {self._log} may say why")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise Failed(f"it has ended; {self._log} says why")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def close_input(self) -> None:
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def reap(self) -> None:
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a swarm of processes has used: processor seconds so far, memory now (shared pages shared out)."""

    cpu_s: float
    memory_bytes: int


class Cohort:
    """All processes of one system. `with Cohort(...)`: leaving the block ends them."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.killed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(LEAVE_S if kind is None else 0.0)

    def start(self, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> Child:
        child = Child(command, log, extra)
        self.children.append(child)
        return child

    def tell_all(self, order: Mapping[str, Any], limit_s: float = ANSWER_S_MAX) -> list[dict[str, Any]]:
        """The same order to everybody, then everybody's answer."""
        for child in self.children:
            child.tell(order)
        return [child.hear(limit_s) for child in self.children]

    def used(self) -> Used:
        cpu_s, memory_bytes = 0.0, 0
        for process in (process for child in self.children for process in child.tree()):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory_bytes += process.memory_full_info().pss
        return Used(cpu_s=cpu_s, memory_bytes=memory_bytes)

    def close(self, grace_s: float = LEAVE_S) -> None:
        """Let them leave, then kill who has not."""
        processes = [process for child in self.children for process in child.tree()]
        for child in self.children:
            child.close_input()
        self.killed += end(processes, grace_s)
        for child in self.children:
            child.reap()
        self.children = []


def python_module(module: str, python: Path | str | None = None, **options: object) -> list[str]:
    """`python -m module --name value ...`; options that are None are left out."""
    command = [str(python or sys.executable), "-m", module]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command

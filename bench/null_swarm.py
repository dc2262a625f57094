"""Starts the processes of `null_node`, reads what they say, and ends them; what lies on the loopback wire meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LINE_BYTES_MAX = 1 << 20


class Process:
    """One node process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.said: dict[str, dict[str, Any]] = {}

    async def hear(self, event: str) -> dict[str, Any]:
        """Read on until it says this; what it says of its end counts as the end of hope."""
        assert self.process.stdout is not None
        while event not in self.said:
            line = await self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.name} ended before {event!r}")
            said = json.loads(line)
            self.said[said["event"]] = said
        return self.said[event]

    async def ask(self) -> dict[str, Any]:
        """Its figures now."""
        assert self.process.stdin is not None
        self.said.pop("figures", None)
        self.process.stdin.write(b"\n")
        return await self.hear("figures")


class Swarm:
    """So many processes who know the address of the first. They end with the block."""

    def __init__(self, nodes: int, tree: str, options: dict[str, Any], profile: str = "") -> None:
        """`tree`: the folder whose `p2pfusion` they run; `profile`: a file for the profile of the second one."""
        self._nodes, self._tree, self._options, self._profile = nodes, tree, options, profile
        self.processes: list[Process] = []

    async def __aenter__(self) -> Self:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self._nodes)]
        script = str(Path(__file__).with_name("null_node.py"))
        for number, address in enumerate(addresses):
            peers = addresses[:1] if number else []
            own = {"listen": address, "peers": peers, "name": f"node-{number}", "seed": number}
            look = ["-m", "cProfile", "-o", self._profile] if self._profile and number == 1 else []
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *look,
                script,
                json.dumps(self._options | own),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES_MAX,
                cwd=self._tree,
                env={**os.environ, "PYTHONPATH": self._tree},
            )
            self.processes.append(Process(f"node-{number}", process))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.processes:
            if one.process.stdin is not None:
                one.process.stdin.close()
        for one in self.processes:
            try:
                async with asyncio.timeout(10.0):
                    await one.process.communicate()
            except TimeoutError:
                one.process.kill()
                await one.process.wait()

    async def all_say(self, event: str) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(one.hear(event) for one in self.processes)))

    async def all_figures(self) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(one.ask() for one in self.processes)))


def free_ports(count: int) -> list[int]:
    """Ports nobody uses now; held together, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def loopback_bytes() -> int | None:
    """Bytes the loopback interface has carried, headers and other programs included; None where nobody counts them."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[0] == "lo:"), None)


def total(figures: dict[str, Any], name: str) -> int:
    """Sum over all routes of one counter."""
    return sum(figures[name].values())

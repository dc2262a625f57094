"""Processes of our own that run nodes, and what they say: started together, read line by line, never left behind.

Each child has its standard input connected to us and leaves when that ends, so that even a killed parent leaves nobody
running. They get a session of their own: Ctrl-C in the terminal reaches only the parent, which asks them once. What the
children train and what their last lines mean together is `demo`'s business.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from p2pfusion.app.interrupts import Interrupts
from p2pfusion.app.live import View
from p2pfusion.app.output import LINE_BYTES_MAX, DoneLine, RoundLine, from_json
from p2pfusion.errors import WireError

TICK_S = 0.25
LEAVE_S = 2.0
"""Between asking a child to leave and killing it (UX.md 9: Ctrl-C takes at most 2 s)."""
WORDS_BYTES_MAX = 8192
"""Of a child's stderr, its end: a traceback fits."""


@dataclass(slots=True)
class Child:
    """One process. `failed_first` marks the one whose end made us end the others; `shares`: trained, round by round."""

    name: str
    state: Path
    process: asyncio.subprocess.Process
    done: DoneLine | None = None
    was_asked: bool = False
    failed_first: bool = False
    words: bytes = b""
    shares: list[float] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Its exit status; a signal's number, negative, if one killed it. Only after it ended."""
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def last_words(self) -> str:
        """The last line it wrote to stderr."""
        lines = self.words.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def hear(self, words: bytes) -> None:
        """Keep the end of what it complains about."""
        self.words = (self.words + words)[-WORDS_BYTES_MAX:]

    def ask(self) -> None:
        """Ask it to leave."""
        self.was_asked = True
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self.process.kill()


class _Crew:
    """All children of one command, and whether they were told to go."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.is_leaving = False

    def add(self, child: Child) -> None:
        """One more; if the others were told to go while it was started, it goes too."""
        self.children.append(child)
        if self.is_leaving:
            child.ask()

    def ask(self) -> None:
        """Ask all that still run to leave; kill those that are still there after `LEAVE_S`."""
        self.is_leaving = True
        for child in self._running():
            child.ask()
        asyncio.get_running_loop().call_later(LEAVE_S, self.kill)

    def kill(self) -> None:
        """End all that still run."""
        for child in self._running():
            child.kill()

    def _running(self) -> list[Child]:
        return [child for child in self.children if child.process.returncode is None]


async def run_children(
    commands: Mapping[str, tuple[Sequence[str], Path]], view: View, *, give_up_s: float
) -> list[Child]:
    """Run all commands to their end and show what they say. The first that fails ends the others.

    After `give_up_s` seconds all are asked to leave. Whatever happens, no child is running when this returns or raises.
    """
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    crew = _Crew()
    with Interrupts(crew.ask, crew.kill):
        try:
            for name, (line, state) in commands.items():
                if not crew.is_leaving:
                    crew.add(await _start(name, line, state))
                    view.expect(name)
            giving_up = loop.call_later(give_up_s, crew.ask)
            async with asyncio.TaskGroup() as tasks:
                ticking = tasks.create_task(_tick(view, started_s))
                watching = [tasks.create_task(_watch(child, crew, view)) for child in crew.children]
                for watcher in watching:
                    await watcher
                ticking.cancel()
            giving_up.cancel()
        finally:
            crew.kill()
            for child in crew.children:
                await child.process.wait()
    view.tick(loop.time() - started_s)
    return crew.children


async def _start(name: str, line: Sequence[str], state: Path) -> Child:
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    return Child(name, state, process)


async def _tick(view: View, started_s: float) -> None:
    while True:
        view.tick(asyncio.get_running_loop().time() - started_s)
        await asyncio.sleep(TICK_S)


async def _watch(child: Child, crew: _Crew, view: View) -> None:
    """Read both outputs to their end; a child that fails by itself takes the others with it."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read_lines(child, view))
        tasks.create_task(_read_words(child))
    status = await child.process.wait()
    if status and not crew.is_leaving:
        child.failed_first = True
        crew.ask()


async def _read_lines(child: Child, view: View) -> None:
    assert child.process.stdout is not None
    while True:
        try:
            text = await child.process.stdout.readline()
            if not text:
                return
            line = from_json(text)
        except (ValueError, WireError) as error:
            # Too long (ValueError, and the stream goes on behind it) or not a line of ours.
            child.hear(f"{error}\n".encode())
            continue
        if isinstance(line, DoneLine):
            child.done = line
        elif isinstance(line, RoundLine):
            child.shares.append(line.share)
        view.show(child.name, line)


async def _read_words(child: Child) -> None:
    assert child.process.stderr is not None
    while text := await child.process.stderr.read(WORDS_BYTES_MAX):
        child.hear(text)

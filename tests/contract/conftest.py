"""One suite, every implementation: what the simulator's doors promise, the real ones must show.

A test is a synchronous function with a coroutine inside, `async def scenario(new)`, where `new()` makes one more door
of the implementation under test; `play` runs it on the loop that implementation lives on: virtual time for the
simulator's, loopback sockets and threads for the real ones. Doors are closed when the scenario ends.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
from p2pfusion.seams import Store
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.memory import MemoryStore

PATIENCE_S = 30.0
"""Of the slowest scenario on the slowest machine; virtual for the simulator."""

Scenario = Callable[[Callable[[], Any]], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


@asynccontextmanager
async def _doors(make: Callable[[], Any]) -> AsyncIterator[Callable[[], Any]]:
    async with AsyncExitStack() as stack:

        def new() -> Any:
            door = make()
            stack.push_async_callback(door.close)
            return door

        async with asyncio.timeout(PATIENCE_S):
            yield new


def _plain(make: Callable[[], Any]) -> Callable[[Scenario], Coroutine[Any, Any, None]]:
    async def played(scenario: Scenario) -> None:
        async with _doors(make) as new:
            await scenario(new)

    return played


async def _on_simulated_network(scenario: Scenario) -> None:
    hosts = itertools.count(1)
    async with Network(random.Random(1), LinkModel()) as network:
        await _plain(lambda: SimTransport(network, next(hosts)))(scenario)


async def _on_simulated_lan(scenario: Scenario) -> None:
    registry = Registry()
    await _plain(lambda: SimDiscovery(registry))(scenario)


@pytest.fixture(params=["simulated", "http"])
def play_transport(request: pytest.FixtureRequest) -> Play:
    if request.param == "simulated":
        return lambda scenario: run(_on_simulated_network(scenario))
    return lambda scenario: asyncio.run(_plain(lambda: HttpTransport("127.0.0.1:0"))(scenario))


@pytest.fixture(params=["simulated", "mdns"])
def play_discovery(request: pytest.FixtureRequest) -> Play:
    if request.param == "simulated":
        return lambda scenario: run(_on_simulated_lan(scenario))
    return lambda scenario: asyncio.run(_plain(lambda: MdnsDiscovery(interfaces=["127.0.0.1"]))(scenario))


@pytest.fixture(params=["simulated", "threads"])
def play_compute(request: pytest.FixtureRequest) -> Play:
    if request.param == "simulated":
        return lambda scenario: run(_plain(SimCompute)(scenario))
    return lambda scenario: asyncio.run(_plain(ThreadCompute)(scenario))


@pytest.fixture(params=["memory", "folder"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """The store as each start of the node sees it; what was saved before is still there."""
    if request.param == "memory":
        kept = MemoryStore()
        yield lambda: kept
        return
    opened: list[FolderStore] = []

    def reopen() -> Store:
        if opened:
            opened.pop().close()
        opened.append(FolderStore(tmp_path / "state"))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()

"""The simulator's `Discovery` and `Compute`: a shared registry instead of multicast, virtual time instead of threads.

`SimCompute` runs work inline, in the loop's own thread, after sleeping its cost: a training that costs two virtual
seconds takes as long as its numbers take to compute, and the simulation stays one thread and one history. The work runs
at the *end* of its virtual time, so what a crash cancels is never computed, and a `should_stop` raised meanwhile is
seen. (A real executor starts at once and cannot be stopped; work gets copies, so only `should_stop` can tell.)

Work does not go on while its node stands still (`sim.gates`): what is left of it is done after that.

Discovery is a hint (`seams`): the registry does not know about partitions, and a crashed node stays listed, as in
every mDNS cache, until it announces itself anew. This module knows no node and no network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import copy_context
from typing import TypeVar

from p2pfusion.config import PEERS_MAX
from p2pfusion.errors import ConfigError, LocalError
from p2pfusion.sim import gates

T = TypeVar("T")

LANES = ("train", "fold", "gate")
LEAST_S = 1e-9
"""Less than this is a rounding error of the clock, not work left to do."""
ANNOUNCED_MAX = PEERS_MAX
"""Nodes one registry lists, and findings that wait for one slow browser: as many as a node could know."""


class Registry:
    """What one LAN's multicast would carry: who announced what, and who is browsing."""

    def __init__(self, *, delay_s: float = 0.05) -> None:
        """`delay_s` passes between an announcement (or the start of a search) and its being found."""
        if not delay_s >= 0:
            raise ConfigError(f"Registry.delay_s = {delay_s!r}: must be 0 or above")
        self.delay_s = delay_s
        self.announced: dict[SimDiscovery, tuple[str, tuple[str, ...]]] = {}
        self.browsers: dict[Browser, None] = {}
        self._context = copy_context()  # what is on its way travels on when its sender stands still

    def announce(self, owner: SimDiscovery, tag: str, addresses: tuple[str, ...]) -> None:
        """List the owner, in place of what it or another at its addresses announced before; tell who is browsing."""
        for other in [other for other, known in self.announced.items() if known[1] == addresses]:
            del self.announced[other]
        if owner not in self.announced and len(self.announced) >= ANNOUNCED_MAX:
            raise LocalError(f"a simulated LAN lists {ANNOUNCED_MAX} nodes")
        self.announced[owner] = (tag, addresses)
        for browser in self.browsers:
            self.tell(browser, owner)

    def withdraw(self, owner: SimDiscovery) -> None:
        """Forget the owner, as a goodbye does."""
        self.announced.pop(owner, None)
        self.stop_browsing(owner)

    def stop_browsing(self, owner: SimDiscovery) -> None:
        """The owner searches no more; what it announced stays listed."""
        for browser in [browser for browser in self.browsers if browser.owner is owner]:
            del self.browsers[browser]
            browser.end()

    def tell(self, browser: Browser, owner: SimDiscovery) -> None:
        """Let the browser find the owner after the delay, if it may and has not."""
        if owner is not browser.owner and self.announced[owner][0] == browser.tag:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_s, self._found, browser, owner, context=self._context)

    def _found(self, browser: Browser, owner: SimDiscovery) -> None:
        tag, addresses = self.announced.get(owner, ("", ()))
        if browser in self.browsers and tag == browser.tag:
            browser.find(owner, addresses)


class Browser:
    """One running `found`: what it has been given already, and what waits to be taken."""

    def __init__(self, owner: SimDiscovery, tag: str) -> None:
        self.owner = owner
        self.tag = tag
        self._waiting: asyncio.Queue[tuple[str, ...] | None] = asyncio.Queue(ANNOUNCED_MAX)  # None: the end
        self._given: dict[SimDiscovery, tuple[str, ...]] = {}  # at most ANNOUNCED_MAX

    def find(self, owner: SimDiscovery, addresses: tuple[str, ...]) -> None:
        """Queue the addresses once; beyond the limit they are dropped, as a flood of records would be."""
        if self._given.get(owner) != addresses and not self._waiting.full():
            self._given[owner] = addresses
            self._waiting.put_nowait(addresses)

    def end(self) -> None:
        """Forget what waits; whoever takes is told that there is no more."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)

    async def take(self) -> tuple[str, ...] | None:
        """The oldest finding, waited for; None at the end."""
        return await self._waiting.get()


class SimDiscovery:
    """The `Discovery` of one node, through a registry shared by all nodes of the simulated LAN."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._closed = False

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        """See `seams.Discovery.announce`; a second announcement takes the place of the first."""
        if self._closed:
            raise LocalError("discovery is closed")
        self._registry.announce(self, tag, tuple(addresses))

    async def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        """See `seams.Discovery.found`; a node whose addresses changed is found again, and `close` ends it."""
        if self._closed:
            raise LocalError("discovery is closed")
        browser = Browser(self, tag)
        self._registry.browsers[browser] = None
        try:
            for owner in list(self._registry.announced):
                self._registry.tell(browser, owner)
            while (addresses := await browser.take()) is not None:
                yield addresses
        finally:
            self._registry.browsers.pop(browser, None)

    def crash(self) -> None:
        """Fall silent without a goodbye: what was announced stays listed."""
        self._closed = True
        self._registry.stop_browsing(self)

    async def close(self) -> None:
        """Withdraw the announcement and end every `found` of this node; after a crash, nothing."""
        if not self._closed:
            self._closed = True
            self._registry.withdraw(self)


class SimCompute:
    """The `Compute` of one node. `speed` divides every cost: 0.05 is a device twenty times slower; it may change."""

    def __init__(self, *, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ConfigError(f"SimCompute.speed = {speed!r}: must be above 0")
        self.speed = speed
        self.busy_s = dict.fromkeys(LANES, 0.0)
        """Virtual seconds charged so far, by lane."""
        self._lanes = {lane: asyncio.Lock() for lane in LANES}
        self._closed = False

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        """See `seams.Compute.run`. Raises `LocalError` when closed, also for work that was queued but never ran."""
        if lane not in self._lanes:
            raise LocalError(f"no lane {lane!r}; there are {', '.join(LANES)}")
        async with self._lanes[lane]:
            if self._closed:
                raise LocalError("compute is closed")
            charged_s = cost_s / self.speed
            await _spend(charged_s)
            self.busy_s[lane] += charged_s
            return work()

    async def close(self) -> None:
        """Refuse new and queued work; work whose virtual time has begun ends as usual."""
        self._closed = True


async def _spend(charged_s: float) -> None:
    """Wait until that much time has passed behind the gate of the running task; all time where it has none."""
    loop, gate = asyncio.get_running_loop(), gates.current()
    if gate is None:
        return await asyncio.sleep(charged_s)
    left_s, until_s = charged_s, gate.awake_s(loop.time()) + charged_s
    while True:
        await asyncio.sleep(left_s)
        left_s = until_s - gate.awake_s(loop.time())
        if left_s <= LEAST_S:
            return None

"""Discovery over multicast DNS: announce one service, browse for the others, yield addresses as they appear.

Everything heard here was said by a stranger and may be a lie or a flood, so it is a *hint*: whoever answers at an
address still has to speak our protocol, and a goodbye makes nobody dead. A service carries our version,
the run's tag and a port, under a random name; no host name and no user name leave this computer (RELIABILITY.md 2.8).

Records usually arrive together, so most services are read from zeroconf's cache the moment they appear. Only the
others are asked for, by `RESOLVERS` tasks that each ask at most once in `RESOLVE_PACE_S`. What waits is bounded by
`CANDIDATES_MAX`; what comes beyond is dropped and counted, and mDNS says it again sooner or later.

This module does not know what a peer is, and calls nobody.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any, Generic, TypeVar

from zeroconf import Error, InterfaceChoice, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2pfusion.config import PROTOCOL_VERSION
from p2pfusion.errors import LocalError, PortError
from p2pfusion.net import addresses as addressing

_log = logging.getLogger(__name__)

SERVICE = "_p2pfusion._tcp.local."
CANDIDATES_MAX = 256
"""Services waiting to be resolved, and answers waiting to be taken; a LAN party has fewer (RELIABILITY.md 5)."""
RESOLVERS = 10
RESOLVE_PACE_S = 1.0
"""Ten resolvers at this pace ask at most 10 times a second, whatever is announced."""
RESOLVE_DEADLINE_S = 3.0
CLOSE_DEADLINE_S = 2.0
"""Goodbyes take 0.25 s; a network that hangs must not keep the process."""

T = TypeVar("T", bound=Hashable)


class _Mailbox(Generic[T]):
    """A queue of different items, bounded, in order of arrival, that can be closed."""

    def __init__(self) -> None:
        self._items: dict[T, None] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Add an item unless it waits already; beyond `CANDIDATES_MAX` it is dropped and counted."""
        if item in self._items or self._closed:
            return
        if len(self._items) >= CANDIDATES_MAX:
            self.dropped += 1
            return
        self._items[item] = None
        self._changed.set()

    async def get(self) -> T | None:
        """The oldest item, waited for; None once closed."""
        while not self._items and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if self._closed:
            return None
        item = next(iter(self._items))
        del self._items[item]
        return item

    def close(self) -> None:
        self._closed = True
        self._items.clear()
        self._changed.set()


class _Browse:
    """One running search for one tag."""

    def __init__(self, zeroconf: AsyncZeroconf, tag: str, own_name: str) -> None:
        self._zeroconf = zeroconf.zeroconf
        self._tag = tag
        self._own_name = own_name
        self.candidates: _Mailbox[str] = _Mailbox()
        self.answers: _Mailbox[tuple[str, ...]] = _Mailbox()
        loop = asyncio.get_running_loop()
        self._resolvers = [loop.create_task(self._resolve()) for _ in range(RESOLVERS)]
        self._browser = AsyncServiceBrowser(self._zeroconf, SERVICE, handlers=[self._on_change])

    async def close(self) -> None:
        """Stop browsing; whoever waits for answers is told that there are no more."""
        self.candidates.close()
        self.answers.close()
        if not self._browser.done:
            await self._browser.async_cancel()
        for resolver in self._resolvers:
            resolver.cancel()
        await asyncio.gather(*self._resolvers, return_exceptions=True)
        if self.candidates.dropped or self.answers.dropped:
            _log.info("mDNS: dropped %d services beyond the limit", self.candidates.dropped + self.answers.dropped)

    def _on_change(self, *, name: str, state_change: ServiceStateChange, **_: Any) -> None:
        """Called by zeroconf, in the loop, when a service appears, changes or says goodbye."""
        if state_change is ServiceStateChange.Removed or name.lower() == self._own_name:
            return
        try:
            info = AsyncServiceInfo(SERVICE, name)
            if info.load_from_cache(self._zeroconf):
                self._judge(info)
            elif not info.text or self._is_ours(info):
                self.candidates.put(name)
        except (Error, ValueError) as error:
            _log.debug("mDNS: an unusable service: %r", error)

    async def _resolve(self) -> None:
        """Ask for what the cache lacks, one service at a time, not faster than the pace."""
        while (name := await self.candidates.get()) is not None:
            try:
                info = AsyncServiceInfo(SERVICE, name)
                if await info.async_request(self._zeroconf, RESOLVE_DEADLINE_S * 1000):
                    self._judge(info)
            except (Error, ValueError, OSError) as error:
                _log.debug("mDNS: a service that cannot be resolved: %r", error)
            await asyncio.sleep(RESOLVE_PACE_S)

    def _judge(self, info: AsyncServiceInfo) -> None:
        if not self._is_ours(info) or info.port is None:
            return
        found = addressing.dialable_only(addressing.join(ip, info.port) for ip in info.parsed_addresses())
        if found:
            self.answers.put(found)

    def _is_ours(self, info: AsyncServiceInfo) -> bool:
        said = info.properties
        return said.get(b"v") == str(PROTOCOL_VERSION).encode() and said.get(b"run") == self._tag.encode()


class MdnsDiscovery:
    """`seams.Discovery` on multicast DNS."""

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        """`interfaces` are IP addresses of adapters to use, `["127.0.0.1"]` for one computer only; None is all."""
        self._interfaces = interfaces
        self._label = secrets.token_hex(16)  # random at every start: nobody can follow a device across networks
        self._zeroconf: AsyncZeroconf | None = None
        self._service: AsyncServiceInfo | None = None
        self._broadcast: asyncio.Future[Any] | None = None
        self._browses: dict[int, _Browse] = {}
        self._closed = False

    async def announce(self, tag: str, addresses: Sequence[str]) -> None:
        """See `seams.Discovery.announce`. Again with other arguments: replaces them.

        All addresses must have one port, as mDNS knows only one per service. Raises `PortError` where no interface can
        be used for multicast.
        """
        split = [addressing.split(address) for address in addresses]
        ports = sorted({port for _, port in split})
        if len(ports) != 1:
            raise LocalError(f"announce needs addresses with one port, got {list(addresses)}")
        service = AsyncServiceInfo(
            SERVICE,
            f"{self._label}.{SERVICE}",
            port=ports[0],
            properties={"v": str(PROTOCOL_VERSION), "run": tag, "port": str(ports[0])},
            server=f"{self._label}.local.",  # left out, zeroconf would invent one; never the host's name
            parsed_addresses=[str(ip) for ip, _ in split],
        )
        zeroconf = self._opened()
        try:
            # Names are random, so nobody needs the three probes for a conflict that would take 1.2 s.
            if self._service is None:
                broadcast = await zeroconf.async_register_service(service, cooperating_responders=True)
            else:
                broadcast = await zeroconf.async_update_service(service)
        except (Error, OSError) as error:
            raise PortError(_no_mdns(error)) from None
        self._service = service
        await self._end_broadcast()
        self._broadcast = asyncio.ensure_future(broadcast)  # repeats for half a second what has been said once

    async def found(self, tag: str) -> AsyncIterator[tuple[str, ...]]:
        """See `seams.Discovery.found`. A service that changes or comes back is yielded again; `close` ends it.

        Raises `PortError` where no interface can be used for multicast.
        """
        browse = _Browse(self._opened(), tag, f"{self._label}.{SERVICE}".lower())
        self._browses[id(browse)] = browse
        try:
            while (found := await browse.answers.get()) is not None:
                yield found
        finally:
            self._browses.pop(id(browse), None)
            await browse.close()

    async def close(self) -> None:
        """See `seams.Discovery.close`."""
        self._closed = True
        for browse in list(self._browses.values()):
            await browse.close()
        await self._end_broadcast()
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await zeroconf.async_close()
        except (Error, OSError) as error:  # TimeoutError is an OSError
            _log.warning("mDNS: could not say goodbye: %r", error)

    async def _end_broadcast(self) -> None:
        broadcast, self._broadcast = self._broadcast, None
        if broadcast is not None:
            broadcast.cancel()
            await asyncio.gather(broadcast, return_exceptions=True)

    def _opened(self) -> AsyncZeroconf:
        """The sockets, opened on first use because they belong to the running loop."""
        if self._closed:
            raise LocalError("discovery is closed")
        if self._zeroconf is None:
            present = [str(ip) for _, ip in addressing.adapters()]
            for wanted in self._interfaces or ():
                if wanted not in present:
                    raise PortError(_no_mdns(f"no interface has the address {wanted}"))
            chosen = InterfaceChoice.All if self._interfaces is None else list(self._interfaces)
            try:
                self._zeroconf = AsyncZeroconf(interfaces=chosen)
            except (OSError, RuntimeError) as error:
                raise PortError(_no_mdns(error)) from None
        return self._zeroconf


def _no_mdns(why: Exception | str) -> str:
    return f"cannot use mDNS on this network: {why}; name another node with --peer HOST:PORT"

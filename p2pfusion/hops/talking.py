"""A device among devices: it beats, tells a few others what there is, and hears what they know.

What it says of itself is given to it. Knows no chain and no shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2pfusion.errors import RemoteError
from p2pfusion.hops.site import Site
from p2pfusion.seams import Reply, Request
from p2pfusion.wire.hops import Offer, Offers, decode_offers, encode_offers, fit

BEAT_S = 0.5
"""Between two beats, as the gossip's."""
PAUSE_S = 0.05
"""Between two of them in any case, however much news there is."""
DEADLINE_S = 2.0
FAN_OUT = 3
STRANGERS_MAX = 256
"""Addresses of which nobody has spoken yet; more are ignored till some answer."""
TALK = "talk"


class Talking:
    """Of one device."""

    def __init__(self, site: Site, offer: Callable[[], Offer]) -> None:
        """`offer`: what I say of myself, each time with a new beat."""
        self._site, self._offer = site, offer
        self._strangers: dict[str, None] = dict.fromkeys(site.config.node.peers)
        self._asked: set[str] = set()
        """Addresses that have not answered yet."""

    def add(self, addresses: tuple[str, ...]) -> None:
        """Somebody may be there."""
        for address in addresses:
            if address not in self._site.addresses and len(self._strangers) < STRANGERS_MAX:
                self._strangers[address] = None
        self._site.stir()

    async def run(self) -> None:
        """For ever; nobody's silence holds up a beat to others."""
        async with asyncio.TaskGroup() as group:
            while True:
                for address in self._chosen():
                    group.create_task(self._ask(address))
                await asyncio.sleep(PAUSE_S)
                await self._site.bell(TALK).wait(BEAT_S - PAUSE_S)

    def _chosen(self) -> list[str]:
        """Some that I know and some that I do not, by chance."""
        known, rng = self._site.directory.addresses(), self._site.doors.rng
        unknown = [address for address in self._strangers if address not in known]
        groups = ([address for address in group if address not in self._asked] for group in (known, unknown))
        return [address for group in groups for address in rng.sample(group, min(FAN_OUT, len(group)))]

    async def _ask(self, address: str) -> None:
        self._asked.add(address)
        try:
            await self._exchange_with(address)
        finally:
            self._asked.discard(address)

    async def discover(self, tag: str) -> None:
        """For ever: whoever announces the tag may be one of us."""
        async for addresses in self._site.doors.discovery.found(tag):
            self.add(addresses)

    async def exchange(self) -> bool:
        """Tell everybody what I say now, and hear what each says now; whether all did."""
        offers = self._site.here()
        return all(await asyncio.gather(*(self._exchange_with(offer.addresses[0]) for offer in offers)))

    def answer(self, request: Request) -> Reply:
        """The other side of an exchange. Raises `WireError`."""
        self._hear(decode_offers(request.body))
        return Reply(200, self._body())

    async def _exchange_with(self, address: str) -> bool:
        request = Request("POST", "/v1/hops/offers", self._body())
        try:
            reply = await self._site.board.call(address, request, deadline_s=DEADLINE_S)
        except RemoteError:
            return False
        if reply.status != 200:
            return False
        self._strangers.pop(address, None)
        self._hear(decode_offers(reply.body))
        return True

    def _hear(self, heard: Offers) -> None:
        if self._site.directory.hear(heard.offers, self._site.now_s()):
            self._site.stir()

    def _body(self) -> bytes:
        return encode_offers(fit([self._offer(), *self._site.here()], self._site.me))

"""A device among devices: one that is silent holds nobody up, and everybody is called sooner or later."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from p2pfusion.errors import DeadlineExceeded
from p2pfusion.hops.talking import BEAT_S, DEADLINE_S, PAUSE_S, STRANGERS_MAX, Talking
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire.hops import Offers, decode_offers, encode_offers
from tests.hops.made import Board, address, device, offer, site
from tests.node.parts import until

ME = 50


class Wire(Board):
    """Answers with the called device's own offer; who is `silent` lets one wait for the whole deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.times: dict[str, list[float]] = {}

    async def call(self, address: str, request: Request, *, deadline_s: float) -> Reply:
        loop = asyncio.get_running_loop()
        self.calls.append((address, request))
        self.times.setdefault(address, []).append(loop.time())
        if address in self.silent:
            await until(loop.time() + deadline_s)
            raise DeadlineExceeded(address)
        number = int(address.split(":")[0].rsplit(".", 1)[1])
        return Reply(200, encode_offers(Offers(offers=(offer(number, beat=len(self.calls)),))))


class Table:
    """A device that talks."""

    def __init__(self) -> None:
        self.wire, self.beat = Wire(), 0
        self.site = site(me=ME, board=self.wire)
        self.talking = Talking(self.site, self._offer)

    def _offer(self):  # type: ignore[no-untyped-def]
        self.beat += 1
        return offer(ME, beat=self.beat)

    def here(self) -> set[bytes]:
        return {one.device for one in self.site.here()}


def talking(main: Callable[[Table], Awaitable[None]]) -> None:
    async def whole() -> None:
        table = Table()
        task = asyncio.get_running_loop().create_task(table.talking.run())
        await main(table)
        task.cancel()

    run(whole, until_s=1000.0)


def test_devices_that_are_silent_hold_up_no_beat_to_others() -> None:
    async def main(table: Table) -> None:
        table.talking.add((address(1), address(2), address(3), address(4)))
        await until(3.0)
        table.wire.silent = {address(1), address(2), address(3)}
        await until(20.0)
        times = [moment for moment in table.wire.times[address(4)] if moment > 4.0]
        assert max(late - early for early, late in itertools.pairwise(times)) <= 3 * BEAT_S
        assert device(4) in table.here()
        called = [moment for moment in table.wire.times[address(1)] if moment > 4.0]
        assert min(late - early for early, late in itertools.pairwise(called)) >= DEADLINE_S

    talking(main)


def test_behind_strangers_that_never_answer_others_are_found() -> None:
    async def main(table: Table) -> None:
        silent = [address(number) for number in range(1, 6)]
        table.wire.silent = set(silent)
        table.talking.add((*silent, address(9)))
        await until(10.0)
        assert device(9) in table.here()

    talking(main)


def test_news_is_told_at_once_but_not_faster_than_the_pause() -> None:
    async def main(table: Table) -> None:
        table.talking.add((address(1),))
        await until(5.0)
        before = len(table.wire.calls)
        for _ in range(50):
            table.site.stir()
            await until(table.site.now_s() + PAUSE_S / 10)
        assert 4 <= len(table.wire.calls) - before <= 7

    talking(main)


def test_an_exchange_tells_both_sides_and_every_word_of_mine_is_newer() -> None:
    async def main(table: Table) -> None:
        body = encode_offers(Offers(offers=(offer(1), offer(2))))
        reply = table.talking.answer(Request("POST", "/v1/hops/offers", body))
        assert table.here() == {device(1), device(2)}
        said = decode_offers(reply.body).offers
        assert [one.device for one in said] == [device(1), device(2), device(ME)]
        again = decode_offers(table.talking.answer(Request("POST", "/v1/hops/offers", body)).body).offers
        assert again[-1].beat > said[-1].beat

    talking(main)


def test_addresses_of_nobody_are_bounded_and_my_own_is_none() -> None:
    async def main(table: Table) -> None:
        table.talking.add((address(ME),))
        table.talking.add(tuple(f"10.1.{n // 250}.{n % 250}:7000" for n in range(STRANGERS_MAX + 50)))
        assert len(table.talking._strangers) == STRANGERS_MAX
        assert address(ME) not in table.talking._strangers
        await until(0.01)

    async def whole() -> None:
        await main(Table())

    run(whole, until_s=10.0)


def test_goodbye_is_said_to_everybody_who_is_here() -> None:
    async def main(table: Table) -> None:
        body = encode_offers(Offers(offers=(offer(1), offer(2))))
        table.talking.answer(Request("POST", "/v1/hops/offers", body))
        await table.talking.exchange()
        assert {to for to, _ in table.wire.calls} >= {address(1), address(2)}

    talking(main)


def test_an_exchange_hears_what_each_says_now_and_tells_whether_all_answered() -> None:
    async def main(table: Table) -> None:
        body = encode_offers(Offers(offers=(offer(1, beat=1), offer(2, beat=1))))
        table.talking.answer(Request("POST", "/v1/hops/offers", body))
        table.wire.calls += [("", Request("GET", ""))] * 10  # so what they say now has a higher beat
        assert await table.talking.exchange()
        assert all(one.beat > 10 for one in table.site.here())
        table.wire.silent = {address(2)}
        assert not await table.talking.exchange()

    talking(main)

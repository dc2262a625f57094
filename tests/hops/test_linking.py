"""An owner's chain: whose it is, what changes it, and that every change is a new epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from p2pfusion.errors import DeadlineExceeded
from p2pfusion.hops.lanes import devices
from p2pfusion.hops.linking import BACK_S, FULL_S, PAUSE_MAX_S, TROUBLE_S, Linking
from p2pfusion.hops.site import Site
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.wire.hops import Hop, Offer, Take, decode_back, decode_take
from tests.hops.made import ROOM, SPLIT, Board, Said, address, device, hop, offer, settle, site
from tests.node.parts import until

LAST = SPLIT.shards.count - 1
ME = 50
BEFORE, AFTER = 10, 60
"""Owners whose id is smaller than mine, and larger."""
LOST = DeadlineExceeded("nobody")


class Town:
    """One owner's chain among relays that a test types in; `status` is what a relay answers to a take."""

    def __init__(self, me: int = ME, quiet_s: float = 0.001) -> None:
        self.status: dict[str, int | Exception] = {}
        self.said, self.beats = Said(), 0
        self.board = Board(self._answer)
        self.site: Site = site(me=me, board=self.board, sender=self.said, quiet_s=quiet_s)
        self.warned: list[str] = []
        self.site.warn = self.warned.append
        self.linking = Linking(self.site)

    def _answer(self, to: str, request: Request) -> Reply | Exception:
        found = self.status.get(to, 200)
        if request.path == "/v1/hops/back":
            return Reply(202)
        return found if isinstance(found, Exception) else Reply(found)

    def hear(self, *offers: Offer) -> None:
        """As they beat just now."""
        self.beats += 1
        self.site.directory.hear([_beaten(one, self.beats) for one in offers], self.site.now_s())

    async def keep_hearing(self, *offers: Offer) -> None:
        """For ever."""
        while True:
            self.hear(*offers)
            await until(self.site.now_s() + 0.25)

    def takes(self, number: int) -> list[Take]:
        return [
            decode_take(request.body)
            for to, request in self.board.calls
            if to == address(number) and request.path == "/v1/hops/take"
        ]

    def used(self) -> set[bytes]:
        return {one.device for one in self.linking.chain}


def _beaten(one: Offer, beat: int) -> Offer:
    fields: dict[str, Any] = {name: getattr(one, name) for name in Offer.__slots__}
    return Offer(**{**fields, "beat": beat})


def planner(*chain: Hop, number: int = BEFORE) -> Offer:
    return offer(number, is_owner=True, is_relay=False, memory_bytes=0, chain=chain)


def in_town(main: Callable[[Town], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main(Town())

    run(whole, until_s=1000.0)


OTHERS = (hop(2, 1, 1), hop(1, 2, LAST))
"""A chain that nobody here would choose."""


def test_alone_it_chooses_and_asks_every_hop_with_its_neighbours() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2))
        await town.linking.seat(1)
        chain, mine = town.linking.chain, address(ME)
        assert [shard for one in chain for shard in range(one.first, one.last + 1)] == list(range(1, LAST + 1))
        assert len(chain) == 2
        takes = [town.takes(one.device[-1])[-1] for one in chain]
        assert [(one.previous, one.next) for one in takes] == [(mine, chain[1].address), (chain[0].address, mine)]
        assert {one.epoch for one in takes} == {town.linking.epoch} == {1}
        assert {one.owner_address for one in takes} == {mine}
        assert town.linking.replanned == 0
        assert town.linking.batch_s > 0

    in_town(main)


def test_the_chain_of_the_first_owner_is_taken_by_the_others() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2), planner(*OTHERS))
        await town.linking.seat(1)
        assert town.linking.chain == OTHERS
        assert town.board.topics(address(1)) == ["take"]  # its backups are the planner's affair

    in_town(main)


def test_nobody_takes_the_chain_of_an_owner_behind_it() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2), planner(*OTHERS, number=AFTER))
        await town.linking.seat(1)
        assert town.linking.chain != OTHERS

    in_town(main)


def test_a_silent_planner_leaves_its_chain_and_a_broken_one_is_not_followed() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2), planner(*OTHERS))
        await town.linking.seat(1)
        await until(5.0)
        town.hear(offer(1), offer(2))
        await town.linking.seat(2)
        assert town.linking.chain == OTHERS  # nothing is better enough to move
        assert town.linking.epoch == 1
        town.hear(offer(1), offer(2), planner(hop(2, 1, 1), hop(9, 2, LAST)))  # 9 is nobody
        await town.linking.seat(3)
        assert town.linking.chain == OTHERS
        town.hear(offer(1), offer(2), planner())  # it has none yet
        await town.linking.seat(4)
        assert town.linking.chain == OTHERS

    in_town(main)


def test_a_chain_the_planner_moved_to_is_a_new_epoch_and_who_is_left_out_is_told() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2), offer(3), planner(*OTHERS))
        await town.linking.seat(1)
        town.hear(offer(1), offer(2), offer(3), planner(hop(2, 1, 1), hop(3, 2, LAST)))
        await town.linking.seat(2)
        await settle()
        assert (town.linking.epoch, town.linking.replanned) == (2, 1)
        ((to, topic, said),) = town.said.words
        assert (to, topic) == (address(1), "leave")
        assert said.epoch >= town.takes(1)[-1].epoch  # else its seat would be there for ever
        assert said.epoch < town.linking.epoch  # else a seat it has again later would be lost to a late word

    in_town(main)


def test_a_relay_that_does_not_answer_is_replaced_in_a_new_epoch() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2))
        await town.linking.seat(1)
        lost = town.linking.chain[1]
        town.hear(offer(1), offer(2), offer(3))
        town.status[lost.address] = LOST
        await town.linking.mend(lost.first, 1)
        assert town.linking.epoch == 3  # the batch is lost, and the chain changed
        assert town.used() == {device(1), device(2), device(3)} - {lost.device}
        assert lost.device not in {one.device for one in town.site.here()}

    in_town(main)


def test_a_lost_batch_is_a_new_epoch_though_everybody_answers() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2))
        await town.linking.seat(1)
        before = town.linking.chain
        for epoch, place in ((2, None), (3, 1)):
            await town.linking.mend(place, 1)
            assert (town.linking.epoch, town.linking.chain) == (epoch, before)
            assert {town.takes(number)[-1].epoch for number in (1, 2)} == {epoch}

    in_town(main)


def test_a_full_relay_is_left_alone_for_a_while() -> None:
    async def main(town: Town) -> None:
        town.status[address(1)] = 503
        others = [planner(number=AFTER + number) for number in range(4)]  # with more owners, more relays pay
        relays = (offer(1), offer(2), *others)
        town.hear(*relays)
        await town.linking.seat(1)
        assert town.used() == {device(2)}
        assert town.linking.epoch == 2
        asked = len(town.takes(1))
        beating = asyncio.get_running_loop().create_task(town.keep_hearing(*relays))
        for moment_s in (1.0, FULL_S - 0.1):
            await until(moment_s)
            await town.linking.seat(2)
        assert len(town.takes(1)) == asked
        town.status[address(1)] = 200
        await until(FULL_S + 0.5)
        await town.linking.seat(3)
        assert town.used() == {device(1), device(2)}  # the chain is better with it
        beating.cancel()

    in_town(main)


def test_a_seat_is_asked_for_until_it_is_ready() -> None:
    async def main(town: Town) -> None:
        loop = asyncio.get_running_loop()
        town.status[address(1)] = 202
        beating = loop.create_task(town.keep_hearing(offer(1)))
        seating = loop.create_task(town.linking.seat(1))
        await until(20.0)
        assert not seating.done()
        asked = len(town.takes(1))
        assert 20.0 / PAUSE_MAX_S <= asked <= 20.0 / PAUSE_MAX_S + 10
        town.status[address(1)] = 200
        await until(20.0 + PAUSE_MAX_S + 0.1)
        assert seating.done()
        assert town.linking.epoch == 1
        beating.cancel()

    in_town(main)


def test_while_nobody_can_hold_the_chain_it_waits_and_may_be_interrupted() -> None:
    async def main(town: Town) -> None:
        loop = asyncio.get_running_loop()
        town.hear(offer(1, memory_bytes=1))
        seating = loop.create_task(town.linking.seat(1))
        await until(2.0)
        assert not seating.done()
        assert town.linking.chain == ()
        town.hear(offer(1, memory_bytes=1), offer(2))
        await until(3.0)
        assert seating.done()
        town.hear(offer(1, memory_bytes=1))
        town.status[address(2)] = LOST
        await until(7.0)
        waiting = loop.create_task(town.linking.mend(None, 1))
        await until(8.0)
        waiting.cancel()
        await settle()
        assert waiting.cancelled()

    in_town(main)


def test_a_better_relay_is_taken_by_the_planner_and_a_slightly_better_one_is_not() -> None:
    async def main(town: Town) -> None:
        pace = round(1e6 * (SPLIT.forward_s(1, LAST) + SPLIT.backward_s(1, LAST)))
        town.hear(offer(1, batch_us=pace))
        await town.linking.seat(1)
        town.hear(offer(1, batch_us=pace), offer(3, batch_us=100 * pace))
        await town.linking.seat(2)
        assert (town.used(), town.linking.epoch) == ({device(1)}, 1)
        town.hear(offer(1, batch_us=pace), offer(2, batch_us=pace // 4))
        await town.linking.seat(3)
        assert device(2) in town.used()
        assert town.linking.epoch == 2

    in_town(main)


def test_the_planner_makes_room_when_owners_come() -> None:
    async def main(town: Town) -> None:
        small = SPLIT.memory_bytes(1, LAST, 1)
        slow = 10**9
        town.hear(offer(1, memory_bytes=small), offer(2, memory_bytes=ROOM, batch_us=slow))
        await town.linking.seat(1)
        assert town.used() == {device(1)}
        relays = (offer(1, memory_bytes=small), offer(2, memory_bytes=ROOM, batch_us=slow))
        town.hear(*relays, planner(number=AFTER))
        await town.linking.seat(2)
        rooms = {device(1): small, device(2): ROOM}
        assert devices(town.linking.lanes) == set(rooms)
        for lane in town.linking.planned:
            for one in lane.hops:
                assert SPLIT.memory_bytes(one.first, one.last, len(lane.owners)) <= rooms[one.device]

    in_town(main)


def test_a_second_device_is_asked_once_to_keep_each_stage() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2))
        for round_ in (1, 2):
            await town.linking.seat(round_)
        first, second = town.linking.chain
        backs = [(to, decode_back(one.body)) for to, one in town.board.calls if one.path == "/v1/hops/back"]
        assert [(to, one.first, one.last) for to, one in backs] == [
            (second.address, first.first, first.last),
            (first.address, second.first, second.last),
        ]

    in_town(main)


def test_the_end_of_a_round_and_of_the_run_is_told_to_every_hop_in_its_epoch() -> None:
    async def main(town: Town) -> None:
        town.hear(offer(1), offer(2))
        await town.linking.seat(1)
        await town.linking.end(7)
        await town.linking.leave()
        hops = [one.address for one in town.linking.chain]
        assert [(to, topic) for to, topic, _ in town.said.words] == [
            *((to, "end") for to in hops),
            *((to, "leave") for to in hops),
        ]
        assert {(one.epoch, one.round) for _, _, one in town.said.words} == {(1, 7), (1, 0)}

    in_town(main)


def test_the_first_chain_is_chosen_when_nobody_new_has_come_for_a_while() -> None:
    async def main() -> None:
        town = Town(quiet_s=2.0)
        town.hear(offer(1))
        seating = asyncio.get_running_loop().create_task(town.linking.seat(1))
        await until(1.5)
        town.hear(offer(1), offer(2))
        beating = asyncio.get_running_loop().create_task(town.keep_hearing(offer(1), offer(2)))
        await until(3.4)
        assert not town.linking.chain
        await until(4.1)
        assert seating.done()
        assert town.used() == {device(1), device(2)}
        beating.cancel()

    run(main, until_s=100.0)


def test_a_person_is_told_once_what_a_chain_waits_for() -> None:
    async def main(town: Town) -> None:
        loop = asyncio.get_running_loop()
        beating = loop.create_task(town.keep_hearing(offer(1, memory_bytes=1)))
        seating = loop.create_task(town.linking.seat(1))
        await until(TROUBLE_S - 0.5)
        assert not town.warned
        await until(3 * TROUBLE_S)
        (text,) = town.warned
        assert "nothing fits" in text
        assert not seating.done()
        beating.cancel()
        seating.cancel()

    in_town(main)


def test_backups_are_asked_for_again_now_and_then() -> None:
    async def main(town: Town) -> None:
        beating = asyncio.get_running_loop().create_task(town.keep_hearing(offer(1), offer(2)))
        await until(0.1)
        for moment_s, times in ((1.0, 1), (1.0 + BACK_S / 2, 1), (2.0 + BACK_S, 2)):
            await until(moment_s)
            await town.linking.seat(1)
            assert sum("back" in town.board.topics(address(number)) for number in (1, 2)) == 2
            assert sum(town.board.topics(address(number)).count("back") for number in (1, 2)) == 2 * times
        beating.cancel()

    in_town(main)

"""The event log: every reader sees everything, or is told how much it did not."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import EVENTS_MAX
from p2pfusion.node.events import Event, EventLog, PeerEvent, WarningEvent
from p2pfusion.sim.loop import run


def event(number: int) -> PeerEvent:
    return PeerEvent(f"node-{number}", "", "alive")


async def read(log: EventLog) -> list[Event]:
    return [item async for item in log.follow()]


def test_a_reader_gets_everything_in_order_and_ends_when_the_log_is_closed():
    async def main() -> list[Event]:
        log = EventLog()
        log.add(event(0))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read(log))
            for number in (1, 2, 3):
                await asyncio.sleep(0)
                log.add(event(number))
            await asyncio.sleep(0)
            log.add(event(4))
            log.close()
        return reading.result()

    assert run(main) == [event(number) for number in range(5)]


def test_readers_do_not_take_from_each_other():
    async def main() -> list[list[Event]]:
        log = EventLog()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(read(log))
            log.add(event(0))
            await asyncio.sleep(0)
            second = group.create_task(read(log))
            log.add(event(1))
            await asyncio.sleep(0)
            log.close()
        return [first.result(), second.result(), await read(log)]

    assert run(main) == [[event(0), event(1)]] * 3, "also who comes after the end"


def test_after_the_end_nothing_is_added():
    async def main() -> list[Event]:
        log = EventLog()
        log.add(event(0))
        log.close()
        log.add(event(1))
        return await read(log)

    assert run(main) == [event(0)]


def test_a_reader_waits_for_news():
    async def main() -> None:
        log = EventLog()
        reader = log.follow()
        log.add(event(0))
        assert await anext(reader) == event(0)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(anext(reader))
            await asyncio.sleep(0)
            assert not waiting.done()
            log.add(event(1))
        assert waiting.result() == event(1)
        log.close()
        assert await anext(reader, None) is None

    run(main)


def lost(warning: Event) -> int:
    assert isinstance(warning, WarningEvent)
    assert warning.code == "events-lost"
    number, rest = warning.text.split(" ", 1)
    assert rest == "events were dropped: read faster"
    return int(number)


def test_events_max_are_kept():
    async def main(count: int) -> list[Event]:
        log = EventLog()
        for number in range(count):
            log.add(event(number))
        log.close()
        return await read(log)

    assert run(main(EVENTS_MAX)) == [event(number) for number in range(EVENTS_MAX)]
    warning, *rest = run(main(EVENTS_MAX + 1))
    assert lost(warning) == 1
    assert rest == [event(number) for number in range(1, EVENTS_MAX + 1)]


def test_a_slow_reader_is_told_how_many_it_missed():
    async def main() -> None:
        log = EventLog()
        log.add(event(0))
        log.add(event(1))
        reader = log.follow()
        assert await anext(reader) == event(0)
        for number in range(2, EVENTS_MAX + 5):
            log.add(event(number))
        assert lost(await anext(reader)) == 4
        assert await anext(reader) == event(5)

    run(main)


def test_what_is_lost_while_the_reader_looks_at_the_warning_is_told_as_well():
    async def main() -> None:
        log = EventLog()
        for number in range(EVENTS_MAX + 7):
            log.add(event(number))
        reader = log.follow()
        assert lost(await anext(reader)) == 7
        for number in range(3):
            log.add(event(EVENTS_MAX + 7 + number))
        assert lost(await anext(reader)) == 3
        assert await anext(reader) == event(10)

    run(main)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 3, 700, EVENTS_MAX + 9]), st.integers(0, 900)), max_size=8))
def test_what_is_read_and_what_is_told_as_lost_is_everything(steps):
    async def main() -> None:
        log, added, accounted = EventLog(), 0, 0
        reader = log.follow()
        for adds, reads in steps:
            for _ in range(adds):
                log.add(event(added))
                added += 1
            for _ in range(reads):
                if accounted == added:
                    break
                accounted = account(await anext(reader), accounted)
        log.close()
        async for item in reader:
            accounted = account(item, accounted)
        assert accounted == added

    def account(item: Event, accounted: int) -> int:
        if isinstance(item, WarningEvent):
            return accounted + lost(item)
        assert item == event(accounted)
        return accounted + 1

    run(main)

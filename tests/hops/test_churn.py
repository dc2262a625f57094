"""Devices that come back, that are slow, and that are owner and relay at once."""

from __future__ import annotations

import asyncio

from p2pfusion.hops.device import WATCH_S
from p2pfusion.hops.openings import LATE_SHARE
from p2pfusion.sim.loop import run
from tests.hops.street import Street, split_of

ROOM = 10**6
PATIENCE_S = 1.0
"""Of ledgers, given: with what they learn, owners wait for each other's ends longer than relays wait for copies."""


def test_a_relay_that_starts_again_with_its_stores_resumes_its_shards_and_is_used_again() -> None:
    async def main() -> Street:
        async with Street(split_of()) as street:
            for host in (1, 2, 3):
                street.start(host, rounds=10)
            for host in (4, 5):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.until(lambda: len(street.reports.get(1, [])) >= 3)
            street.crash(5)
            await street.until(lambda: len(street.reports[1]) >= 5)
            street.start(5, owns=False, relay_bytes=ROOM)
            await street.owners_done()
        return street

    street = run(main, until_s=2000.0)
    back = street.devices[5]
    assert back.relay is not None
    assert back.relay.figures.batches > 0
    resumed = {shard: node.resumed_round for shard, node in back.holding.nodes.items()}
    assert any(round_ >= 2 for round_ in resumed.values())
    assert min(len(street.reports[host]) for host in (1, 2, 3)) >= 8  # who moves later may miss a round


def seconds(slow: bool, rounds: int, steps: int) -> float:
    """Of a fast owner's rounds, the first apart: patience and chain are learnt there."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with Street(split_of()) as street:
            street.start(1, rounds=rounds, steps=steps, patience_s=PATIENCE_S)
            if slow:
                street.start(2, rounds=rounds, steps=steps, speed=0.05, patience_s=PATIENCE_S)
            for host in (3, 4):
                street.start(host, owns=False, relay_bytes=ROOM, patience_s=PATIENCE_S)
            await street.until(lambda: len(street.reports.get(1, [])) >= 1)
            began_s = loop.time()
            await street.until(lambda: len(street.reports[1]) >= rounds)
            return loop.time() - began_s

    return run(main, until_s=5000.0)


def test_an_owner_twenty_times_slower_does_not_slow_the_others_down_beyond_the_share_it_is_given() -> None:
    rounds, steps = 3, 10
    alone_s, both_s = (seconds(slow, rounds, steps) for slow in (False, True))
    assert both_s <= (1 + LATE_SHARE) * alone_s + rounds * (PATIENCE_S + WATCH_S)


def test_devices_that_are_owner_and_relay_at_once_take_nothing_for_their_own() -> None:
    """Owners in step have batches of the same number in the same epoch: each is an owner's and a relay's here."""

    async def main() -> Street:
        async with Street(split_of()) as street:
            for host in (1, 2):
                street.start(host, rounds=3, relay_bytes=ROOM)
            await asyncio.gather(street.tasks[1], street.tasks[2])
        return street

    street = run(main, until_s=2000.0)
    for host in (1, 2):
        owner = street.devices[host].owner
        assert owner is not None
        assert owner.figures.lost == 0
        assert len(street.reports[host]) == 3

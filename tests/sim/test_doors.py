"""The simulator's discovery and compute where they promise more than the seam: delays, costs, limits."""

from __future__ import annotations

import asyncio

import pytest

from p2pfusion.errors import ConfigError, LocalError
from p2pfusion.sim import doors
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run

TAG = "5a5a5a5a5a5a5a5a"


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_finding_takes_the_registrys_delay():
    async def main():
        registry = Registry(delay_s=0.5)
        early, seeker, late = (SimDiscovery(registry) for _ in range(3))
        await early.announce(TAG, ["10.0.0.1:7000", "10.1.0.1:7000"])
        search = seeker.found(TAG)
        assert (await anext(search), now_s()) == (("10.0.0.1:7000", "10.1.0.1:7000"), 0.5)
        asyncio.get_running_loop().call_later(1, lambda: registry.announce(late, TAG, ("10.0.0.3:7000",)))
        assert (await anext(search), now_s()) == (("10.0.0.3:7000",), 2.0)
        await search.aclose()
        assert registry.browsers == {}

    run(main)


def test_only_news_is_found_again():
    async def main():
        registry = Registry()
        seeker, moving, gone = (SimDiscovery(registry) for _ in range(3))
        search = seeker.found(TAG)
        await moving.announce(TAG, ["10.0.0.1:7000"])
        assert await anext(search) == ("10.0.0.1:7000",)
        await gone.announce(TAG, ["10.0.0.8:7000"])
        await gone.close()  # said goodbye before anybody heard it
        await moving.announce(TAG, ["10.0.0.1:7000"])
        await moving.announce(TAG, ["10.0.0.9:7000"])
        assert await anext(search) == ("10.0.0.9:7000",)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await anext(search)

    run(main)


def test_a_registry_lists_a_limited_number_of_nodes(monkeypatch):
    monkeypatch.setattr(doors, "ANNOUNCED_MAX", 3)

    async def main():
        registry = Registry()
        for i in range(3):
            await SimDiscovery(registry).announce(TAG, [f"10.0.0.{i}:7000"])
        with pytest.raises(LocalError, match="3 nodes"):
            await SimDiscovery(registry).announce(TAG, ["10.0.0.9:7000"])

    run(main)


def test_a_slow_browser_keeps_a_limited_number_of_findings(monkeypatch):
    monkeypatch.setattr(doors, "ANNOUNCED_MAX", 3)

    async def main():
        registry = Registry()
        seeker, node = SimDiscovery(registry), SimDiscovery(registry)
        search = seeker.found(TAG)
        await node.announce(TAG, ["10.0.0.0:7000"])
        found = [await anext(search)]
        for i in range(1, 6):
            await node.announce(TAG, [f"10.0.0.{i}:7000"])
            await asyncio.sleep(1)
        asyncio.get_running_loop().call_later(1, lambda: registry.announce(node, TAG, ("10.0.0.77:7000",)))
        for _ in range(4):
            found.append(await anext(search))
            await asyncio.sleep(1)
        assert [addresses[0] for addresses in found] == [f"10.0.0.{i}:7000" for i in (0, 1, 2, 3, 77)]

    run(main)


def test_a_search_after_close_is_refused():
    async def main():
        discovery = SimDiscovery(Registry())
        await discovery.close()
        with pytest.raises(LocalError):
            await anext(discovery.found(TAG))

    run(main)


def test_work_is_charged_before_it_returns_and_lanes_charge_apart():
    async def main():
        compute = SimCompute(speed=0.5)
        async with asyncio.TaskGroup() as group:
            for lane, cost_s in (("train", 1.0), ("train", 2.0), ("fold", 4.0)):
                group.create_task(compute.run(lambda: done.append(now_s()), cost_s=cost_s, lane=lane))
        assert done == [2.0, 6.0, 8.0]
        assert compute.busy_s == {"train": 6.0, "fold": 8.0, "gate": 0.0}
        compute.speed = 2.0
        await compute.run(lambda: None, cost_s=4.0)
        assert now_s() == 10.0

    done: list[float] = []
    run(main)


def test_cancelled_work_is_never_computed():
    async def main():
        compute, ran = SimCompute(), []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await compute.run(lambda: ran.append(1), cost_s=2)
        await compute.run(lambda: ran.append(2), cost_s=1)
        assert (ran, now_s()) == ([2], 2.0)

    run(main)


@pytest.mark.parametrize("make", [lambda: Registry(delay_s=-1), lambda: SimCompute(speed=0)])
def test_settings_are_checked(make):
    with pytest.raises(ConfigError, match="above"):
        make()

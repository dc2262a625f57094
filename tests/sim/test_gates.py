"""Gates: what stands behind a shut one does not run, and finds the clock ahead when it runs on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from p2pfusion.seams import Reply, Request
from p2pfusion.sim import hosts
from p2pfusion.sim.doors import SimCompute
from p2pfusion.sim.gates import Gate
from p2pfusion.sim.loop import VirtualLoop, run
from p2pfusion.sim.network import LinkModel, Network, SimTransport

FAST = LinkModel(latency_s=0.01, jitter_s=0.0)


def loop() -> VirtualLoop:
    found = asyncio.get_running_loop()
    assert isinstance(found, VirtualLoop)
    return found


def behind(group: asyncio.TaskGroup, gate: Gate, main: Awaitable[None]) -> asyncio.Task[None]:
    return group.create_task(main, context=gate.context())


def between(gate: Gate, from_s: float, to_s: float) -> None:
    loop().call_at(from_s, loop().shut, gate)
    loop().call_at(to_s, loop().reopen, gate)


def test_timers_due_meanwhile_fire_in_order_when_the_gate_opens():
    async def main():
        seen = []

        async def tick(name: str, step_s: float) -> None:
            while loop().time() < 5:
                await asyncio.sleep(step_s)
                seen.append((name, loop().time()))

        gate = Gate()
        between(gate, 1.5, 4.25)
        async with asyncio.TaskGroup() as group:
            behind(group, gate, tick("mine", 1.0))
            group.create_task(tick("other", 2.0))
        assert [at for name, at in seen if name == "mine"] == [1.0, 4.25, 5.25]
        assert [at for name, at in seen if name == "other"] == [2.0, 4.0, 6.0]

    run(main)


def test_tasks_started_behind_a_gate_stand_behind_it_too_and_others_do_not():
    async def main():
        seen = []

        async def child() -> None:
            await asyncio.sleep(2)
            seen.append(loop().time())

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                group.create_task(child())

        gate = Gate()
        between(gate, 1.0, 10.0)
        async with asyncio.TaskGroup() as group:
            behind(group, gate, parent())
            group.create_task(child())
        assert seen == [2.0, 10.0, 10.0]

    run(main)


def test_a_timeout_that_passed_meanwhile_is_found_on_waking():
    async def main():
        async def wait() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await asyncio.Event().wait()
            assert loop().time() == 30.0

        gate = Gate()
        between(gate, 1.0, 30.0)
        async with asyncio.TaskGroup() as group:
            behind(group, gate, wait())

    run(main)


def test_a_cancelled_timer_does_not_fire_behind_the_gate():
    async def main():
        fired = []
        gate = Gate()
        timer = gate.context().run(loop().call_later, 2.0, fired.append, "late")
        between(gate, 1.0, 3.0)
        loop().call_at(2.5, timer.cancel)
        await asyncio.sleep(4)
        assert fired == []

    run(main)


def test_shutting_twice_opens_once_and_the_time_is_counted_once():
    async def main():
        gate = Gate()
        loop().shut(gate)
        await asyncio.sleep(1)
        loop().shut(gate)
        assert gate.awake_s(loop().time()) == 0.0
        await asyncio.sleep(1)
        loop().reopen(gate)
        loop().reopen(gate)
        await asyncio.sleep(1)
        assert gate.awake_s(loop().time()) == 1.0

    run(main)


@pytest.mark.parametrize(("from_s", "to_s", "done_s"), [(1.0, 2.0, 5.0), (1.0, 60.0, 63.0), (3.5, 4.5, 5.0)])
def test_work_goes_on_where_it_was_left(from_s, to_s, done_s):
    async def main():
        async def work() -> None:
            await SimCompute().run(lambda: None, cost_s=4.0)
            assert loop().time() == pytest.approx(done_s)

        gate = Gate()
        between(gate, from_s, to_s)
        async with asyncio.TaskGroup() as group:
            behind(group, gate, work())

    run(main)


async def served(gate: Gate, then: Callable[[Network, SimTransport, list[float]], Awaitable[None]]) -> None:
    """Host 1 stands behind the gate and notes when it handles what."""
    async with Network(random.Random(1), FAST) as network:
        handled: list[float] = []

        async def handle(request: Request) -> Reply:
            handled.append(loop().time())
            return Reply(200, request.body)

        transport = SimTransport(network, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(transport.serve(handle), context=gate.context())
        await then(network, SimTransport(network, 2), handled)


def test_what_reaches_a_machine_that_stalls_is_handled_when_it_goes_on():
    async def ask(network: Network, caller: SimTransport, handled: list[float]) -> None:
        loop().shut(gate)
        loop().call_at(3.0, loop().reopen, gate)
        reply = await caller.call(network.address(1), Request("GET", "/v1/ping"), deadline_s=5.0)
        assert reply.status == 200
        assert handled == [3.0]

    gate = Gate()
    run(served(gate, ask))


def test_of_what_reaches_a_stalled_machine_only_so_much_is_kept(monkeypatch):
    monkeypatch.setattr(hosts, "DEFERRED_MAX", 3)

    async def flood(network: Network, caller: SimTransport, handled: list[float]) -> None:
        loop().shut(gate)

        async def ask() -> None:
            await caller.call(network.address(1), Request("GET", "/v1/ping"), deadline_s=5.0)

        loop().call_at(2.0, loop().reopen, gate)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(quiet(ask())) for _ in range(5)]
        assert sum(task.result() for task in asked) == 3
        assert handled == [2.0] * 3

    gate = Gate()
    run(served(gate, flood))


async def quiet(call: Awaitable[None]) -> bool:
    """Whether it came back with an answer."""
    try:
        await call
    except Exception:
        return False
    return True

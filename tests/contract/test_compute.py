"""`seams.Compute`: one work after another in a lane, lanes apart, results and exceptions to whoever asked."""

from __future__ import annotations

import asyncio
import threading

import pytest

from p2pfusion.errors import LocalError


def test_results_and_exceptions_reach_the_caller(play_compute):
    async def scenario(new):
        compute = new()
        assert await compute.run(lambda: 7) == 7
        assert await compute.run(lambda: None, cost_s=0.01, lane="fold") is None
        with pytest.raises(ZeroDivisionError):
            await compute.run(lambda: 1 // 0)
        assert await compute.run(lambda: 8) == 8

    play_compute(scenario)


def test_a_lane_runs_one_work_after_another_in_order(play_compute):
    async def scenario(new):
        compute, busy, order = new(), threading.Lock(), []

        def work(i: int) -> None:
            assert busy.acquire(blocking=False)
            order.append(i)
            sum(range(50_000))  # long enough for another thread to get in, were there one
            busy.release()

        async with asyncio.TaskGroup() as group:
            for i in range(8):
                group.create_task(compute.run(lambda i=i: work(i), cost_s=0.01))
        assert order == list(range(8))

    play_compute(scenario)


@pytest.mark.parametrize(("long", "short"), [("train", "fold"), ("fold", "train")])
def test_lanes_do_not_wait_for_each_other(play_compute, long, short):
    async def scenario(new):
        compute, gate = new(), threading.Event()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(compute.run(lambda: gate.wait(20), cost_s=10, lane=long))
            for _ in range(3):
                await compute.run(lambda: None, cost_s=1, lane=short)
            assert not waiting.done()
            gate.set()
        assert waiting.result()

    play_compute(scenario)


def test_the_loop_goes_on_while_work_runs(play_compute):
    async def scenario(new):
        compute, gate = new(), threading.Event()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(compute.run(lambda: gate.wait(20), cost_s=1))
            asyncio.get_running_loop().call_later(0.01, gate.set)
        assert waiting.result()

    play_compute(scenario)


def test_work_withdrawn_before_its_turn_never_runs(play_compute):
    async def scenario(new):
        compute, gate, ran = new(), threading.Event(), []
        async with asyncio.TaskGroup() as group:
            group.create_task(compute.run(lambda: gate.wait(20), cost_s=1))
            queued = group.create_task(compute.run(lambda: ran.append(1), cost_s=1))
            await compute.run(lambda: None, lane="fold")  # by now both are in their lane
            queued.cancel()
            await compute.run(lambda: None, lane="fold")  # by now it has heard
            gate.set()
        await compute.run(lambda: None)
        assert ran == []

    play_compute(scenario)


def test_an_unknown_lane_is_a_local_mistake(play_compute):
    async def scenario(new):
        with pytest.raises(LocalError, match="lane"):
            await new().run(lambda: None, lane="dance")

    play_compute(scenario)


def test_close_refuses_new_work_and_is_harmless_twice(play_compute):
    async def scenario(new):
        compute = new()
        assert await compute.run(lambda: 1) == 1
        await compute.close()
        await compute.close()
        with pytest.raises(LocalError, match="closed"):
            await compute.run(lambda: 2)

    play_compute(scenario)


def test_close_waits_for_nobody_and_queued_work_is_refused(play_compute):
    async def scenario(new):
        compute, gate = new(), threading.Event()

        async def refused() -> None:
            with pytest.raises(LocalError, match="closed"):
                await compute.run(lambda: 2)

        async with asyncio.TaskGroup() as group:
            running = group.create_task(compute.run(lambda: gate.wait(20), cost_s=1))
            group.create_task(refused())
            await compute.run(lambda: None, lane="fold")
            await compute.close()
            assert not running.done()
            gate.set()
        assert running.result()

    play_compute(scenario)

"""Virtual time: exact, ordered, repeatable, and loud when it can never go on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

import pytest

from p2pfusion.sim.loop import TASKS_NAMED_MAX, Deadlock, VirtualLoop, run


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_time_begins_at_zero_and_jumps_to_each_timer_exactly():
    async def main():
        moments = [now_s()]
        for delay_s in (0.1, 0.2, 3600.0, 1e-9, 1e9, 0.1):
            await asyncio.sleep(delay_s)
            moments.append(now_s())
        return moments

    assert run(main) == [0.0, 0.1, 0.1 + 0.2, 0.1 + 0.2 + 3600.0, 3600.3 + 1e-9, 1000003600.3, 1000003600.3 + 0.1]


def test_a_timer_longer_than_asyncios_longest_wait_is_one_jump():
    async def main():
        await asyncio.sleep(10 * 24 * 3600)
        return now_s()

    assert run(main) == 864_000


def test_equal_timers_fire_in_the_order_of_their_creation():
    async def main():
        order = []
        for i in range(50):
            asyncio.get_running_loop().call_at(1.0, order.append, i)
        asyncio.get_running_loop().call_at(0.5, order.append, "first")
        await asyncio.sleep(2)
        return order

    assert run(main) == ["first", *range(50)]


def test_cancelled_timers_neither_fire_nor_take_time():
    async def main():
        order = []
        timers = [asyncio.get_running_loop().call_later(5 + i, order.append, i) for i in range(300)]
        for timer in timers:
            timer.cancel()
        await asyncio.sleep(1)
        return order, now_s()

    assert run(main) == ([], 1.0)


def test_timeouts_queues_and_groups_work_as_ever():
    async def main():
        queue: asyncio.Queue[int] = asyncio.Queue()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await queue.get()
        assert now_s() == 3
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(queue.get())
            asyncio.get_running_loop().call_later(4, queue.put_nowait, 9)
        return reader.result(), now_s()

    assert run(main) == (9, 7)


def test_an_aborted_group_cancels_its_children_in_the_order_of_their_creation():
    async def main():
        cancelled = []

        async def child(i: int) -> None:
            try:
                await asyncio.sleep(9)
            finally:
                cancelled.append(i)

        async def parent() -> None:
            async with asyncio.TaskGroup() as group:
                for i in range(20):
                    group.create_task(child(i))
                await asyncio.sleep(1)
                raise ValueError

        with pytest.raises(ExceptionGroup):
            await parent()
        return cancelled

    assert run(main) == list(range(20))


def test_tasks_are_numbered_anew_on_each_loop():
    async def main():
        async with asyncio.TaskGroup() as group:
            named = group.create_task(asyncio.sleep(1), name="named")
            plain = group.create_task(asyncio.sleep(1))
        return named.get_name(), plain.get_name()

    assert run(main) == run(main) == ("named", "Task-3")


def test_a_deadlock_says_who_waits_where():
    cleaned = []

    async def reader(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    async def main():
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS_NAMED_MAX + 2):
                    group.create_task(reader(asyncio.Queue()))
        finally:
            cleaned.append(now_s())

    with pytest.raises(Deadlock) as caught:
        run(main)
    text = str(caught.value)
    assert "no timer is set at 0 s" in text
    assert "Task-2 at test_loop.py:" in text
    assert "in reader" in text
    assert f"and {1 + TASKS_NAMED_MAX + 2 - TASKS_NAMED_MAX} more" in text
    assert cleaned == [0.0]


def test_waiting_for_ever_on_a_timer_is_a_deadlock():
    with pytest.raises(Deadlock):
        run(asyncio.sleep(float("inf")))


def test_steps_without_time_are_limited():
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="steps without time passing at 0 s"):
        run(spin)


def test_the_end_of_time_cancels_and_lets_everybody_clean_up():
    cleaned = []

    async def main():
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(1)
            cleaned.append(now_s())

    with pytest.raises(TimeoutError, match="not done at 3 s"):
        run(main, until_s=3)
    assert cleaned == [4.0]


def test_what_ends_in_time_ends_well():
    assert run(asyncio.sleep(3, "done"), until_s=3) == "done"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: asyncio.get_running_loop().run_in_executor(None, print),
        lambda: asyncio.to_thread(print),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    ],
)
def test_threads_are_refused(attempt):
    async def main():
        await attempt()

    with pytest.raises(RuntimeError, match="no threads on virtual time"):
        run(main)


def test_an_exception_nobody_would_see_fails_the_run():
    async def main():
        asyncio.get_running_loop().call_later(1, lambda: 1 // 0)
        await asyncio.sleep(2)

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_a_deadlock_names_the_lost_exception_as_its_cause():
    async def main():
        asyncio.get_running_loop().call_later(1, lambda: 1 // 0)
        await asyncio.Event().wait()

    with pytest.raises(Deadlock) as caught:
        run(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_main_coroutines_own_exception_comes_first():
    async def main():
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main)


def test_tasks_left_over_are_cancelled():
    ended = []

    async def stray() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            ended.append(now_s())

    async def main():
        kept = asyncio.get_running_loop().create_task(stray())
        await asyncio.sleep(1)
        return kept

    assert run(main).cancelled()
    assert ended == [1.0]


def test_ctrl_c_ends_the_run():
    cleaned = []

    async def main():
        asyncio.get_running_loop().call_later(1, signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(9)
        finally:
            cleaned.append(now_s())

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert cleaned == [1.0]


def test_an_interrupt_waits_for_the_end_of_a_callback_and_lets_everybody_clean_up():
    """Raised within one it could hit asyncio's own bookkeeping: a group then waits for ever for a task that is done."""
    seen: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(child())
            await asyncio.sleep(1)
            loop.interrupt()
            seen.append("the callback went on")
            await asyncio.sleep(1)
            seen.append("never")

    with pytest.raises(KeyboardInterrupt):
        run(main)
    assert seen == ["the callback went on", *["cleaned up"] * 3]


def test_the_loop_opens_no_file_and_closes_cleanly():
    before = sorted(os.listdir("/dev/fd"))
    loop = VirtualLoop()
    assert sorted(os.listdir("/dev/fd")) == before
    loop.run_until_complete(asyncio.sleep(1))
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)
    gc.collect()  # a ResourceWarning here would be an error

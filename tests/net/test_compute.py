"""Real threads: what the virtual Compute cannot show."""

import asyncio
import functools
import subprocess
import sys
import threading
import time

import pytest

from p2pfusion.errors import LocalError
from p2pfusion.net.compute import BACKLOG_MAX, LANES, ThreadCompute

pytestmark = pytest.mark.asyncio


async def test_each_lane_has_one_thread_of_its_own_and_none_is_the_loops() -> None:
    compute = ThreadCompute()
    names = [await compute.run(threading.get_ident, lane=lane) for lane in (*LANES, *LANES)]
    assert names[: len(LANES)] == names[len(LANES) :]
    assert len({*names, threading.get_ident()}) == len(LANES) + 1
    await compute.close()


async def test_a_busy_lane_holds_up_neither_the_loop_nor_the_other_lane() -> None:
    compute = ThreadCompute()
    release = threading.Event()
    training = asyncio.ensure_future(compute.run(lambda: release.wait(5)))
    assert await asyncio.wait_for(compute.run(lambda: "folded", lane="fold"), 2) == "folded"
    assert not training.done()
    release.set()
    assert await training is True
    await compute.close()


async def test_works_of_a_lane_run_in_order_and_those_beyond_the_backlog_wait() -> None:
    compute = ThreadCompute()
    release = threading.Event()
    done: list[int] = []
    first = asyncio.ensure_future(compute.run(lambda: release.wait(5)))
    appends = [functools.partial(done.append, number) for number in range(BACKLOG_MAX + 3)]
    works = [asyncio.ensure_future(compute.run(append)) for append in appends]
    await asyncio.sleep(0.05)
    executor = compute._lanes["train"].executor
    assert executor._work_queue.qsize() == BACKLOG_MAX
    release.set()
    await asyncio.gather(first, *works)
    assert done == list(range(BACKLOG_MAX + 3))
    await compute.close()


async def test_errors_arrive_as_they_were_raised() -> None:
    compute = ThreadCompute()
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 // 0)
    assert await compute.run(lambda: 1) == 1
    await compute.close()


async def test_cancelled_work_that_waited_never_runs_and_its_place_is_free() -> None:
    compute = ThreadCompute()
    release = threading.Event()
    done: list[str] = []
    first = asyncio.ensure_future(compute.run(lambda: release.wait(5)))
    second = asyncio.ensure_future(compute.run(lambda: done.append("second")))
    await asyncio.sleep(0.05)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    await first
    await compute.run(lambda: done.append("third"))
    assert done == ["third"]
    await compute.close()


async def test_close_waits_for_nobody_and_tells_those_who_wait() -> None:
    compute = ThreadCompute()
    release = threading.Event()
    running = asyncio.ensure_future(compute.run(lambda: release.wait(5)))
    waiting = [asyncio.ensure_future(compute.run(lambda: True)) for _ in range(BACKLOG_MAX + 2)]
    await asyncio.sleep(0.05)
    begin = time.perf_counter()
    await compute.close()
    await compute.close()
    assert time.perf_counter() - begin < 0.1
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LocalError] * len(waiting)
    with pytest.raises(LocalError, match="closed"):
        await compute.run(lambda: True)
    release.set()
    assert await running is True


async def test_unknown_lanes_are_refused() -> None:
    compute = ThreadCompute()
    with pytest.raises(LocalError, match="no lane 'other'; there are train, fold"):
        await compute.run(lambda: True, lane="other")
    await compute.close()


TORCH = """
import asyncio, sys
from p2pfusion.net.compute import ThreadCompute
async def main():
    compute = ThreadCompute(threads=1)
    assert await compute.run(lambda: "torch" in sys.modules) is False
    import torch
    torch.set_num_threads(2)
    assert await compute.run(torch.get_num_threads) == 1
    assert await compute.run(torch.get_num_threads, lane="fold") == 1
    await compute.close()
asyncio.run(main())
"""


async def test_torch_is_not_loaded_for_its_own_sake_and_kept_to_its_threads() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", TORCH], check=True, timeout=120)


EXIT = """
import asyncio, time
from p2pfusion.net.compute import ThreadCompute
stop = False
def train():
    while not stop:
        time.sleep(0.01)
async def main():
    global stop
    compute = ThreadCompute()
    work = asyncio.ensure_future(compute.run(train))
    await asyncio.sleep(0.1)
    await compute.close()
    stop = True
    print("closed", flush=True)
asyncio.run(main())
"""


async def test_a_process_ends_soon_after_close_although_work_was_running() -> None:
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", EXIT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "closed\n"
        begin = time.perf_counter()
        assert process.wait(timeout=10) == 0
        assert time.perf_counter() - begin < 2

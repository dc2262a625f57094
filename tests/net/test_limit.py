"""A node's traffic limit on real sockets: payload is slowed on either side, control passes, nobody is kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from p2pfusion.net.http import HttpTransport
from p2pfusion.net.http_server import PAYLOAD_BYTES_PER_S_MIN
from p2pfusion.net.rate import BURST_S
from p2pfusion.seams import Reply, Request

pytestmark = pytest.mark.asyncio

RATE = 400e3
SIZE = 400_000
LEAST_S = SIZE / RATE - BURST_S
PING = Request("GET", "/v1/ping")


def segment(index: int) -> Request:
    return Request("GET", f"/v1/contributions/ab/{index}")


async def answer(request: Request) -> Reply:
    return Reply(204) if request.path == "/v1/ping" else Reply(200, bytes(range(250)) * (SIZE // 250))


@contextlib.asynccontextmanager
async def pair(server_limit: float | None, client_limit: float | None) -> AsyncIterator[tuple[HttpTransport, str]]:
    server = HttpTransport("127.0.0.1:0", limit_bytes_per_s=server_limit)
    client = HttpTransport("127.0.0.1:0", limit_bytes_per_s=client_limit)
    [address, *_] = await server.serve(answer)
    try:
        yield client, address
    finally:
        await client.close()
        await server.close()


@pytest.mark.parametrize("limits", [(RATE, None), (None, RATE)], ids=["sender", "receiver"])
async def test_a_segment_takes_the_time_the_limit_asks_for_and_a_ping_does_not(limits):
    async with pair(*limits) as (client, address):
        now_s, buffer = asyncio.get_running_loop().time, bytearray(SIZE)
        began_s = now_s()
        call = asyncio.ensure_future(client.call(address, segment(0), deadline_s=20, into=memoryview(buffer)))
        await asyncio.sleep(0.05)
        assert (await client.call(address, PING, deadline_s=5)).status == 204
        assert not call.done(), "the ping passed by"
        assert (await call).status == 200
        assert 0.8 * LEAST_S < now_s() - began_s < 10
        assert bytes(buffer) == (await answer(segment(0))).body


@pytest.mark.parametrize(("limit", "expected"), [(PAYLOAD_BYTES_PER_S_MIN, 1), (3 * PAYLOAD_BYTES_PER_S_MIN, 3)])
async def test_no_more_leave_at_a_time_than_can_be_in_time_and_control_always_may(limit, expected):
    async with pair(limit, None) as (client, address):
        buffers = [memoryview(bytearray(SIZE)) for _ in range(4)]
        calls = [
            asyncio.ensure_future(client.call(address, segment(index), deadline_s=20, into=buffer))
            for index, buffer in enumerate(buffers)
        ]
        async with asyncio.timeout(5):
            refused = []
            while len(refused) < 4 - expected:
                done, _ = await asyncio.wait(
                    [call for call in calls if call not in refused], return_when="FIRST_COMPLETED"
                )
                refused += list(done)
        assert [call.result().status for call in refused] == [503] * (4 - expected)
        assert (await client.call(address, PING, deadline_s=5)).status == 204
        assert sum(not call.done() for call in calls) == expected
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

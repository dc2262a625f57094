"""A node's traffic limit on real sockets: payload is slowed on either side, control passes, nobody is kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from p2pfusion.net import http_server
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
    assert server._server is not None
    assert server._server._listener is not None
    server._server._listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # who reads not is felt
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


async def test_stalled_s(monkeypatch):
    """Who takes nothing loses the only place, and the connection when somebody else has the place."""
    monkeypatch.setattr(http_server, "STALLED_S", 0.05)
    loop = asyncio.get_running_loop()
    async with pair(PAYLOAD_BYTES_PER_S_MIN, None) as (client, address):
        host, port = address.split(":")
        with socket.socket() as stranger:
            await stalled(stranger, host, int(port))
            buffer = memoryview(bytearray(SIZE))
            async with asyncio.timeout(5):
                call = asyncio.ensure_future(client.call(address, segment(1), deadline_s=20, into=buffer))
                while (await asyncio.wait([call], timeout=0.3))[0]:
                    assert call.result().status == 503
                    call = asyncio.ensure_future(client.call(address, segment(1), deadline_s=20, into=buffer))
                    await asyncio.sleep(0.05)
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(stranger, 1 << 16):
                        pass
            assert not call.done(), "it has the place, and the stranger had to go"
            call.cancel()
            await asyncio.wait([call])


async def stalled(stranger: socket.socket, host: str, port: int) -> None:
    """Asks for a segment and takes none of it."""
    stranger.setblocking(False)
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stranger, (host, port))
    await loop.sock_sendall(stranger, b"GET /v1/contributions/ab/0 HTTP/1.1\r\nHost: x\r\n\r\n")

"""GET into the caller's memory: what an answer may be, and how many connections there are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.errors import DeadlineExceeded, Unreachable, WireError
from p2pfusion.net import http_direct
from p2pfusion.net.http_direct import HEAD_BYTES_MAX, Direct, Head
from p2pfusion.net.rate import Throttle
from p2pfusion.seams import Reply
from tests.net.test_http_client import SEGMENT, headers, liar

LENGTH = b"Content-Length: 3"


@given(st.binary(max_size=200))
def test_a_head_is_understood_or_refused(data):
    for said in (data, b"HTTP/1.1 200 OK\r\n" + data, b"HTTP/1.1 200 OK\r\nContent-Length: " + data):
        with contextlib.suppress(WireError):
            assert Head(said).status in range(200, 600)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"HTTP/1.1 200 OK\r\n" + LENGTH, (200, 3, True)),
        (b"HTTP/1.1 200\r\ncontent-length:3", (200, 3, True)),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: \t 3 \t", (200, 3, True)),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n" + LENGTH, (200, 3, True)),
        (b"HTTP/1.1 503 -\r\nConnection: Close\r\n" + LENGTH, (503, 3, False)),
        (b"HTTP/1.1 204 No Content", (204, 0, True)),
        (b"HTTP/1.1 304 -\r\n" + LENGTH, (304, 0, True)),
    ],
)
def test_what_a_head_says(said, found):
    head = Head(said)
    assert (head.status, head.length, head.is_kept) == found


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n" + LENGTH,
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 600 x\r\n" + LENGTH,
        b"HTTP/1.1 2000 x\r\n" + LENGTH,
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\nContent-Length: -3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1234567890123456",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\nContent-Length : 3",
        b"HTTP/1.1 200 OK\r\n folded\r\n" + LENGTH,
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n" + LENGTH,
    ],
)
def test_what_is_no_head_for_us(said):
    with pytest.raises(WireError):
        Head(said)


def test_a_head_of_blanks_is_refused_at_once():
    """Up to `HEAD_BYTES_MAX`, in doubles, so that a cubic search fails here within seconds."""
    sizes = [2**power for power in range(8, 14)]
    assert sizes[-1] == HEAD_BYTES_MAX
    for size in sizes:
        began_s = time.process_time()
        with pytest.raises(WireError, match="malformed"):
            Head(b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\nX:" + b" \t" * (size // 2) + b"\0")
        assert time.process_time() - began_s < 0.2, f"{size} blanks"


async def get(*said: bytes, then: str = "close", size: int = 3) -> Reply:
    async with liar(*said, then=then) as (transport, address, heard):
        call = transport.call(address, SEGMENT, deadline_s=0.3, into=memoryview(bytearray(size)))
        [found] = await asyncio.gather(call, return_exceptions=True)
        assert len(heard) == 1
        assert heard[0].startswith(b"GET /v1/contributions/ab/0 HTTP/1.1\r\nHost: 127.0.0.1:")
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.parametrize(
    ("said", "then", "error"),
    [
        ((b"SSH-2.0-OpenSSH\r\n",), "stall", WireError),
        ((headers("Content-Length: 4"), b"abcd"), "stall", WireError),
        ((headers("Content-Length: 2"), b"ab"), "stall", WireError),
        ((headers("Content-Length: 3") + b"abcd",), "stall", WireError),
        ((headers("Content-Length: 9999999", status="404 -"),), "stall", WireError),
        ((headers("Content-Length: 3"), b"ab"), "close", Unreachable),
        ((headers()[:-2],), "close", Unreachable),
        ((), "close", Unreachable),
        ((headers("Content-Length: 3"), b"ab"), "stall", DeadlineExceeded),
        ((headers()[:-2],), "stall", DeadlineExceeded),
    ],
)
def test_an_answer_that_is_none_ends_in_one_of_three_ways(said, then, error):
    with pytest.raises(error):
        asyncio.run(get(*said, then=then))


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_head_of_head_bytes_max(beyond):
    base = headers("Content-Length: 3", "X: ")
    said = headers("Content-Length: 3", "X: " + "x" * (HEAD_BYTES_MAX - len(base) + beyond))
    assert len(said) == HEAD_BYTES_MAX + beyond
    if beyond:
        with pytest.raises(WireError, match="head"):
            asyncio.run(get(said, b"abc", then="stall"))
    else:
        assert bytes(asyncio.run(get(said, b"abc")).body) == b"abc"


def test_an_answer_may_come_byte_by_byte():
    said = [bytes([byte]) for byte in headers("Content-Length: 3", "Connection: close") + b"abc"]
    assert bytes(asyncio.run(get(*said)).body) == b"abc"


# -- connections ------------------------------------------------------------------------------------------------------


class Server:
    """Answers every request when `gate` is set; counts connections and requests under way."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.connections = self.open = self.under_way = self.most = 0
        self.extra = b""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await self.gate.wait()
                self.under_way -= 1
                writer.write(headers("Content-Length: 3") + b"abc" + self.extra)
                await writer.drain()
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def serving(**changes: float) -> AsyncIterator[tuple[Server, Direct, tuple[str, int]]]:
    known = Server()
    server = await asyncio.start_server(known.answer, "127.0.0.1", 0)
    limits = {"in_use_max": 8, "per_place_max": 4, "keep_alive_s": 30.0} | changes
    direct = Direct(Throttle(None), **limits)  # type: ignore[arg-type]
    try:
        yield known, direct, server.sockets[0].getsockname()
    finally:
        known.gate.set()
        await direct.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)
    assert known.open == 0
    assert not any((direct._open, direct._idle, direct._places))


async def ask(direct: Direct, place: tuple[str, int]) -> bytes:
    buffer = memoryview(bytearray(3))
    assert (await direct.get(place, b"GET / HTTP/1.1\r\n\r\n", buffer, 10)).status == 200
    return bytes(buffer)


@pytest.mark.parametrize(("changes", "most"), [({"per_place_max": 3}, 3), ({"in_use_max": 2}, 2)])
def test_connections_in_use_are_bounded_and_used_again(changes, most):
    async def main() -> None:
        async with serving(**changes) as (server, direct, place):
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(ask(direct, place)) for _ in range(10)]
                await asyncio.sleep(0.05)
                assert server.under_way == most
                server.gate.set()
            assert [call.result() for call in calls] == [b"abc"] * 10
            assert (server.connections, server.most) == (most, most)

    asyncio.run(main())


def test_idle_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(http_direct, "IDLE_CONNECTIONS_MAX", 2)

    async def main() -> None:
        async with serving() as (server, direct, place):
            server.gate.set()
            await asyncio.gather(*(ask(direct, place) for _ in range(4)))
            await asyncio.sleep(0.02)
            assert len(direct._idle) == len(direct._open) == server.open == 2

    asyncio.run(main())


def test_an_idle_connection_is_closed_in_time():
    async def main() -> None:
        async with serving(keep_alive_s=0.05) as (server, direct, place):
            server.gate.set()
            await ask(direct, place)
            assert server.open == 1
            await asyncio.sleep(0.15)
            assert server.open == 0

    asyncio.run(main())


def test_a_call_that_is_given_up_ends_its_connection_and_frees_its_place():
    async def main() -> None:
        async with serving(per_place_max=1) as (server, direct, place):
            call = asyncio.ensure_future(ask(direct, place))
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.wait([call])
            server.gate.set()
            assert await ask(direct, place) == b"abc"
            assert server.connections == 2

    asyncio.run(main())


def test_who_speaks_without_being_asked_is_cut_off():
    async def main() -> None:
        async with serving() as (server, direct, place):
            server.gate.set()
            server.extra = b"more"
            with contextlib.suppress(WireError):  # when it came in one piece
                await ask(direct, place)
            await asyncio.sleep(0.05)
            assert server.open == 0

    asyncio.run(main())


def test_a_closed_one_calls_nobody():
    async def main() -> None:
        async with serving() as (server, direct, place):
            await direct.close()
            with pytest.raises(Unreachable):
                await ask(direct, place)
            assert server.connections == 0

    asyncio.run(main())

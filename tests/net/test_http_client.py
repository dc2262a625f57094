"""The calling half against servers that lie, stall, flood and vanish: a call ends in one of four ways only."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest

from p2pfusion.config import GOSSIP_BYTES_MAX, LINKS_BYTES_MAX, MANIFEST_BYTES_MAX, SEGMENT_BYTES_MAX
from p2pfusion.errors import DeadlineExceeded, Unreachable, WireError
from p2pfusion.net.http import HttpTransport
from p2pfusion.seams import Reply, Request
from p2pfusion.wire.routes import ERROR_BYTES_MAX, HOP_BYTES_MAX, REPLY_BYTES_MAX, SEGMENT_SLACK_BYTES

pytestmark = pytest.mark.asyncio

PING = Request("GET", "/v1/ping")
SEGMENT = Request("GET", "/v1/contributions/ab/0")


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport("127.0.0.1:0")
    try:
        yield transport
    finally:
        await transport.close()
        gc.collect()


@contextlib.asynccontextmanager
async def liar(*said: bytes, then: str = "close") -> AsyncIterator[tuple[HttpTransport, str, list[bytes]]]:
    """A server that answers every request with the same bytes, then closes, stalls, or floods for ever."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in said:
                writer.write(piece)
                await writer.drain()
            while then == "flood":
                writer.write(bytes(65536))
                await writer.drain()
            if then == "stall":
                await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with opened() as transport:
        yield transport, f"{host}:{port}", heard
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.01)


def headers(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("path", "status", "limit"),
    [
        ("/v1/gossip", 200, GOSSIP_BYTES_MAX),
        ("/v1/contributions/ab", 200, MANIFEST_BYTES_MAX),
        ("/v1/contributions/ab/0", 200, SEGMENT_BYTES_MAX + SEGMENT_SLACK_BYTES),
        ("/v1/snapshots/ab", 200, MANIFEST_BYTES_MAX),
        ("/v1/snapshots/ab/0", 200, SEGMENT_BYTES_MAX + SEGMENT_SLACK_BYTES),
        ("/v1/links", 200, LINKS_BYTES_MAX),
        ("/v1/hops/forward", 200, HOP_BYTES_MAX),
        ("/v1/hops/offers", 200, GOSSIP_BYTES_MAX),
        ("/v1/shards/63/gossip", 200, GOSSIP_BYTES_MAX),
        ("/v1/other", 200, REPLY_BYTES_MAX),
        ("/v1/gossip", 409, ERROR_BYTES_MAX),
    ],
)
async def test_answers_are_read_up_to_the_limit_of_their_route(path: str, status: int, limit: int) -> None:
    size = limit

    async def handler(request: Request) -> Reply:
        return Reply(status, b"", [bytes(size // 2), bytes(size - size // 2)])

    async with opened() as transport:
        (address,) = await transport.serve(handler)
        reply = await transport.call(address, Request("GET", path), deadline_s=10)
        assert (reply.status, len(reply.body)) == (status, limit)
        size = limit + 1
        with pytest.raises(WireError, match=f"{limit + 1} bytes, the limit is {limit}"):
            await transport.call(address, Request("GET", path), deadline_s=10)


async def test_an_answer_without_a_length_is_cut_off_at_the_limit() -> None:
    for said in (headers("Connection: close"), headers("Transfer-Encoding: chunked") + b"fffffff\r\n"):
        async with liar(said, then="flood") as (transport, address, _):
            with pytest.raises(WireError, match="more than"):
                await transport.call(address, PING, deadline_s=5)
            with pytest.raises(WireError, match=r"no length|is encoded"):
                await transport.call(address, SEGMENT, deadline_s=5, into=memoryview(bytearray(10)))


async def test_into_is_filled_exactly() -> None:
    async def handler(request: Request) -> Reply:
        return Reply(200, b"0123", [b"4567", b"89"]) if request.path.endswith("0") else Reply(404, b"unknown")

    async with opened() as transport:
        (address,) = await transport.serve(handler)
        buffer = memoryview(bytearray(10))
        reply = await transport.call(address, SEGMENT, deadline_s=2, into=buffer)
        assert (reply.status, reply.body) == (200, buffer)
        assert bytes(buffer) == b"0123456789"
        for size in (9, 11):
            with pytest.raises(WireError, match=f"10 bytes instead of {size}"):
                await transport.call(address, SEGMENT, deadline_s=2, into=memoryview(bytearray(size)))
        other = await transport.call(address, Request("GET", "/v1/contributions/ab/1"), deadline_s=2, into=buffer)
        assert other == Reply(404, b"unknown")
        assert bytes(buffer) == b"0123456789"


async def test_into_may_be_any_contiguous_view() -> None:
    async def handler(request: Request) -> Reply:
        return Reply(200, bytes(range(16)))

    async with opened() as transport:
        (address,) = await transport.serve(handler)
        view = memoryview(bytearray(16)).cast("I", (2, 2))
        await transport.call(address, SEGMENT, deadline_s=2, into=view)
        assert view.tobytes() == bytes(range(16))


async def test_an_undeclared_answer_that_is_too_short_is_noticed() -> None:
    async with liar(headers("Connection: close"), b"abc") as (transport, address, _):
        with pytest.raises(WireError, match="no length"):
            await transport.call(address, SEGMENT, deadline_s=2, into=memoryview(bytearray(4)))


@pytest.mark.parametrize(
    ("said", "then", "error"),
    [
        ((b"SSH-2.0-OpenSSH\r\n",), "close", WireError),
        ((headers("Content-Length: x"),), "close", WireError),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20000,), "close", WireError),
        ((headers("Content-Encoding: gzip", "Content-Length: 3"), b"abc"), "close", WireError),
        ((), "close", Unreachable),
        ((headers("Content-Length: 10"), b"abc"), "close", Unreachable),
        ((b"HTTP/1.1 200 OK\r\nConte",), "close", Unreachable),
        ((), "stall", DeadlineExceeded),
        ((headers("Content-Length: 10"), b"abc"), "stall", DeadlineExceeded),
        ((headers("Content-Length: 3"), b"abc"), "close", None),
    ],
)
async def test_lies_and_failures_have_one_name_each(
    said: tuple[bytes, ...], then: str, error: type[Exception] | None
) -> None:
    async with liar(*said, then=then) as (transport, address, _):
        call = transport.call(address, PING, deadline_s=0.3)
        if error is None:
            assert await call == Reply(200, b"abc")
            return
        with pytest.raises(error):
            await call


async def test_nobody_listening_is_unreachable_at_once() -> None:
    async with opened() as gone, opened() as transport:
        (address,) = await gone.serve(lambda request: None)  # type: ignore[arg-type,return-value]
        await gone.close()
        with pytest.raises(Unreachable, match=address):
            await transport.call(address, PING, deadline_s=5)


async def test_forbidden_addresses_are_not_dialled() -> None:
    async with opened() as transport:
        for address in ("localhost:5000", "127.0.0.1:80", "0.0.0.0:5000", "169.254.169.254:5000", "x" * 1000):
            with pytest.raises(Unreachable, match="not dialled"):
                await transport.call(address, PING, deadline_s=5)


async def test_redirects_are_answers_and_cookies_are_forgotten() -> None:
    said = headers("Location: http://127.0.0.1:9/", "Set-Cookie: a=b", "Content-Length: 0", status="302 Found")
    async with liar(said) as (transport, address, heard):
        for _ in range(2):
            assert (await transport.call(address, PING, deadline_s=2)).status == 302
        assert len(heard) == 2
        assert heard[0] == heard[1]
        assert b"cookie" not in heard[1].lower()
        assert b"aiohttp" not in heard[1].lower()


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with liar(headers("Content-Length: 0")) as (transport, address, heard):
        assert (await transport.call(address, PING, deadline_s=2)).status == 200
        assert heard[0].startswith(b"GET /v1/ping HTTP/1.1")


async def test_a_caller_that_gives_up_leaves_the_transport_usable() -> None:
    async with liar(then="stall") as (transport, address, _):
        with pytest.raises(DeadlineExceeded):
            await transport.call(address, PING, deadline_s=0.1)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(transport.call(address, PING, deadline_s=5))
            await asyncio.sleep(0.1)
            call.cancel()
        (own,) = await transport.serve(lambda request: ready(Reply(200, b"ok")))
        assert (await transport.call(own, PING, deadline_s=2)).body == b"ok"


async def ready(reply: Reply) -> Reply:
    return reply


async def test_ipv6_addresses_work() -> None:
    transport = HttpTransport("[::1]:0")
    try:
        (address,) = await transport.serve(lambda request: ready(Reply(200, b"six")))
        assert address.startswith("[::1]:")
        assert (await transport.call(address, PING, deadline_s=2)).body == b"six"
    finally:
        await transport.close()

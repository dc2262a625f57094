"""What only real sockets have: the limits of the server, each at its limit and one beyond, and its whole answers."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from p2pfusion.config import GOSSIP_BYTES_MAX, PROBE_BYTES_MAX
from p2pfusion.errors import LocalError, PortError, Unreachable, UsageError
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.http_connection import HttpLimits
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.wire.routes import HOP_BYTES_MAX

pytestmark = pytest.mark.asyncio

PING = Request("GET", "/v1/ping")
GOSSIP = b"POST /v1/gossip HTTP/1.1\r\nHost: x\r\n"


async def echo(request: Request) -> Reply:
    if request.path == "/v1/ping":
        return Reply(204)
    return Reply(200, f"{request.method} {request.path} {request.query} ".encode(), (request.body,))


@contextlib.asynccontextmanager
async def serving(handler: Handler = echo, **limits: float) -> AsyncIterator[tuple[HttpTransport, str]]:
    transport = HttpTransport("127.0.0.1:0", limits=HttpLimits(**limits))  # type: ignore[arg-type]
    try:
        (address,) = await transport.serve(handler)
        yield transport, address
    finally:
        await transport.close()
        gc.collect()  # a socket left open would warn here, and warnings are errors


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a declared length: status, headers in lower case, body."""
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split(" ")[1]), headers, body


async def raw(address: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    async with connected(address) as (reader, writer):
        writer.write(sent)
        return await answer(reader)


async def test_every_part_of_a_request_arrives_as_it_was_sent() -> None:
    async with serving() as (transport, address):
        for request in (
            Request("GET", "/v1/contributions/ab/3"),
            Request("GET", "/v1/links", query="from=7&x=%2F?"),
            Request("POST", "/v1/gossip", b"\x00body"),
            Request("POST", "/v1/gossip", memoryview(bytearray(b"view"))),
            Request("POST", "/v1/probe"),
        ):
            reply = await transport.call(address, request, deadline_s=2)
            words = f"{request.method} {request.path} {request.query} ".encode()
            assert (reply.status, reply.body) == (200, words + bytes(request.body))
        assert await transport.call(address, PING, deadline_s=2) == Reply(204, b"")


async def test_connections_are_kept() -> None:
    ends: set[object] = set()
    async with serving() as (transport, address):
        for _ in range(3):
            await transport.call(address, PING, deadline_s=2)
            assert transport._server is not None
            ends.update(transport._server._server.connections)
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/gossip", GOSSIP_BYTES_MAX),
        ("/v1/probe", PROBE_BYTES_MAX),
        ("/v1/anything/else", GOSSIP_BYTES_MAX),
        ("/v1/hops/backward", HOP_BYTES_MAX),
        ("/v1/hops/take", GOSSIP_BYTES_MAX),
        ("/v1/shards/3/probe", PROBE_BYTES_MAX),
        ("/v1/hops", GOSSIP_BYTES_MAX),
        ("/v1/contributions/ab", 0),
        ("/v1/links", 0),
    ],
)
async def test_bodies_are_taken_up_to_the_limit_of_their_route(path: str, limit: int) -> None:
    async def length(request: Request) -> Reply:
        return Reply(200, str(len(request.body)).encode())

    async with serving(length) as (transport, address):
        reply = await transport.call(address, Request("POST", path, bytes(limit)), deadline_s=10)
        assert (reply.status, reply.body) == (200, str(limit).encode())
        reply = await transport.call(address, Request("POST", path, bytes(limit + 1)), deadline_s=10)
        assert (reply.status, reply.body) == (413, b"size")


async def test_after_refusing_a_body_nothing_more_is_taken_from_that_connection() -> None:
    async with serving(header_deadline_s=0.1) as (_, address), connected(address) as (reader, writer):
        writer.write(GOSSIP + b"Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\n")
        assert (await answer(reader))[::2] == (415, b"encoding")
        writer.write(b"hello")
        async with asyncio.timeout(3):
            assert await reader.read() == b""  # no second answer, to a request that was never made


@pytest.mark.parametrize("status", [429, 503])
async def test_whoever_is_told_to_wait_is_told_how_long(status: int) -> None:
    async def busy(request: Request) -> Reply:
        return Reply(status, b"rate")

    async with serving(busy) as (_, address):
        got, headers, _ = await raw(address, b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (got, headers["retry-after"]) == (status, "1")


LONG = b"X: " + b"a" * 8200 + b"\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (GOSSIP + b"Content-Length: 65537\r\n\r\n", 413, b"size"),
        (b"GET /v1/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", 413, b"size"),
        (GOSSIP + b"\r\n", 411, b"length"),
        (GOSSIP + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 411, b"length"),
        (b"GET /v1/ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411, b"length"),
        (GOSSIP + b"Content-Length: 1\r\nContent-Encoding: gzip\r\n\r\na", 415, b"encoding"),
        (GOSSIP + b"Content-Length: 1\r\nContent-Encoding: zstd\r\n\r\na", 415, b"encoding"),
        (GOSSIP + b"Content-Length: 0\r\nOrigin: http://evil.example\r\n\r\n", 400, b"malformed"),
        (GOSSIP + b"Content-Length: 0\r\nSec-Fetch-Site: cross-site\r\n\r\n", 400, b"malformed"),
        (b"GET /v2/ping HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"unknown"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"unknown"),
        (b"PUT /v1/gossip HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404, b"unknown"),
        (b"OPTIONS /v1/gossip HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"unknown"),
        (b"<script>alert(1)</script>\r\n\r\n", 400, b"malformed"),
        (GOSSIP + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na", 400, b"malformed"),
        (GOSSIP + b"Content-Length: -1\r\n\r\n", 400, b"malformed"),
        (b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n" + LONG + b"\r\n", 400, b"malformed"),
        (b"GET /v1/ping HTTP/1.1\r\n" + b"X: y\r\n" * 65 + b"\r\n", 400, b"malformed"),
    ],
)
async def test_bad_requests_get_a_fixed_short_code_and_are_not_logged(
    sent: bytes, status: int, code: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(request: Request) -> Reply:
        raise AssertionError("must not reach the handler")

    caplog.set_level(logging.INFO)
    async with serving(never) as (_, address):
        got, _, body = await raw(address, sent)
        assert (got, body) == (status, code)
    assert caplog.records == []


async def test_a_connection_with_half_a_header_is_ended() -> None:
    async with serving(header_deadline_s=0.2) as (_, address), connected(address) as (reader, writer):
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for piece in (b"GET /v1/pi", b"ng HTTP/1.1\r\n", b"Host: "):  # progress does not help
            writer.write(piece)
            await asyncio.sleep(0.05)
        assert await answer(reader) == (408, {"content-length": "8", "connection": "close"}, b"deadline")
        assert await reader.read() == b""
        assert loop.time() - begin < 1.0


async def test_headers_in_time_may_be_followed_by_silence_and_more_requests() -> None:
    async with serving(header_deadline_s=0.1) as (_, address), connected(address) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 204
            await asyncio.sleep(0.2)  # idle, not half a header


async def test_a_slow_handler_is_not_taken_for_slow_headers() -> None:
    async def slow(request: Request) -> Reply:
        await asyncio.sleep(0.3)
        return Reply(204)

    async with serving(slow, header_deadline_s=0.1) as (transport, address):
        assert (await transport.call(address, Request("POST", "/v1/gossip", b"x"), deadline_s=2)).status == 204


async def test_a_body_that_does_not_come_is_answered_408() -> None:
    async with serving(body_deadline_s=0.2) as (_, address):
        assert (await raw(address, GOSSIP + b"Content-Length: 100\r\n\r\nabc"))[::2] == (408, b"deadline")


async def test_idle_connections_are_ended() -> None:
    async with serving(idle_s=0.2) as (_, address), connected(address) as (reader, _):
        async with asyncio.timeout(2):
            assert await reader.read() == b""


async def test_a_caller_who_takes_nothing_is_cut_off_and_gives_back_its_place() -> None:
    async def large(request: Request) -> Reply:
        return Reply(204) if request.path == "/v1/ping" else Reply(200, b"", [bytes(16 << 20)] * 4)

    def no_wait(length: int, throttle: object) -> float:
        return 0.2

    async with serving(large, in_flight_max=1) as (transport, address), connected(address) as (_, writer):
        assert transport._server is not None
        transport._server._deadline_s = no_wait  # type: ignore[method-assign]
        writer.write(b"GET /v1/other HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        assert (await transport.call(address, PING, deadline_s=2)).status == 503
        await asyncio.sleep(0.3)
        assert (await transport.call(address, PING, deadline_s=2)).status == 204


def held() -> tuple[asyncio.Event, Callable[[Request], Awaitable[Reply]]]:
    """A handler that answers when the event is set."""
    release = asyncio.Event()

    async def handler(request: Request) -> Reply:
        await release.wait()
        return Reply(200, b"ok")

    return release, handler


async def test_requests_in_flight_are_bounded_and_the_rest_is_told_when_to_come_back() -> None:
    release, handler = held()
    async with serving(handler, in_flight_max=4) as (transport, address), asyncio.TaskGroup() as group:
        calls = [group.create_task(transport.call(address, PING, deadline_s=5)) for _ in range(4)]
        await asyncio.sleep(0.1)
        status, headers, body = await raw(address, b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body, headers["retry-after"]) == (503, b"busy", "1")
        release.set()
        assert [(await call).status for call in calls] == [200] * 4
        assert (await transport.call(address, PING, deadline_s=2)).status == 200


async def test_bytes_in_flight_are_bounded() -> None:
    release, handler = held()
    async with serving(handler, in_flight_bytes_max=1000) as (transport, address), asyncio.TaskGroup() as group:
        first = group.create_task(transport.call(address, Request("POST", "/v1/gossip", bytes(600)), deadline_s=5))
        await asyncio.sleep(0.1)
        refused = await transport.call(address, Request("POST", "/v1/gossip", bytes(401)), deadline_s=2)
        assert (refused.status, refused.body) == (503, b"busy")
        second = group.create_task(transport.call(address, Request("POST", "/v1/gossip", bytes(400)), deadline_s=5))
        await asyncio.sleep(0.1)
        release.set()
        assert [(await first).status, (await second).status] == [200, 200]


async def test_connections_are_bounded_and_a_place_becomes_free() -> None:
    async with serving(connections_max=2) as (transport, address):
        async with connected(address), connected(address):
            await asyncio.sleep(0.05)
            async with connected(address) as (reader, _):
                status, headers, body = await answer(reader)
                assert (status, body, headers["retry-after"]) == (503, b"busy", "1")
                assert await reader.read() == b""
        await asyncio.sleep(0.05)
        assert (await transport.call(address, PING, deadline_s=2)).status == 204


async def test_a_handler_that_fails_is_answered_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Reply:
        raise KeyError("secret")

    async with serving(broken) as (transport, address):
        for _ in range(3):
            assert await transport.call(address, PING, deadline_s=2) == Reply(500, b"bug")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "GET /v1/ping" in record.getMessage()
    assert record.exc_info is not None


async def test_a_handler_that_hangs_gives_its_place_back() -> None:
    _, handler = held()
    async with serving(handler, handler_deadline_s=0.1, in_flight_max=1) as (transport, address):
        for _ in range(2):
            assert await transport.call(address, PING, deadline_s=2) == Reply(503, b"busy")


async def test_a_failing_timeout_of_the_handlers_own_is_its_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Reply:
        raise TimeoutError

    async with serving(broken) as (transport, address):
        assert await transport.call(address, PING, deadline_s=2) == Reply(500, b"bug")
    assert len(caplog.records) == 1


async def test_answers_never_name_our_software() -> None:
    async with serving() as (_, address):
        _, headers, _ = await raw(address, b"GET /v1/other HTTP/1.1\r\nHost: x\r\n\r\n")
        assert headers["server"] == "p2pfusion"
        assert "python" not in str(headers)


async def test_close_lets_requests_finish_then_cuts_and_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    started = asyncio.Event()

    async def handler(request: Request) -> Reply:
        started.set()
        await asyncio.sleep(0.1 if request.path == "/v1/ping" else 60)
        return Reply(200, b"finished")

    server, client = HttpTransport("127.0.0.1:0"), HttpTransport()
    (address,) = await server.serve(handler)
    async with connected(address), asyncio.TaskGroup() as group:  # an idle connection, too
        quick = group.create_task(client.call(address, PING, deadline_s=5))
        await started.wait()
        started.clear()
        stuck = group.create_task(outcome(client.call(address, Request("GET", "/v1/stuck"), deadline_s=5)))
        await started.wait()
        await server.close()
        assert (await quick).body == b"finished"
        assert isinstance(await stuck, Unreachable)
    with pytest.raises(Unreachable):
        await client.call(address, PING, deadline_s=1)
    await server.close()
    await client.close()
    await client.close()
    assert asyncio.all_tasks() == before
    gc.collect()


async def outcome(call: Awaitable[Reply]) -> Reply | Exception:
    try:
        return await call
    except Exception as error:
        return error


async def test_closing_ends_our_own_calls() -> None:
    _, handler = held()
    async with serving(handler, shutdown_s=0.05) as (_, address):
        client = HttpTransport()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(outcome(client.call(address, PING, deadline_s=5)))
            await asyncio.sleep(0.1)
            await client.close()
            assert isinstance(await call, Unreachable)
        with pytest.raises(Unreachable, match="closed"):
            await client.call(address, PING, deadline_s=1)


async def test_a_taken_port_is_told_with_the_fix() -> None:
    async with serving() as (_, address):
        second = HttpTransport(address)
        with pytest.raises(PortError, match=rf"cannot listen on {address}: .*; --listen 127.0.0.1:0 picks a free one"):
            await second.serve(echo)
        await second.close()


async def test_an_address_of_nobody_is_told_with_the_fix() -> None:
    transport = HttpTransport("198.51.100.7:0")
    with pytest.raises(PortError, match=r"198.51.100.7:0: no interface has that address; --listen 0.0.0.0:0"):
        await transport.serve(echo)


async def test_misuse_is_ours() -> None:
    with pytest.raises(UsageError):
        HttpTransport("nonsense")
    async with serving() as (transport, address):
        with pytest.raises(LocalError, match="once"):
            await transport.serve(echo)
        for path, query in (("/v1/a b", ""), ("/v1/x\r\nA: b", ""), ("/other", ""), ("/v1/x?y", ""), ("/v1/x", "a#b")):
            with pytest.raises(LocalError, match="not a path"):
                await transport.call(address, Request("GET", path, query=query), deadline_s=1)


@pytest.mark.parametrize(
    ("said", "heard"),
    [("ab" * 16, b"\xab" * 16), ("ab" * 15, b""), ("ab" * 17, b""), ("AB" * 16, b""), ("x" * 32, b""), ("", b"")],
)
async def test_a_caller_that_names_no_id_is_nobody(said: str, heard: bytes) -> None:
    async def handler(request: Request) -> Reply:
        return Reply(200, request.sender.hex().encode())

    async with serving(handler) as (_, address):
        head = f"GET /v1/ping HTTP/1.1\r\nHost: x\r\nP2PFusion-Peer: {said}\r\n\r\n"
        status, _, body = await raw(address, head.encode())
        assert (status, body) == (200, heard.hex().encode())

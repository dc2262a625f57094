"""`seams.Transport`: a call ends in a reply of any status, `Unreachable`, `DeadlineExceeded` or `WireError`."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from p2pfusion.errors import DeadlineExceeded, LocalError, Unreachable, WireError
from p2pfusion.seams import Reply, Request
from p2pfusion.wire.routes import ERROR_BYTES_MAX, request_bytes_max, route

SEGMENT = "/v1/contributions/aa/0"
GOSSIP = "/v1/gossip"
HOP = "/v1/hops/forward"
SOON_S = 0.2
LONG_S = 20.0


async def echo(request: Request) -> Reply:
    said = "|".join((request.method, request.path, request.query)).encode()
    return Reply(200, said + b"|" + bytes(request.body))


def answering(reply: Reply):
    async def handler(request: Request) -> Reply:
        return reply

    return handler


class Gate:
    """A handler that counts who came, waits to be let through, and counts who got out."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.opened = asyncio.Event()
        self.left = asyncio.Semaphore(0)

    async def __call__(self, request: Request) -> Reply:
        self.entered.release()
        await self.opened.wait()
        self.left.release()
        return Reply(200, request.body)


@pytest.mark.parametrize("body", [b"hello", bytearray(b"hello"), memoryview(b"hello"), b"", bytes(1 << 20)])
def test_method_path_query_and_body_arrive(play_transport, body):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(echo)
        reply = await client.call(address, Request("POST", HOP, body, "from=3&to=4"), deadline_s=LONG_S)
        assert (reply.status, bytes(reply.body)) == (200, b"POST|/v1/hops/forward|from=3&to=4|" + bytes(body))

    play_transport(scenario)


@pytest.mark.parametrize("sender", [b"", bytes(16), bytes(range(240, 256))])
def test_who_calls_arrives(play_transport, sender):
    async def scenario(new):
        heard = []

        async def listen(request: Request) -> Reply:
            heard.append(request.sender)
            return Reply(204)

        server, client = new(), new()
        [address, *_] = await server.serve(listen)
        await client.call(address, Request("GET", "/v1/ping", sender=sender), deadline_s=LONG_S)
        await client.call(address, Request("POST", GOSSIP, b"x", sender=sender), deadline_s=LONG_S)
        assert heard == [sender, sender]

    play_transport(scenario)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b""), (200, b"x"), (204, b""), (400, b"malformed"), (409, bytes(2000)), (503, b"busy")]
)
def test_every_status_is_a_reply(play_transport, status, body):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(answering(Reply(status, body)))
        reply = await client.call(address, Request("GET", "/v1/ping"), deadline_s=LONG_S)
        assert (reply.status, bytes(reply.body)) == (status, body)

    play_transport(scenario)


def test_every_address_of_a_server_answers(play_transport):
    async def scenario(new):
        server, client = new(), new()
        addresses = await server.serve(echo)
        assert 1 <= len(addresses) <= 4
        for address in addresses:
            assert (await client.call(address, Request("GET", "/v1/ping"), deadline_s=LONG_S)).status == 200

    play_transport(scenario)


def test_pieces_follow_the_body_in_order(play_transport):
    async def scenario(new):
        server, client = new(), new()
        floats = memoryview(array("f", [1.0, -0.0]))
        [address, *_] = await server.serve(answering(Reply(200, b"a", (b"", bytearray(b"b"), floats))))
        reply = await client.call(address, Request("GET", "/v1/links"), deadline_s=LONG_S)
        assert bytes(reply.body) == b"ab" + floats.tobytes()

    play_transport(scenario)


def test_large_streamed_pieces_fill_the_buffer(play_transport):
    async def scenario(new):
        server, client = new(), new()
        pieces = tuple(bytes([i]) * (256 << 10) for i in range(8))  # 2 MiB
        [address, *_] = await server.serve(answering(Reply(200, b"", pieces)))
        buffer = memoryview(bytearray(2 << 20))
        reply = await client.call(address, Request("GET", SEGMENT), deadline_s=LONG_S, into=buffer)
        assert reply.body is buffer
        assert bytes(buffer) == b"".join(pieces)
        whole = await client.call(address, Request("GET", "/v1/links"), deadline_s=LONG_S)
        assert bytes(whole.body) == b"".join(pieces)

    play_transport(scenario)


def test_the_buffer_may_be_of_floats(play_transport):
    async def scenario(new):
        server, client = new(), new()
        values = array("f", [0.5, -2.0, 1e-40])
        [address, *_] = await server.serve(answering(Reply(200, values.tobytes())))
        received = array("f", [0.0] * 3)
        await client.call(address, Request("GET", SEGMENT), deadline_s=LONG_S, into=memoryview(received))
        assert received.tobytes() == values.tobytes()

    play_transport(scenario)


@pytest.mark.parametrize("size", [0, 4, 6, 300_000])
def test_a_body_that_does_not_fill_the_buffer_exactly_is_a_wire_error(play_transport, size):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(answering(Reply(200, bytes(size))))
        with pytest.raises(WireError):
            await client.call(address, Request("GET", SEGMENT), deadline_s=LONG_S, into=memoryview(bytearray(5)))
        exact = memoryview(bytearray(size))
        reply = await client.call(address, Request("GET", SEGMENT), deadline_s=LONG_S, into=exact)  # still in order
        assert reply.status == 200

    play_transport(scenario)


def test_only_a_get_has_a_buffer(play_transport):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(answering(Reply(200, b"hello")))
        with pytest.raises(LocalError, match="GET"):
            await client.call(address, Request("POST", HOP), deadline_s=LONG_S, into=memoryview(bytearray(5)))

    play_transport(scenario)


@pytest.mark.parametrize("path", [GOSSIP, "/v1/probe", "/v1/links", SEGMENT, HOP, "/v1/elsewhere"])
def test_a_request_may_be_as_large_as_its_route_allows(play_transport, path):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(answering(Reply(200, b"taken")))
        size = request_bytes_max("POST", path)
        for body, expected in ((bytes(size), (200, b"taken")), (bytes(size + 1), (413, b"size"))):
            reply = await client.call(address, Request("POST", path, body), deadline_s=LONG_S)
            assert (reply.status, bytes(reply.body)) == expected

    play_transport(scenario)


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("path", [GOSSIP, "/v1/links", SEGMENT, "/v1/elsewhere"])
def test_an_answer_above_the_limit_of_its_route_is_a_wire_error(play_transport, path, status):
    async def scenario(new):
        limit = route(path).reply_bytes_max if status == 200 else ERROR_BYTES_MAX
        for size in (limit, limit + 1):
            server, client = new(), new()
            [address, *_] = await server.serve(answering(Reply(status, bytes(size))))
            call = client.call(address, Request("GET", path), deadline_s=LONG_S)
            if size == limit:
                assert len((await call).body) == size
            else:
                with pytest.raises(WireError):
                    await call

    play_transport(scenario)


def test_another_status_leaves_the_buffer_alone(play_transport):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(answering(Reply(404, b"unknown")))
        buffer = bytearray(b"12345")
        reply = await client.call(address, Request("GET", SEGMENT), deadline_s=LONG_S, into=memoryview(buffer))
        assert (reply.status, bytes(reply.body), buffer) == (404, b"unknown", bytearray(b"12345"))

    play_transport(scenario)


def test_nobody_listening_is_unreachable(play_transport):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(echo)
        await server.close()
        with pytest.raises(Unreachable):
            await client.call(address, Request("GET", "/v1/ping"), deadline_s=LONG_S)

    play_transport(scenario)


@pytest.mark.parametrize("address", ["", "example.org:7000", "10.0.0.1", "10.0.0.1:x", ":7000", "x" * 500])
def test_what_is_no_address_is_unreachable(play_transport, address):
    async def scenario(new):
        with pytest.raises(Unreachable):
            await new().call(address, Request("GET", "/v1/ping"), deadline_s=LONG_S)

    play_transport(scenario)


def test_silence_ends_at_the_deadline_and_the_handler_goes_on(play_transport):
    async def scenario(new):
        server, client, gate = new(), new(), Gate()
        [address, *_] = await server.serve(gate)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await client.call(address, Request("POST", GOSSIP, b"x"), deadline_s=SOON_S)
        assert asyncio.get_running_loop().time() - began_s < LONG_S / 2
        gate.opened.set()
        await gate.left.acquire()
        reply = await client.call(address, Request("POST", GOSSIP, b"y"), deadline_s=LONG_S)
        assert bytes(reply.body) == b"y"

    play_transport(scenario)


def test_a_cancelled_caller_does_not_cancel_the_handler(play_transport):
    async def scenario(new):
        server, client, gate = new(), new(), Gate()
        [address, *_] = await server.serve(gate)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(client.call(address, Request("POST", GOSSIP, b"x"), deadline_s=LONG_S))
            await gate.entered.acquire()
            call.cancel()
        gate.opened.set()
        await gate.left.acquire()

    play_transport(scenario)


def test_calls_run_at_the_same_time_and_keep_their_answers_apart(play_transport):
    async def scenario(new):
        server, client, gate = new(), new(), Gate()
        [address, *_] = await server.serve(gate)

        async def call(i: int) -> None:
            reply = await client.call(address, Request("POST", GOSSIP, b"%d" % i), deadline_s=LONG_S)
            assert bytes(reply.body) == b"%d" % i

        async with asyncio.TaskGroup() as group:
            for i in range(30):
                group.create_task(call(i))
            for _ in range(6):  # six are in the handler before any gets out
                await gate.entered.acquire()
            gate.opened.set()

    play_transport(scenario)


def test_two_may_call_each_other_at_once(play_transport):
    async def scenario(new):
        nodes = [new(), new()]
        addresses = [(await node.serve(echo))[0] for node in nodes]
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(node.call(address, Request("POST", GOSSIP, b"hi"), deadline_s=LONG_S))
                for node, address in zip(nodes, reversed(addresses), strict=True)
            ]
        assert [call.result().status for call in calls] == [200, 200]

    play_transport(scenario)


def test_a_server_that_is_full_says_busy(play_transport):
    async def scenario(new):
        server, gate = new(), Gate()
        clients = [new() for _ in range(9)]
        [address, *_] = await server.serve(gate)
        refused = asyncio.Semaphore(0)

        async def call(client) -> int:
            reply = await client.call(address, Request("POST", GOSSIP, b"x"), deadline_s=LONG_S)
            if reply.status == 503:
                refused.release()
            return reply.status

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(call(client)) for client in clients for _ in range(8)]
            for _ in range(72 - 64):
                await refused.acquire()
            gate.opened.set()
        assert sorted(call.result() for call in calls) == [200] * 64 + [503] * 8

    play_transport(scenario)


def test_a_handler_that_raises_is_answered_500_and_harms_nobody_else(play_transport):
    async def fragile(request: Request) -> Reply:
        if request.body == b"bad":
            raise ValueError("secret")
        return Reply(200, b"fine")

    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(fragile)
        reply = await client.call(address, Request("POST", GOSSIP, b"bad"), deadline_s=LONG_S)
        assert (reply.status, bytes(reply.body)) == (500, b"bug")
        assert (await client.call(address, Request("POST", GOSSIP, b"good"), deadline_s=LONG_S)).status == 200

    play_transport(scenario)


def test_paths_outside_the_protocol_are_a_local_mistake(play_transport):
    async def scenario(new):
        server, client = new(), new()
        [address, *_] = await server.serve(echo)
        with pytest.raises(LocalError):
            await client.call(address, Request("GET", "/"), deadline_s=LONG_S)

    play_transport(scenario)


def test_a_transport_serves_once(play_transport):
    async def scenario(new):
        server = new()
        await server.serve(echo)
        with pytest.raises(LocalError):
            await server.serve(echo)

    play_transport(scenario)


def test_close_is_harmless_twice_and_final(play_transport):
    async def scenario(new):
        server, client, fresh = new(), new(), new()
        [address, *_] = await server.serve(echo)
        for transport in (client, fresh):
            await transport.close()
            await transport.close()
            with pytest.raises(Unreachable):
                await transport.call(address, Request("GET", "/v1/ping"), deadline_s=LONG_S)
            with pytest.raises(LocalError):
                await transport.serve(echo)

    play_transport(scenario)


@pytest.mark.parametrize("closing", ["caller", "server"])
def test_closing_either_end_ends_a_call_in_progress(play_transport, closing):
    async def scenario(new):
        server, client, gate = new(), new(), Gate()
        [address, *_] = await server.serve(gate)

        async def call() -> None:
            with pytest.raises(Unreachable):
                await client.call(address, Request("POST", GOSSIP, b"x"), deadline_s=LONG_S)

        async with asyncio.TaskGroup() as group:
            group.create_task(call())
            await gate.entered.acquire()
            await (client if closing == "caller" else server).close()

    play_transport(scenario)

"""One transport for a device and its shards: who is asked, under which path, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from p2pfusion.errors import LocalError
from p2pfusion.hops.switchboard import NOT_HELD, Switchboard
from p2pfusion.seams import Handler, Reply, Request
from p2pfusion.sim.loop import run


class Wire:
    """A transport that keeps what is called and whom it serves."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.is_closed = False
        self.handler: Handler | None = None

    async def call(self, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None) -> Reply:
        self.calls.append((address, request.path))
        return Reply(200, b"12345")

    async def serve(self, handler: Handler) -> Sequence[str]:
        self.handler = handler
        return ["10.0.0.1:7000"]

    async def close(self) -> None:
        self.is_closed = True


def answering(name: str, seen: list[str]) -> Handler:
    async def handle(request: Request) -> Reply:
        seen.append(f"{name} {request.path}")
        return Reply(200, b"123")

    return handle


def test_calls_for_a_shard_go_to_its_node_without_its_number_and_others_to_the_device() -> None:
    async def main() -> None:
        wire, seen = Wire(), list[str]()
        board = Switchboard(wire)
        assert await board.open(answering("device", seen)) == ("10.0.0.1:7000",)
        assert await board.line(3).serve(answering("three", seen)) == ("10.0.0.1:7000",)
        assert wire.handler is not None
        for path in ("/v1/shards/3/gossip", "/v1/hops/take", "/v1/gossip"):
            assert (await wire.handler(Request("POST", path))).status == 200
        assert seen == ["three /v1/gossip", "device /v1/hops/take", "device /v1/gossip"]

    run(main)


def test_a_shard_that_is_not_held_is_not_found_before_and_after_its_node() -> None:
    async def main() -> None:
        wire, seen = Wire(), list[str]()
        board = Switchboard(wire)
        await board.open(answering("device", seen))
        assert wire.handler is not None
        line, request = board.line(2), Request("GET", "/v1/shards/2/links")
        assert await wire.handler(request) == NOT_HELD
        await line.serve(answering("two", seen))
        assert (await wire.handler(request)).status == 200
        await line.close()
        await line.close()  # harmless
        assert await wire.handler(request) == NOT_HELD
        assert not wire.is_closed
        await line.serve(answering("again", seen))
        assert (await wire.handler(request)).status == 200
        await board.close()
        assert wire.is_closed

    run(main)


def test_one_node_answers_for_a_shard() -> None:
    async def main() -> None:
        board, seen = Switchboard(Wire()), list[str]()
        await board.line(1).serve(answering("one", seen))
        with pytest.raises(LocalError, match="shard 1"):
            await board.line(1).serve(answering("another", seen))

    run(main)


def test_a_nodes_calls_carry_its_shards_number_and_are_not_the_devices_bytes() -> None:
    async def main() -> None:
        wire = Wire()
        board = Switchboard(wire)
        await board.line(5).call("there", Request("POST", "/v1/gossip", b"1234567"), deadline_s=1.0)
        assert wire.calls == [("there", "/v1/shards/5/gossip")]
        assert board.traffic.sent == board.traffic.received == 0
        await board.call("there", Request("POST", "/v1/hops/take", b"1234567"), deadline_s=1.0)
        assert wire.calls[1:] == [("there", "/v1/hops/take")]
        assert (board.traffic.sent, board.traffic.received) == (7, 5)

    run(main)


def test_what_the_device_answers_is_counted_by_its_kind() -> None:
    async def main() -> None:
        wire, seen = Wire(), list[str]()
        board = Switchboard(wire)
        await board.open(answering("device", seen))
        await board.line(1).serve(answering("one", seen))
        assert wire.handler is not None
        await wire.handler(Request("POST", "/v1/hops/forward", b"1234567890"))
        await wire.handler(Request("POST", "/v1/hops/take", b"1234"))
        await wire.handler(Request("POST", "/v1/shards/1/gossip", b"12"))
        assert (board.traffic.payload_received, board.traffic.gossip_received) == (10, 4)
        assert board.traffic.sent == 6

    run(main)

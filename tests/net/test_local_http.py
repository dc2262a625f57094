"""The page for programs on this computer: who gets it, who does not, and what remains of it afterwards."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from p2pfusion.errors import PortError
from p2pfusion.net.local_http import LocalPage

pytestmark = pytest.mark.asyncio


def page(port: int = 0, text: bytes = b"round 1\n") -> LocalPage:
    return LocalPage(port, "/metrics", "text/plain; charset=utf-8", lambda: text)


def port_of(served: LocalPage) -> int:
    return int(served.url.split(":")[2].split("/")[0])


async def ask(served: LocalPage, *headers: str, line: str = "GET /metrics HTTP/1.1") -> tuple[int, bytes, bytes]:
    """Status, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(served))
    said = [header.replace("PORT", str(port_of(served))) for header in headers]
    writer.write("\r\n".join([line, *said, "Connection: close", "", ""]).encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


async def test_the_page_is_made_anew_for_everybody_who_asks() -> None:
    asked: list[int] = []

    def text() -> bytes:
        asked.append(1)
        return b"round %d\n" % len(asked)

    async with LocalPage(0, "/metrics", "text/x; v=1", text) as served:
        assert served.url == f"http://127.0.0.1:{port_of(served)}/metrics"
        for number, host in enumerate(("Host: 127.0.0.1:PORT", "Host: localhost:PORT", "Host: localhost"), 1):
            status, head, body = await ask(served, host, "Sec-Fetch-Site: none")
            assert (status, body) == (200, b"round %d\n" % number)
        assert b"Content-Type: text/x; v=1" in head
        assert b"Cache-Control: no-store" in head
    gc.collect()


@pytest.mark.parametrize(
    ("headers", "line", "status"),
    [
        (("Host: evil.example:PORT",), "GET /metrics HTTP/1.1", 400),
        (("Host: 127.0.0.1:1",), "GET /metrics HTTP/1.1", 400),
        (("Host: 192.168.1.40:PORT",), "GET /metrics HTTP/1.1", 400),
        ((), "GET /metrics HTTP/1.1", 400),
        (("Host: localhost:PORT", "Origin: http://evil.example"), "GET /metrics HTTP/1.1", 400),
        (("Host: localhost:PORT", "Sec-Fetch-Site: cross-site"), "GET /metrics HTTP/1.1", 400),
        (("Host: localhost:PORT", "Sec-Fetch-Site: same-site"), "GET /metrics HTTP/1.1", 400),
        (("Host: localhost:PORT", "Content-Length: 1"), "GET /metrics HTTP/1.1", 400),
        (("Host: localhost:PORT",), "POST /metrics HTTP/1.1", 404),
        (("Host: localhost:PORT",), "GET / HTTP/1.1", 404),
        (("Host: localhost:PORT",), "GET /v1/gossip HTTP/1.1", 404),
        (("Host: localhost:PORT",), "GET /metrics/ HTTP/1.1", 404),
    ],
)
async def test_whoever_should_not_ask_is_refused(headers: tuple[str, ...], line: str, status: int) -> None:
    async with page(text=b"secret") as served:
        got, _, body = await ask(served, *headers, line=line)
        assert got == status
        assert b"secret" not in body
    gc.collect()


async def test_it_listens_on_this_computer_only_and_no_longer_than_asked() -> None:
    async with page() as served:
        port = port_of(served)
        assert served._listener is not None
        assert [bound.getsockname()[0] for bound in served._listener.sockets] == ["127.0.0.1"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_said_with_the_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortError, match=f"127.0.0.1:{port}: another program uses that port; 0 picks a free port"):
            async with page(port):
                pass

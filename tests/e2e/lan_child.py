"""One host of `test_namespaces`: serves, announces, finds the others, calls each, and says so in JSON lines.

    python lan_child.py TAG EXPECTED

Starts at the first line on stdin and leaves, with a goodbye, at the end of it.
"""

import asyncio
import json
import sys

from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
from p2pfusion.seams import Reply, Request


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


async def line() -> str:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, sys.stdin.readline)


async def main(tag: str, expected: int) -> None:
    transport, discovery = HttpTransport(), MdnsDiscovery()
    say(event="ready")
    await line()
    loop = asyncio.get_running_loop()
    begin = loop.time()

    async def handler(request: Request) -> Reply:
        return Reply(200, json.dumps(list(addresses)).encode(), [request.body])

    addresses = await transport.serve(handler)
    say(event="serving", addresses=addresses)
    await discovery.announce(tag, addresses)
    met: dict[str, float] = {}
    async for found in discovery.found(tag):
        reply = await transport.call(found[0], Request("POST", "/v1/gossip", b" hello"), deadline_s=5)
        assert bytes(reply.body) == json.dumps(list(found)).encode() + b" hello", reply
        met.setdefault(found[0], round(loop.time() - begin, 3))
        if len(met) == expected:
            break
    say(event="met", others=met)
    await line()
    await discovery.close()
    await transport.close()
    say(event="left")


asyncio.run(main(sys.argv[1], int(sys.argv[2])))

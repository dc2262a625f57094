"""How fast is the simulator? Calls a second of real time, on one core, for a swarm whose nodes only ping.

    python bench/sim_loop.py [--nodes 64] [--calls 200] [--loss 0.02] [--repeats 3]

A call is two packets (request and reply), one handler task and four timers. Prints the best of the repeats by processor
time, which a busy machine changes less than the clock, and the virtual time covered, as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import random
import time

from p2pfusion.errors import DeadlineExceeded
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport

ANSWER = Reply(200, bytes(200))


async def answer(request: Request) -> Reply:
    return ANSWER


async def pinging(transport: SimTransport, addresses: list[str], calls: int, rng: random.Random) -> None:
    for _ in range(calls):
        with contextlib.suppress(DeadlineExceeded):
            await transport.call(rng.choice(addresses), Request("POST", "/v1/gossip", bytes(200)), deadline_s=1.0)


async def swarm(nodes: int, calls: int, loss: float) -> float:
    """Virtual seconds it took."""
    rng = random.Random(0)
    async with Network(random.Random(1), LinkModel(loss=loss)) as network:
        transports = [SimTransport(network, number) for number in range(1, nodes + 1)]
        addresses = [(await transport.serve(answer))[0] for transport in transports]
        async with asyncio.TaskGroup() as group:
            for transport in transports:
                group.create_task(pinging(transport, addresses, calls, random.Random(rng.random())))
    return asyncio.get_running_loop().time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--calls", type=int, default=200, help="of each node")
    parser.add_argument("--loss", type=float, default=0.02)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    taken_s, virtual_s = float("inf"), 0.0
    for _ in range(options.repeats):
        began_s = time.process_time()
        virtual_s = run(swarm(options.nodes, options.calls, options.loss))
        taken_s = min(taken_s, time.process_time() - began_s)
    calls = options.nodes * options.calls
    result = {
        "nodes": options.nodes,
        "calls": calls,
        "loss": options.loss,
        "cpu_s": round(taken_s, 3),
        "virtual_s": round(virtual_s, 2),
        "calls_per_s": round(calls / taken_s),
        "packets_per_s": round(2 * calls / taken_s),
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

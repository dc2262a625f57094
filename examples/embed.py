"""A node inside your own asyncio program: ten lines. Run it in two terminals and watch them meet.

    python examples/embed.py            trains until Ctrl-C
    python examples/embed.py 20         trains 20 rounds

`rounds()` ends when the node is done; leaving the block says goodbye and closes everything.
"""

from __future__ import annotations

import asyncio
import sys

from p2pfusion import lan_node
from p2pfusion.zoo.tasks import digits_task


async def main(rounds: int | None) -> None:
    async with lan_node(digits_task(), swarm="embedded", until_rounds=rounds) as node:
        async for report in node.rounds():
            print(f"round {report.round}: loss {report.loss:.3f}, heard {report.heard}, accuracy {report.accuracy}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))

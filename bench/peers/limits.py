"""What no system can beat here: one TCP stream over loopback, and one copy in memory, of the same vector.

    python -m bench.peers.limits --rank 0 --elements 10000000 --port 40000

Two processes, started by `bench.averaging`. Setting `stream`: rank 1 sends the vector through one connection and rank 0
receives it into a buffer that is there. Setting `memcpy`: rank 0 copies it. An exchange among K needs more than this.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.peers import problem
from bench.peers.talk import Answer, Line, now_s, wait_until

BUFFER_BYTES = 1 << 20


class End:
    """One end of the connection."""

    def __init__(self, options: argparse.Namespace, stream: socket.socket) -> None:
        self._is_receiver = options.rank == 0
        self._stream = stream
        self._values = problem.start(options.elements, 0, 1)
        self._received = np.ones_like(self._values) if self._is_receiver else self._values
        self._setting = ""

    def prepare(self, order: Mapping[str, Any]) -> Answer:
        self._setting = order["setting"]
        return {"checksum": problem.checksum(self._values)}

    def go(self, order: Mapping[str, Any]) -> Answer:
        wait_until(order["at_s"])
        if self._setting == "memcpy":
            if self._is_receiver:
                np.copyto(self._received, self._values)
        elif self._is_receiver:
            left = memoryview(self._received).cast("B")
            while left:
                left = left[self._stream.recv_into(left) :]
        else:
            self._stream.sendall(memoryview(self._values).cast("B"))
        return {"done_s": now_s()}

    def verify(self, order: Mapping[str, Any]) -> Answer:
        wrong = float(not np.array_equal(self._received, self._values))
        return {"model": str(problem.checksum(self._received)), "error": wrong}


def connect(rank: int, port: int) -> socket.socket:
    """Rank 0 listens, rank 1 calls."""
    if rank == 0:
        with socket.create_server(("127.0.0.1", port)) as server:
            return server.accept()[0]
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rank", "elements", "port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    line = Line()
    with connect(options.rank, options.port) as stream:
        for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream.setsockopt(socket.SOL_SOCKET, side, BUFFER_BYTES)
        end = End(options, stream)
        line.say({"ready": True, "versions": {"numpy": np.__version__}})
        line.serve({"prepare": end.prepare, "go": end.go, "verify": end.verify})


if __name__ == "__main__":
    main()

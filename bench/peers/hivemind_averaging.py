"""How fast does hivemind's averager reach the same mean? One peer with its own DHT node and one averager per setting.

    python -m bench.peers.hivemind_averaging --rank 1 --peers 4 --elements 10000000 --seed 0 --first MULTIADDRESS

Started by `bench.averaging` in hivemind's own environment. A setting is `COMPRESSION/MATCHMAKING`, such as `none/0.5`:
compression none, float16, uniform8 or blockwise8, then `min_matchmaking_time` in seconds (the library's default is 5).
Reported beside the whole step: the seconds of the all-reduce alone, measured inside the averager's own process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import hivemind
import torch
from hivemind import compression as codecs
from hivemind.averaging import DecentralizedAverager

from bench.peers import problem
from bench.peers.talk import Answer, Line, now_s, wait_until

CODECS = {
    "none": codecs.NoCompression,
    "float16": codecs.Float16Compression,
    "uniform8": codecs.Uniform8BitQuantization,
    "blockwise8": codecs.BlockwiseQuantization,
}
REQUEST_SHARE = 0.8
"""A request to a leader must time out before the matchmaking does (hivemind's own rule; its default is 3 of 5 s)."""
STEP_S_MAX = 120.0


class TimedAverager(DecentralizedAverager):
    """An averager that notes how long the all-reduce itself took, in its background process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.allreduce_s = multiprocessing.Value("d", float("nan"))
        super().__init__(*args, **kwargs)

    async def _run_allreduce_inplace_(self, *args: Any, **kwargs: Any) -> Any:
        begin_s = time.monotonic()
        result = await super()._run_allreduce_inplace_(*args, **kwargs)
        self.allreduce_s.value = time.monotonic() - begin_s
        return result


class Peer:
    """One hivemind peer."""

    def __init__(self, options: argparse.Namespace, dht: hivemind.DHT) -> None:
        self._options = options
        self._dht = dht
        self._start = torch.from_numpy(problem.start(options.elements, options.seed, options.rank))
        self._averagers: dict[str, TimedAverager] = {}
        self._current: TimedAverager | None = None

    def open(self, order: Mapping[str, Any]) -> Answer:
        """Start the averager of a setting, which takes a while, so that no start is measured."""
        codec, matchmaking = order["setting"].split("/")
        seconds = float(matchmaking)
        CODECS[codec]().compress(torch.zeros(1 << 16), None)  # what a codec imports on first use is not measured
        self._averagers[order["setting"]] = TimedAverager(
            [self._start.clone()],
            self._dht,
            start=True,
            prefix=f"p{self._options.peers}-{codec}-{round(1000 * seconds)}ms",
            target_group_size=self._options.peers,
            min_group_size=self._options.peers,
            min_matchmaking_time=seconds,
            request_timeout=REQUEST_SHARE * seconds,
            compression=CODECS[codec](),
            allow_state_sharing=False,
        )
        return {}

    def loop(self, order: Mapping[str, Any]) -> Answer:
        """So many steps one behind the other: the moments after each, and how many of them failed."""
        averager = self._averagers[order["setting"]]
        moments, failed = [], 0
        wait_until(order["at_s"])
        for _ in range(order["rounds"]):
            try:
                failed += len(averager.step(timeout=STEP_S_MAX, allow_retries=True) or ()) != self._options.peers
            except (RuntimeError, TimeoutError) as error:
                print(error, file=sys.stderr)
                failed += 1
            moments.append(now_s())
        return {"moments": moments, "failed": failed}

    def prepare(self, order: Mapping[str, Any]) -> Answer:
        """Put the known vector back: the same problem each time."""
        self._current = self._averagers[order["setting"]]
        with self._current.get_tensors() as tensors:
            tensors[0].copy_(self._start)
            return {"checksum": problem.checksum(tensors[0].numpy())}

    def go(self, order: Mapping[str, Any]) -> Answer:
        averager = self._chosen()
        averager.allreduce_s.value = float("nan")
        wait_until(order["at_s"])
        gathered = averager.step(timeout=STEP_S_MAX, allow_retries=True)
        done_s = now_s()
        return {"done_s": done_s, "counted": len(gathered or ()), "allreduce_s": averager.allreduce_s.value}

    def verify(self, order: Mapping[str, Any]) -> Answer:
        with self._chosen().get_tensors() as tensors:
            values = tensors[0].numpy().copy()
        answer: Answer = {"model": str(problem.checksum(values))}
        if order["is_full"]:
            expected = problem.exact_mean(self._options.elements, self._options.seed, self._options.peers)
            answer["error"] = problem.error(values, expected)
        else:
            answer["error"] = problem.sample_error(values, self._options.seed, self._options.peers)
        return answer

    def _chosen(self) -> TimedAverager:
        if self._current is None:
            raise RuntimeError("prepare comes first")
        return self._current

    def close(self) -> None:
        for averager in self._averagers.values():
            averager.shutdown()
        self._dht.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rank", "peers", "elements", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--first", help="multiaddress of the first peer's DHT node")
    options = parser.parse_args()
    line = Line()
    torch.set_num_threads(1)
    dht = hivemind.DHT(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=[options.first] if options.first else [], start=True
    )
    peer = Peer(options, dht)
    versions = {name: version(name) for name in ("hivemind", "torch", "numpy")}
    address = next(str(maddr) for maddr in dht.get_visible_maddrs() if "/127.0.0.1/" in str(maddr))
    line.say({"ready": True, "address": address, "versions": versions})
    deeds = {"open": peer.open, "loop": peer.loop, "prepare": peer.prepare, "go": peer.go, "verify": peer.verify}
    line.serve(deeds)
    peer.close()


if __name__ == "__main__":
    main()

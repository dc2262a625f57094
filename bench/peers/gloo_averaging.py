"""How fast is the same mean with an all-reduce that assumes nothing ever fails? One rank of torch.distributed gloo.

    python -m bench.peers.gloo_averaging --rank 0 --peers 4 --elements 10000000 --seed 0 --port 40000

The near-limit reference of `bench.averaging`, which starts it: `peers` processes on loopback, one all-reduce of a
float32 vector and a division. It tolerates no loss, no newcomer and no second model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from bench.peers import problem
from bench.peers.talk import Answer, Line, now_s, wait_until


class Rank:
    """One rank with its vector."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._values = torch.from_numpy(problem.start(options.elements, options.seed, options.rank))
        self._start = self._values.clone()

    def prepare(self, order: Mapping[str, Any]) -> Answer:
        self._values.copy_(self._start)
        return {"checksum": problem.checksum(self._values.numpy())}

    def go(self, order: Mapping[str, Any]) -> Answer:
        wait_until(order["at_s"])
        dist.all_reduce(self._values)
        self._values.div_(self._options.peers)
        return {"done_s": now_s()}

    def verify(self, order: Mapping[str, Any]) -> Answer:
        answer: Answer = {"model": str(problem.checksum(self._values.numpy()))}
        if order["is_full"]:
            expected = problem.exact_mean(self._options.elements, self._options.seed, self._options.peers)
            answer["error"] = problem.error(self._values.numpy(), expected)
        else:
            answer["error"] = problem.sample_error(self._values.numpy(), self._options.seed, self._options.peers)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("rank", "peers", "elements", "seed", "port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    line = Line()
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{options.port}"
    dist.init_process_group("gloo", init_method=address, rank=options.rank, world_size=options.peers)
    rank = Rank(options)
    line.say({"ready": True, "versions": {"torch": torch.__version__}})
    line.serve({"prepare": rank.prepare, "go": rank.go, "verify": rank.verify})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""What sparse gradients do to learning in a chain: `python -m bench.chains.sparse`. No network, no rounds, one owner.

A residual CNN in four stages on Fashion-MNIST; gradients between stages whole, a tenth of them, and a tenth with the
rest added to the next (error feedback), as `hops.feedback` does it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import torch

from bench.chains.run import RESULTS
from bench.datasets import Images, images
from p2pfusion.core.data import as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import correct, cross_entropy
from p2pfusion.core.splitting import Copy, Ends
from p2pfusion.core.stages import held
from p2pfusion.core.submodel import extract
from p2pfusion.core.training import Recipe, Sgd
from p2pfusion.hops.feedback import CODEC, Feedback
from p2pfusion.wire import tensors
from p2pfusion.zoo.blueprints import residual_cnn

TRAINED, TESTED, STEPS, SEEDS = 6_000, 2_000, 300, 3
NETWORK = residual_cnn(1, (16, 32, 64), 10, blocks_per_stage=1, stem_stride=2)
Way = Callable[[torch.Tensor, int], torch.Tensor]
"""A gradient and the place it leaves -> what arrives."""


def whole(gradient: torch.Tensor, place: int) -> torch.Tensor:
    return gradient


def sparse(gradient: torch.Tensor, place: int) -> torch.Tensor:
    return _arrived(gradient, tensors.encode(CODEC, np.ascontiguousarray(gradient.numpy())))


def feeding_back() -> Way:
    feedback = Feedback()

    def way(gradient: torch.Tensor, place: int) -> torch.Tensor:
        return _arrived(gradient, feedback.encode(b"", place, 0, gradient.numpy()))

    return way


def _arrived(gradient: torch.Tensor, payload: bytes) -> torch.Tensor:
    return torch.from_numpy(tensors.decode(CODEC, payload, tuple(gradient.shape)))


WAYS: dict[str, Callable[[], Way]] = {
    "whole": lambda: whole,
    "a tenth": lambda: sparse,
    "a tenth, with feedback": feeding_back,
}


def accuracy(way: Way, seed: int) -> float:
    """Of test images after `STEPS` batches."""
    found = images("fashion", shards=1)
    x, y = map(torch.from_numpy, found.train.fetch(range(TRAINED)))
    first, *middle, last = NETWORK.blocks
    half = len(middle) // 2
    recipe = Recipe(loss=cross_entropy, optimizer=lambda given: Sgd(given, lr=0.05, momentum=0.9), steps=STEPS)
    values = genesis(NETWORK, seed)
    ends = Ends(NETWORK, [first], [last], extract(NETWORK, values, held(NETWORK, [[first], [last]])), recipe)
    relays = [
        Copy(NETWORK, run, extract(NETWORK, values, held(NETWORK, [run])), recipe)
        for run in (middle[:half], middle[half:])
    ]
    batches = as_data((x, y), 32, "train").batches(random.Random(seed))
    for _ in range(STEPS):
        _step(ends, relays, next(batches), way)
    return _tested(ends, relays, found)


def _step(ends: Ends, relays: Sequence[Copy], batch: tuple[torch.Tensor, torch.Tensor], way: Way) -> None:
    sent = ends.begin(batch[0])
    for relay in relays:
        sent = relay.forward(sent)
    _, gradient = ends.finish(sent, batch[1])
    back = way(gradient, len(relays))
    for place in reversed(range(len(relays))):
        back = way(relays[place].backward(back), place)
        relays[place].step()
    ends.end(back)


def _tested(ends: Ends, relays: Sequence[Copy], found: Images) -> float:
    right, size = 0, 250
    for start in range(0, TESTED, size):
        x, y = map(torch.from_numpy, found.test.fetch(range(start, start + size)))
        sent = ends.evaluate_first(x)
        for relay in relays:
            sent = relay.evaluate(sent)
        right += correct(ends.evaluate_last(sent), y)
    return right / TESTED


def main() -> int:
    torch.set_num_threads(1)
    for name, made in WAYS.items():
        found = [accuracy(made(), seed) for seed in range(SEEDS)]
        line = {"bench": "sparse", "gradients": name, "accuracy": round(fmean(found), 4), "each": found}
        with RESULTS.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

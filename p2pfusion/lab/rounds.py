"""Synchronous rounds of several nodes in this process, without a network: the instrument for comparing schemes.

The same algorithms that a node runs, the same fold; what is left out is everything that takes time. Nobody is late,
nothing is lost, all take every step. With `reach` "all" there is one model, as in a swarm; "ring" and "none" give every
node a model of its own, which only its neighbours' contributions, or none, reach: the papers' baselines.

It knows neither what is learnt nor how slices are chosen, and measures no time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from p2pfusion.algorithms.base import Algorithm, Vector
from p2pfusion.algorithms.presets import Reach
from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, extract

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contributed:
    """What one node gave in one round."""

    sub_model: SubModel
    delta: Vector
    samples: int
    loss: float
    worth: float = 1.0

    @property
    def weight(self) -> int:
        """As a manifest would have it, of a node that weighs by samples."""
        return min(max(round(65536.0 * self.samples * self.worth), 1), WEIGHT_MAX)


@dataclass(frozen=True, slots=True)
class Played:
    """One round: the models after it, one for all or one by node, and what each node gave."""

    round: int
    models: tuple[Vector, ...]
    contributed: tuple[Contributed, ...]


class Player:
    """One node's `RoundContext`, round after round."""

    def __init__(self, algorithm: Algorithm, rng: random.Random) -> None:
        self.model = algorithm.genesis
        self.contributed: Contributed | None = None
        self.rng = rng
        self._algorithm = algorithm
        self._seat: Seat | None = None

    @property
    def seat(self) -> Seat:
        assert self._seat is not None
        return self._seat

    @property
    def round(self) -> int:
        return self.seat.round

    def steps(self, wanted: int) -> int:
        return wanted

    async def extract(self, sub_model: SubModel) -> Vector:
        return extract(self._algorithm.blueprint, self.model, sub_model)

    async def compute(self, work: Callable[[], T], cost_s: float) -> T:
        return work()

    async def newer(self, sub_model: SubModel) -> Vector | None:
        return None

    async def contribute(
        self,
        sub_model: SubModel,
        delta: Vector,
        samples: int,
        loss: float,
        worth: float = 1.0,
        trained: SubModel | None = None,
    ) -> None:
        self.contributed = Contributed(sub_model, delta, samples, loss, worth)

    def should_stop(self) -> bool:
        return False

    def play(self, seat: Seat) -> Contributed:
        """One round. Raises `TrainingError`, `ValueError` when nothing was contributed."""
        self._seat, self.contributed = seat, None
        _finish(self._algorithm.round(self))
        if self.contributed is None:
            raise ValueError(f"round {seat.round}: the algorithm contributed nothing")
        return self.contributed


def rounds(algorithms: Sequence[Algorithm], rates: Sequence[float], reach: Reach, seed: int = 0) -> Iterator[Played]:
    """Round after round, without end; node i has rate `rates[i]`. `seed`: of what schemes draw."""
    players = [Player(algorithm, random.Random(f"{seed} {rank}")) for rank, algorithm in enumerate(algorithms)]
    index = 0
    while True:
        seats = [Seat(rank=rank, peers=len(players), round=index, rates=tuple(rates)) for rank in range(len(players))]
        given = tuple(player.play(seat) for player, seat in zip(players, seats, strict=True))
        models = _models(algorithms[0], players, given, reach)
        for player, model in zip(players, models * len(players) if reach == "all" else models, strict=True):
            player.model = model
        yield Played(index, models, given)
        index += 1


def neighbours(rank: int, peers: int, reach: Reach) -> tuple[int, ...]:
    """Whose contributions reach that node, its own among them, ascending."""
    if reach == "all":
        return tuple(range(peers))
    return tuple(sorted({rank, *((rank + step) % peers for step in (-1, 1) if reach == "ring")}))


def _models(
    algorithm: Algorithm, players: Sequence[Player], given: Sequence[Contributed], reach: Reach
) -> tuple[Vector, ...]:
    """Averages on what overlaps, of values (PAPERS.md 1.5): every node's are its own model's plus what it gave."""
    blueprint, whole = algorithm.blueprint, algorithm.blueprint.whole()
    models = []
    for rank in range(1 if reach == "all" else len(players)):
        mine, counted = players[rank].model, []
        for other in neighbours(rank, len(players), reach):
            one, delta = given[other], given[other].delta
            if players[other].model is not mine:
                apart = players[other].model - mine
                delta = delta + extract(blueprint, apart, one.sub_model)
            counted.append(Weighted(other.to_bytes(16, "big"), one.weight, one.sub_model, delta))
        models.append(fold(blueprint, whole, mine, counted))
    return tuple(models)


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it to its end; nothing in it ever waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise ValueError("the algorithm waits for something that does not exist here")

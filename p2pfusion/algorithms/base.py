"""What an algorithm is, all that a round may do, and what is reported of it.

An algorithm is one coroutine over `RoundContext`. The node makes the context; it knows no algorithm. Everything a round
can decide comes from `round, seat, rng`; everything it can cause goes through `extract`, `compute` and `contribute`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel
from p2pfusion.wire.routes import Kind

Direction = Literal["sent", "received"]
DIRECTIONS: tuple[Direction, ...] = ("sent", "received")

T = TypeVar("T")
Vector = npt.NDArray[np.float32]

WHOLE = "100%"
"""Name of the whole model, where networks in it have names."""


def width_name(rate: float) -> str:
    """`25%`: of the network that keeps that share of every axis."""
    return f"{100 * rate:.4g}%"


@dataclass(frozen=True, slots=True)
class Product:
    """What comes out of a run: the networks in its model, by name, smallest first; none: only the whole model.

    They may leave out what only training needs. `origin`: how they were made, as names and values for people.
    """

    networks: Mapping[str, SubModel] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def fallback(self) -> str | None:
        """Which to take when none was measured: of several widths or exits the first, which alone everybody trains;
        of networks side by side all of them; None: the whole model.
        """
        if not self.networks:
            return None
        names = list(self.networks)
        narrowest, widest = self.networks[names[0]], self.networks[names[-1]]
        is_side_by_side = frozenset(narrowest.blocks) < frozenset(widest.blocks)
        return names[-1] if is_side_by_side else names[0]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What validation data say of a model: the accuracy (0..1) of the network to use, which it is, and of all others.

    `widths`: by the names of `Product.networks`, empty where there is only the whole model; then `served` is None.
    """

    accuracy: float
    widths: Mapping[str, float] = field(default_factory=dict)
    served: str | None = None

    @classmethod
    def of(cls, widths: Mapping[str, float]) -> Self:
        """The best is to be used, the narrowest of equals. Raises `ValueError` without any."""
        served = max(widths, key=widths.__getitem__)
        return cls(widths[served], dict(widths), served)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of bodies by kind (`wire.routes.Kind`) and direction, and calls: mine (`sent`), others' (`received`).

    Bodies only: what HTTP and TCP add to each is not counted.
    """

    payload_sent: int = 0
    header_sent: int = 0
    gossip_sent: int = 0
    payload_received: int = 0
    header_received: int = 0
    gossip_received: int = 0
    calls_sent: int = 0
    calls_received: int = 0

    @property
    def sent(self) -> int:
        """All bytes that went out."""
        return self.payload_sent + self.header_sent + self.gossip_sent

    @property
    def received(self) -> int:
        """All bytes that came in."""
        return self.payload_received + self.header_received + self.gossip_received

    def bytes_of(self, direction: Direction, kind: Kind) -> int:
        """One of the six."""
        return int(getattr(self, f"{kind}_{direction}"))

    def __add__(self, other: Self) -> Self:
        return type(self)(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    def __sub__(self, other: Self) -> Self:
        return type(self)(**{item.name: getattr(self, item.name) - getattr(other, item.name) for item in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """One finished round, as its node saw it. Dashboards, logs and CSV read only this.

    `share` is the share of parameters trained in `steps` local steps (0: not counted), `loss` the mean loss of it,
    `heard`/`missing` how many expected contributions (mine included) were complete or not when the round was left,
    `late` those that came to sealed rounds since the last report. `coverage` is the share of parameters that somebody
    trained in this round, `covered` in any round that I have reported since I started, `covered_units` and
    `covered_pairs` the same of units and of pairs of units (`core.coverage.Covered`). `bytes_sent`, `bytes_received`
    and their split `traffic` are since the last report too. `head` identifies sealed model plus open rounds; `accuracy`
    is the last one measured, and `widths` are those of all networks in the model, where it holds several.
    """

    round: int
    sub_model: SubModel
    share: float
    loss: float
    heard: int
    missing: int
    late: int
    coverage: float
    patience_s: float
    bytes_sent: int
    bytes_received: int
    head: str
    tip_round: int
    model_hash: str
    peers: int
    accuracy: float | None = None
    steps: int = 0
    covered: float = 0.0
    covered_units: float = 0.0
    covered_pairs: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    traffic: Traffic = Traffic()
    widths: Mapping[str, float] = field(default_factory=dict)

    @property
    def utilisation(self) -> float:
        """Share of the round's time that this node trained, 0..1; the mean over nodes is the run's (PAPERS.md 2.6)."""
        all_s = sum(self.seconds.values())
        return self.seconds.get("train", 0.0) / all_s if all_s else 0.0


@dataclass(frozen=True, slots=True)
class Published:
    """What the algorithm handed over in this round; `steps` is 0 when it never asked how many there are."""

    sub_model: SubModel
    loss: float
    samples: int
    steps: int = 0


class RoundContext(Protocol):
    """All a round may do."""

    @property
    def round(self) -> int:
        """Index this round is planned for; it may be published to a newer one when the swarm moved on meanwhile."""
        ...

    @property
    def seat(self) -> Seat:
        """My place among those who train."""
        ...

    @property
    def rng(self) -> random.Random:
        """Randomness of this node."""
        ...

    def steps(self, wanted: int) -> int:
        """How many of the `wanted` local steps this round has time for, 1 to `wanted`; the same however often asked.

        Whoever takes them all the same is only late more often.
        """
        ...

    async def extract(self, sub_model: SubModel) -> Vector:
        """The slice of the head to train from: flat float32 in the sub-model's order."""
        ...

    async def compute(self, work: Callable[[], T], cost_s: float) -> T:
        """Run `work` in the executor; `cost_s` is its virtual time in a simulation."""
        ...

    async def newer(self, sub_model: SubModel) -> Vector | None:
        """That slice of the head as it is now, where the swarm has gone on to a newer round since this one began.

        None: it has not. What is contributed is based on what `extract` gave all the same.
        """
        ...

    async def contribute(
        self,
        sub_model: SubModel,
        delta: Vector,
        samples: int,
        loss: float,
        worth: float = 1.0,
        trained: SubModel | None = None,
    ) -> None:
        """Publish what changed; at most once in a round. `worth`: what it weighs beside one that counts evenly.

        `trained`: what of it is told in reports; None: all.
        """
        ...

    def should_stop(self) -> bool:
        """Safe to ask from the executor: the node is leaving, give up early."""
        ...


class Algorithm(Protocol):
    """One way to spend a round."""

    @property
    def blueprint(self) -> Blueprint: ...

    @property
    def genesis(self) -> Vector:
        """The model everybody starts from."""
        ...

    @property
    def product(self) -> Product:
        """What may be taken out of the model; the same for the whole run."""
        ...

    async def round(self, ctx: RoundContext) -> None:
        """Do one round: plan, extract, compute, contribute. Raises `TrainingError`."""
        ...

    def evaluate(self, model: Vector) -> Evaluation | None:
        """How good the networks in the model are on validation data (executor), or None without such data."""
        ...

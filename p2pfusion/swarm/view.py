"""The members as one node sees them: plain values for whoever asks. `swarm.membership` finds out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from p2pfusion.wire.messages import PeerId, Role

Status = Literal["alive", "suspect", "dead", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A member as I see it. `address` is where it said it can be reached (several: in order of preference)."""

    id: PeerId
    name: str
    addresses: tuple[str, ...]
    incarnation: int
    status: Status
    role: Role


@dataclass(frozen=True, slots=True)
class View:
    """Who takes part, frozen at one moment: `peers` are the live members besides me, sorted by id."""

    me: PeerId
    peers: tuple[Peer, ...]
    at_s: float

    def others(self) -> tuple[PeerId, ...]:
        """Ids of those besides me who train and are not suspect, sorted."""
        return tuple(p.id for p in self.peers if p.role == "trains" and p.status == "alive")

    def trainers(self) -> tuple[PeerId, ...]:
        """Ids of everybody who trains and is not suspect, me included, sorted."""
        return tuple(sorted([self.me, *self.others()]))


@dataclass(frozen=True, slots=True)
class Change:
    """A member changed its status; `before` is None for one never heard of."""

    peer: PeerId
    name: str
    status: Status
    before: Status | None = field(default=None, compare=False)

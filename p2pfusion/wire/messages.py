"""What peers say to each other, as frozen values. Fields only; `codec` turns them into bytes and back.

Identifiers, hashes and chains are raw `bytes` here (16 bytes for a peer, 32 for everything BLAKE3 gives) and hex only
where a person reads them. Nothing in this module decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from p2pfusion.core.submodel import SubModel

PeerId = bytes
ContributionId = bytes
Role = Literal["trains", "syncing", "draining", "observes"]
ROLES: tuple[Role, ...] = ("trains", "syncing", "draining", "observes")
FLOOR_NEVER = 2**53 - 1
"""The floor of a node that publishes no more: the largest integer the wire carries."""


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of a contribution or snapshot: BLAKE3 of its encoded bytes, and how many they are."""

    hash: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """The manifest of one peer's work in one round (PROTOCOL.md 2). Its id is the hash of its canonical encoding."""

    shard: int
    round: int
    peer: PeerId
    kind: Literal["work", "graft"]
    base_round: int
    base_chain: bytes
    weight: int
    samples: int
    sub_model: SubModel
    codec: str
    segments: tuple[SegmentInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A sealed round: `chain = H(previous chain || sorted ids)`, `weight` cumulative since genesis, `ids` sorted."""

    round: int
    chain: bytes
    weight: int
    ids: tuple[ContributionId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What a member holds of one shard: its tip, the newest round it knows, its promise, its open rounds."""

    shard: int
    tip_round: int
    tip_chain: bytes
    tip_weight: int
    newest: int
    floor: int
    model_hash: bytes
    digests: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A member's own line, numbered by (incarnation, beat); relayed by anyone, the newest wins (PROTOCOL.md 7)."""

    peer: PeerId
    name: str
    addresses: tuple[str, ...]
    incarnation: int
    beat: int
    role: Role
    owes_graft: bool
    stop: int | None
    shards: tuple[ShardReport, ...]


@dataclass(frozen=True, slots=True)
class Rumour:
    """News about a member: it has left. (SWIM's suspect and alive come with the churn issue.)"""

    peer: PeerId
    incarnation: int
    status: Literal["left"]


@dataclass(frozen=True, slots=True)
class Have:
    """`bits[i]` of the bitmap (least significant first) says whether the sender holds segment i."""

    id: ContributionId
    bitmap: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gossip:
    """Body of `POST /v1/gossip`, both ways.

    `fresh` are manifests to be passed on at once; `inline` carries whole small contributions as (id, segments).
    """

    run_id: bytes
    sender: PeerId
    reports: tuple[Report, ...] = ()
    rumours: tuple[Rumour, ...] = ()
    have: tuple[Have, ...] = ()
    fresh: tuple[Contribution, ...] = ()
    inline: tuple[tuple[ContributionId, tuple[bytes, ...]], ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Manifest of a sealed model: where it stands in the chain and its segments, raw float32 in blueprint order."""

    run_id: bytes
    round: int
    chain: bytes
    weight: int
    segments: tuple[SegmentInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescription:
    """What makes two runs the same; the body of a 409, so that the refused side can name the first difference."""

    settings: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]
    sender: PeerId
    members: int
    newest: int

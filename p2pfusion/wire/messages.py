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
GraftKey = tuple[bytes, bytes]
Role = Literal["trains", "syncing", "draining", "observes"]
ROLES: tuple[Role, ...] = ("trains", "syncing", "draining", "observes")
COUNT_MAX = 2**53 - 1
"""The largest integer the wire carries; weights of chains stop there."""
FLOOR_NEVER = COUNT_MAX
"""The floor of a node that publishes no more: the largest integer the wire carries."""


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of a contribution or snapshot: BLAKE3 of its encoded bytes, and how many they are."""

    hash: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """What a graft says besides: which fork it heals and what it stands for (PROTOCOL.md 5).

    Its key is (`fork_chain`, `lost_chain`): the chain at the fork and the first losing chain. `length` is the losing
    tip's round; the weights are those of both sides since the fork; `covers` counts the ids it stands for, which are
    its last segments; `after` is how many grafts the winner's chain had counted when this one was computed.
    """

    fork_chain: bytes
    lost_chain: bytes
    length: int
    weight_lost: int
    weight_kept: int
    covers: int
    after: int

    @property
    def key(self) -> GraftKey:
        return self.fork_chain, self.lost_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """The manifest of one peer's work in one round (PROTOCOL.md 2). Its id is the hash of its canonical encoding.

    `graft` is there exactly when `kind` is "graft"; `weight` is 1 then, for a graft is no member of the mean.
    """

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
    graft: Graft | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A sealed round: `chain = H(previous chain || sorted ids)`, `weight` cumulative since genesis, `ids` sorted.

    `graft` is the one id among them that counted as a graft.
    """

    round: int
    chain: bytes
    weight: int
    ids: tuple[ContributionId, ...]
    graft: ContributionId | None = None


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
    """News about a member at an incarnation: `accuser` suspects it or saw it dead, or it said itself that it leaves.

    What refutes a suspicion is the accused's own report with a higher incarnation.
    """

    peer: PeerId
    incarnation: int
    status: Literal["suspect", "dead", "left"]
    accuser: PeerId


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
class Counted:
    """A graft that a chain has counted: its key, the round it was sealed in, and how many ids it stands for."""

    round: int
    fork_chain: bytes
    lost_chain: bytes
    covers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Manifest of a sealed model: where it stands in the chain and its segments, raw float32 in blueprint order.

    `grafts` are the last ones its chain counted, of `grafts_total`; the ids they stand for, in their order, are the
    last segments.
    """

    run_id: bytes
    round: int
    chain: bytes
    weight: int
    segments: tuple[SegmentInfo, ...]
    grafts_total: int = 0
    grafts: tuple[Counted, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescription:
    """What makes two runs the same; the body of a 409, so that the refused side can name the first difference."""

    settings: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]
    sender: PeerId
    members: int
    newest: int

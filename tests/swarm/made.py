"""Peers, contributions, reports and ledgers made by hand, for tests of the step machines and of the node's parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from p2pfusion.config import RunConfig
from p2pfusion.core.submodel import SubModel
from p2pfusion.swarm.ledger import Entry, Ledger, MemberLine
from p2pfusion.wire.codec import contribution_id, genesis_chain, next_chain
from p2pfusion.wire.messages import Contribution, ContributionId, Link, PeerId, Report, Role, SegmentInfo, ShardReport

GENESIS = genesis_chain(b"a run")
RUN = RunConfig()
FULL = SubModel(("all",))


def peer(number: int) -> PeerId:
    return number.to_bytes(16, "big")


ME = peer(0)


@dataclass(frozen=True)
class Piece:
    """A contribution and its id; segment `i` is the text of its number."""

    id: ContributionId
    manifest: Contribution

    def data(self, index: int) -> bytes:
        return b"segment %d" % index


def piece(round: int, author: int, *, variant: int = 0, segments: int = 1, weight: int = 65536) -> Piece:
    """Different variants of one author and round are equivocations."""
    infos = tuple(SegmentInfo(blake3(b"segment %d" % i).digest(), len(b"segment %d" % i)) for i in range(segments))
    manifest = Contribution(
        shard=0,
        round=round,
        peer=peer(author),
        kind="work",
        base_round=round - 1,
        base_chain=blake3(b"%d" % variant).digest(),
        weight=weight,
        samples=1,
        sub_model=FULL,
        codec="fp32",
        segments=infos,
    )
    return Piece(contribution_id(manifest), manifest)


def ledger(me: int = 0, *, run: RunConfig = RUN, grace_s: float = 0.0) -> Ledger:
    return Ledger(peer(me), GENESIS, run, grace_s=grace_s)


def put(target: Ledger, added: Piece, *, now_s: float = 0.0, wanted: bool = False, complete: bool = True) -> Entry:
    """Add a contribution with all its segments, or without any; it must be accepted."""
    entry = target.add(added.id, added.manifest, now_s, wanted=wanted)
    assert entry is not None
    for index in range(len(added.manifest.segments) if complete else 0):
        target.put(entry, index, added.data(index))
    return entry


def seal(target: Ledger) -> Link:
    """Seal the next round with whatever counts in it."""
    link = target.next_link(target.counted(target.tip.round + 1))
    target.seal(link)
    return link


def link_after(before: Link, pieces: Iterable[Piece] = ()) -> Link:
    """The link that another node appends to `before`."""
    counted = list(pieces)
    ids = tuple(sorted(p.id for p in counted))
    weight = before.weight + sum(p.manifest.weight for p in counted)
    return Link(round=before.round + 1, chain=next_chain(before.chain, ids), weight=weight, ids=ids)


def line_of(other: Ledger, *, is_suspect: bool = False) -> MemberLine:
    """What another node's report says of its ledger."""
    return MemberLine(
        tip_round=other.tip.round,
        tip_chain=other.tip.chain,
        floor=other.floor,
        digests=other.digests(),
        is_suspect=is_suspect,
    )


def shard_report(
    *,
    tip: Link | None = None,
    newest: int = 0,
    floor: int = 1,
    digests: tuple[tuple[int, bytes], ...] = (),
) -> ShardReport:
    stands = tip or Link(round=0, chain=GENESIS, weight=0, ids=())
    return ShardReport(
        shard=0,
        tip_round=stands.round,
        tip_chain=stands.chain,
        tip_weight=stands.weight,
        newest=newest,
        floor=floor,
        model_hash=bytes(32),
        digests=digests,
    )


def report(
    member: int,
    beat: int = 1,
    *,
    incarnation: int = 1,
    role: Role = "trains",
    addresses: tuple[str, ...] = (),
    stop: int | None = None,
    shard: ShardReport | None = None,
) -> Report:
    return Report(
        peer=peer(member),
        name=f"node-{member}",
        addresses=addresses,
        incarnation=incarnation,
        beat=beat,
        role=role,
        owes_graft=False,
        stop=stop,
        shards=(shard or shard_report(),),
    )

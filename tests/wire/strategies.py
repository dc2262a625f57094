"""Hypothesis strategies for everything on the wire, and a small blueprint with work on it. Shared by all tests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from blake3 import blake3
from hypothesis import strategies as st

from p2pfusion.config import ROUND_MAX, WEIGHT_MAX, RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.submodel import SubModel
from p2pfusion.wire.compression import encode, segment_elements, size_range
from p2pfusion.wire.messages import (
    ROLES,
    Contribution,
    Counted,
    Gossip,
    Graft,
    Have,
    Link,
    Report,
    Rumour,
    RunDescription,
    SegmentInfo,
    ShardReport,
    Snapshot,
)
from p2pfusion.wire.schema import INTEGER_MAX

RUN = RunConfig()
HASH = blake3(b"any").digest()
PEER = bytes(range(16))


def _no_module(*_: object) -> None:
    raise AssertionError("nothing here builds a network")


BLUEPRINT = Blueprint(
    blocks=("body", "head"),
    axes=(Axis("h1", 8), Axis("h2", 12, unit=3)),
    parameters=(
        Parameter("0.weight", "body", (Dim("h1"), Dim(None, 4)), Init((Dim(None, 4),))),
        Parameter("0.bias", "body", (Dim("h1"),), Init(None)),
        Parameter("2.weight", "head", (Dim("h2"), Dim("h1")), Init((Dim("h1"),))),
        Parameter("4.weight", "head", (Dim(None, 3), Dim("h2", 2)), Init((Dim("h2", 2),))),
    ),
    factory=_no_module,
)

counts = st.integers(0, INTEGER_MAX)
hashes = st.binary(min_size=32, max_size=32)
peer_ids = st.binary(min_size=16, max_size=16)
labels = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
addresses = st.one_of(
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535)),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(1, 65535)),
)


def tuples(items: st.SearchStrategy, most: int, least: int = 0) -> st.SearchStrategy[tuple]:
    return st.lists(items, min_size=least, max_size=most).map(tuple)


def rising(items: st.SearchStrategy, most: int, least: int = 0, key=lambda item: item) -> st.SearchStrategy[tuple]:
    lists = st.lists(items, min_size=least, max_size=most, unique_by=key)
    return lists.map(lambda found: tuple(sorted(found, key=key)))


def _ranges(bounds: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise(bounds))[::2]


@st.composite
def sub_models(draw: st.DrawFn) -> SubModel:
    """Whatever the wire can carry; no blueprint needs to know it."""
    names = draw(rising(labels, 3))
    bounds = st.integers(1, 3).flatmap(lambda n: rising(counts, 2 * n, least=2 * n))
    return SubModel(draw(tuples(labels, 3, least=1)), tuple((name, _ranges(draw(bounds))) for name in names))


@st.composite
def slices(draw: st.DrawFn, blueprint: Blueprint = BLUEPRINT) -> SubModel:
    """Valid sub-models of a blueprint, a block or more."""
    kept = {}
    for axis in blueprint.axes:
        units = draw(st.lists(st.integers(0, axis.units - 1), min_size=1, max_size=axis.units, unique=True))
        kept[axis.name] = [(unit * axis.unit, (unit + 1) * axis.unit) for unit in units]
    blocks = draw(st.lists(st.sampled_from(blueprint.blocks), min_size=1, max_size=len(blueprint.blocks), unique=True))
    return SubModel.of(blueprint, kept, blocks)


segment_infos = st.builds(SegmentInfo, hashes, st.integers(1, 1 << 20))
rounds = st.integers(0, ROUND_MAX)
grafts = st.builds(
    Graft,
    fork_chain=hashes,
    lost_chain=hashes,
    length=counts,
    weight_lost=counts,
    weight_kept=counts,
    covers=counts,
    after=counts,
)
contributions = st.builds(
    Contribution,
    shard=st.integers(0, 63),
    round=counts,
    peer=peer_ids,
    kind=st.sampled_from(("work", "graft")),
    base_round=counts,
    base_chain=hashes,
    weight=st.integers(1, WEIGHT_MAX),
    samples=counts,
    sub_model=sub_models(),
    codec=st.sampled_from(("fp32", "bf16", "later")),
    segments=tuples(segment_infos, 3, least=1),
    graft=st.none() | grafts,
)
links = st.builds(Link, round=rounds, chain=hashes, weight=counts, ids=rising(hashes, 3), graft=st.none() | hashes)
chains = rising(links, 3, key=lambda link: link.round)
shard_reports = st.builds(
    ShardReport,
    shard=st.integers(0, 63),
    tip_round=counts,
    tip_chain=hashes,
    tip_weight=counts,
    newest=counts,
    floor=counts,
    model_hash=hashes,
    digests=rising(st.tuples(counts, peer_ids), 3, key=lambda digest: digest[0]),
)
reports = st.builds(
    Report,
    peer=peer_ids,
    name=labels,
    addresses=tuples(addresses, 4),
    incarnation=counts,
    beat=counts,
    role=st.sampled_from(ROLES),
    owes_graft=st.booleans(),
    stop=st.none() | counts,
    shards=rising(shard_reports, 2, key=lambda report: report.shard),
)
gossips = st.builds(
    Gossip,
    run_id=hashes,
    sender=peer_ids,
    reports=tuples(reports, 2),
    rumours=tuples(st.builds(Rumour, peer_ids, counts, st.sampled_from(("suspect", "dead", "left")), peer_ids), 2),
    have=tuples(st.builds(Have, hashes, st.binary(max_size=4)), 2),
    fresh=tuples(contributions, 2),
    inline=tuples(st.tuples(hashes, tuples(st.binary(min_size=1, max_size=9), 2, least=1)), 2),
)
snapshots = st.builds(
    Snapshot,
    run_id=hashes,
    round=rounds,
    chain=hashes,
    weight=counts,
    segments=tuples(segment_infos, 3, least=1),
    grafts_total=counts,
    grafts=tuples(st.builds(Counted, round=counts, fork_chain=hashes, lost_chain=hashes, covers=counts), 2),
)
descriptions = st.builds(
    RunDescription,
    settings=tuples(st.tuples(labels, labels), 3),
    parameters=tuples(st.tuples(labels, labels), 3),
    sender=peer_ids,
    members=counts,
    newest=counts,
)


@dataclass(frozen=True)
class Work:
    """A contribution that passes the gate, with its segments."""

    manifest: Contribution
    segments: tuple[bytes, ...]


def work(
    sub_model: SubModel | None = None, *, round: int = 3, peer: bytes = PEER, codec: str = "fp32", seed: int = 0
) -> Work:
    """Work on `BLUEPRINT` with normally distributed values."""
    chosen = sub_model or BLUEPRINT.whole()
    values = np.random.default_rng(seed).normal(size=chosen.size(BLUEPRINT)).astype(np.float32)
    segments = encode(codec, values)
    for segment, elements in zip(segments, segment_elements(codec, values.size), strict=True):
        assert size_range(codec, elements)[0] <= len(segment) <= size_range(codec, elements)[1]
    manifest = Contribution(
        shard=0,
        round=round,
        peer=peer,
        kind="work",
        base_round=round - 1,
        base_chain=HASH,
        weight=1 << 16,
        samples=32,
        sub_model=chosen,
        codec=codec,
        segments=tuple(SegmentInfo(blake3(segment).digest(), len(segment)) for segment in segments),
    )
    return Work(manifest, segments)

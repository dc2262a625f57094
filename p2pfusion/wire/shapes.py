"""The table of shapes: every field of every message with its type, its range and its named limit.

One line per field, in wire order, which is the dataclass's own order (a test compares them). What is declared here is
what every node accepts, so it is part of the protocol. This module knows neither bytes nor what a message means.
"""

from __future__ import annotations

from typing import Any

from p2pfusion.config import (
    ADDRESSES_MAX,
    AXES_MAX,
    BLOCKS_MAX,
    DESCRIPTION_TEXT_BYTES_MAX,
    DIGESTS_PER_REPORT_MAX,
    FRESH_PER_CALL_MAX,
    GRAFTS_KEPT_MAX,
    HAVE_PER_CALL_MAX,
    INLINE_BYTES_MAX,
    INLINE_SEGMENTS_MAX,
    LABEL_BYTES_MAX,
    LINK_IDS_MAX,
    NAME_BYTES_MAX,
    PARAMETERS_MAX,
    RANGES_PER_AXIS_MAX,
    REPORTS_PER_CALL_MAX,
    ROUND_MAX,
    RUMOURS_PER_CALL_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENTS_MAX,
    SETTINGS_MAX,
    SHARDS_MAX,
    WEIGHT_MAX,
)
from p2pfusion.core.submodel import SubModel
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
from p2pfusion.wire.schema import (
    Shape,
    address,
    binary,
    choice,
    flag,
    integer,
    many,
    optional,
    pair,
    ranges,
    record,
    text,
    where,
)

HASH_BYTES = 32
PEER_BYTES = 16
DIGEST_BYTES = 16
CODEC_NAME_BYTES_MAX = 16

_HASH = binary(HASH_BYTES)
_PEER = binary(PEER_BYTES)
_COUNT = integer()
_LABEL = text(LABEL_BYTES_MAX)
_KEPT = many(pair(_LABEL, ranges(RANGES_PER_AXIS_MAX)), AXES_MAX, ascending=lambda axis: axis[0])

SUB_MODEL = record(SubModel, blocks=many(_LABEL, BLOCKS_MAX, least=1), kept=_KEPT)
SEGMENT_INFO = record(SegmentInfo, hash=_HASH, size=integer(1, SEGMENT_BYTES_MAX))
_SEGMENTS = many(SEGMENT_INFO, SEGMENTS_MAX, least=1)
GRAFT = record(
    Graft,
    fork_chain=_HASH,
    lost_chain=_HASH,
    length=_COUNT,
    weight_lost=_COUNT,
    weight_kept=_COUNT,
    covers=_COUNT,
    after=_COUNT,
)
CONTRIBUTION = record(
    Contribution,
    shard=integer(0, SHARDS_MAX - 1),
    round=_COUNT,
    peer=_PEER,
    kind=choice(("work", "graft")),
    base_round=_COUNT,
    base_chain=_HASH,
    weight=integer(1, WEIGHT_MAX),
    samples=_COUNT,
    sub_model=SUB_MODEL,
    codec=text(CODEC_NAME_BYTES_MAX),
    segments=_SEGMENTS,
    graft=optional(GRAFT),
)
_ROUND = integer(0, ROUND_MAX)
LINK = record(
    Link,
    round=_ROUND,
    chain=_HASH,
    weight=_COUNT,
    ids=many(_HASH, LINK_IDS_MAX, ascending=lambda id: id),
    graft=optional(_HASH),
)
SHARD_REPORT = record(
    ShardReport,
    shard=integer(0, SHARDS_MAX - 1),
    tip_round=_COUNT,
    tip_chain=_HASH,
    tip_weight=_COUNT,
    newest=_COUNT,
    floor=_COUNT,
    model_hash=_HASH,
    digests=many(pair(_COUNT, binary(DIGEST_BYTES)), DIGESTS_PER_REPORT_MAX, ascending=lambda digest: digest[0]),
)
REPORT = record(
    Report,
    peer=_PEER,
    name=text(NAME_BYTES_MAX),
    addresses=many(address(), ADDRESSES_MAX),
    incarnation=_COUNT,
    beat=_COUNT,
    role=choice(ROLES),
    owes_graft=flag(),
    stop=optional(_COUNT),
    shards=many(SHARD_REPORT, SHARDS_MAX, ascending=lambda report: report.shard),
)
RUMOUR = record(Rumour, peer=_PEER, incarnation=_COUNT, status=choice(("suspect", "dead", "left")), accuser=_PEER)
_INLINE_SEGMENTS = where(
    many(binary(1, INLINE_BYTES_MAX), INLINE_SEGMENTS_MAX, least=1),
    lambda segments: sum(map(len, segments)) <= INLINE_BYTES_MAX,
    f"more than {INLINE_BYTES_MAX} bytes inline",
)
GOSSIP_HEAD: dict[str, Shape[Any]] = {"run_id": _HASH, "sender": _PEER}
GOSSIP_ITEMS: dict[str, tuple[Shape[Any], int]] = {
    "rumours": (RUMOUR, RUMOURS_PER_CALL_MAX),
    "reports": (REPORT, REPORTS_PER_CALL_MAX),
    "fresh": (CONTRIBUTION, FRESH_PER_CALL_MAX),
    "inline": (pair(_HASH, _INLINE_SEGMENTS), FRESH_PER_CALL_MAX),
    "have": (record(Have, id=_HASH, bitmap=binary(0, SEGMENTS_MAX // 8)), HAVE_PER_CALL_MAX),
}
"""What one gossip call carries, the most urgent first, each with its most items."""
_ITEMS = {name: many(shape, most) for name, (shape, most) in GOSSIP_ITEMS.items()}
GOSSIP = record(
    Gossip,
    **GOSSIP_HEAD,
    reports=_ITEMS["reports"],
    rumours=_ITEMS["rumours"],
    have=_ITEMS["have"],
    fresh=_ITEMS["fresh"],
    inline=_ITEMS["inline"],
)
COUNTED = record(Counted, round=_COUNT, fork_chain=_HASH, lost_chain=_HASH, covers=_COUNT)
SNAPSHOT = record(
    Snapshot,
    run_id=_HASH,
    round=_ROUND,
    chain=_HASH,
    weight=_COUNT,
    segments=_SEGMENTS,
    grafts_total=_COUNT,
    grafts=many(COUNTED, GRAFTS_KEPT_MAX),
)
PROBE = pair(_HASH, _PEER)
"""The run and the member to be pinged."""
_LINE = text(DESCRIPTION_TEXT_BYTES_MAX)
RUN_DESCRIPTION = record(
    RunDescription,
    settings=many(pair(_LINE, _LINE), SETTINGS_MAX),
    parameters=many(pair(_LINE, _LINE), PARAMETERS_MAX),
    sender=_PEER,
    members=_COUNT,
    newest=_COUNT,
)


def links(links_max: int) -> Shape[tuple[Link, ...]]:
    """A piece of a chain: at most that many links, rounds rising."""
    return many(LINK, links_max, ascending=lambda link: link.round)

"""Examples of every message, and their plain form (nested tuples) to be changed by hand and framed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgpack
from hypothesis import strategies as st

from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import WireError
from p2pfusion.wire import codec
from p2pfusion.wire.messages import (
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
from tests.wire import strategies as wire
from tests.wire.strategies import HASH, PEER

KINDS: dict[str, tuple[Callable, Callable, st.SearchStrategy]] = {
    "contribution": (codec.encode_contribution, codec.decode_contribution, wire.contributions),
    "gossip": (codec.encode_gossip, codec.decode_gossip, wire.gossips),
    "links": (codec.encode_links, codec.decode_links, wire.chains),
    "snapshot": (codec.encode_snapshot, codec.decode_snapshot, wire.snapshots),
    "run": (codec.encode_run, codec.decode_run, wire.descriptions),
}


SHARD = ShardReport(
    shard=0,
    tip_round=4,
    tip_chain=HASH,
    tip_weight=9,
    newest=6,
    floor=7,
    model_hash=HASH,
    digests=((5, PEER), (6, PEER)),
)
REPORT = Report(
    peer=PEER,
    name="fox",
    addresses=("192.0.2.7:4711", "[2001:db8::7]:4711"),
    incarnation=1,
    beat=2,
    role="trains",
    owes_graft=False,
    stop=None,
    shards=(SHARD,),
)
WORK = Contribution(
    shard=0,
    round=5,
    peer=PEER,
    kind="work",
    base_round=4,
    base_chain=HASH,
    weight=65536,
    samples=32,
    sub_model=SubModel(("a", "b"), (("h1", ((0, 4), (6, 8))), ("h2", ((3, 9),)))),
    codec="bf16",
    segments=(SegmentInfo(HASH, 1 << 20), SegmentInfo(HASH, 12)),
)
GRAFT = Graft(fork_chain=HASH, lost_chain=bytes(32), length=4, weight_lost=2, weight_kept=3, covers=1, after=0)
IDS = (bytes(32), HASH)
EXAMPLES = {
    "contribution": replace(WORK, graft=GRAFT),
    "gossip": Gossip(
        run_id=HASH,
        sender=PEER,
        reports=(REPORT,),
        rumours=(Rumour(PEER, 1, "left", PEER),),
        have=(Have(HASH, b"\x03"),),
        fresh=(WORK,),
        inline=((HASH, (b"abc",)),),
    ),
    "links": (Link(round=1, chain=HASH, weight=3, ids=IDS, graft=HASH), Link(round=2, chain=HASH, weight=4, ids=())),
    "snapshot": Snapshot(
        run_id=HASH,
        round=8,
        chain=HASH,
        weight=3,
        segments=WORK.segments,
        grafts_total=1,
        grafts=(Counted(round=7, fork_chain=HASH, lost_chain=bytes(32), covers=1),),
    ),
    "run": RunDescription(
        settings=(("horizon", "8"),), parameters=(("0.weight", "4x4"),), sender=PEER, members=3, newest=9
    ),
}


def plain_of(kind: str, value: object = None) -> object:
    encode = KINDS[kind][0]
    return msgpack.unpackb(encode(EXAMPLES[kind] if value is None else value)[: -codec.TAG_BYTES], use_list=False)


def framed(plain: object) -> bytes:
    return codec.frame(msgpack.packb(plain))


def paths(plain: object, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    inner = [p for i, x in enumerate(plain) for p in paths(x, (*path, i))] if type(plain) is tuple else []
    return [path, *inner]


def put(plain: object, path: tuple[int, ...], value: object) -> object:
    if not path:
        return value
    assert type(plain) is tuple
    return (*plain[: path[0]], put(plain[path[0]], path[1:], value), *plain[path[0] + 1 :])


def decodes_or_refuses(kind: str, data: bytes) -> bool:
    """Whether it decodes; if so, then to the one value that has this encoding."""
    encode, decode, _ = KINDS[kind]
    try:
        value = decode(data)
    except WireError:
        return False
    assert encode(value) == data
    return True

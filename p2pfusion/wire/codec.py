"""Messages to bytes and back: msgpack arrays in fixed field order behind one strict schema, closed by a BLAKE3 tag.

Whatever arrives decodes to exactly one valid message within the limits of `config`, or raises `WireError` and nothing
else. The order of the checks is the order of their cost: total size, tag, msgpack under explicit caps (one-shot; maps,
extension types and trailing bytes are refused), the schema walk, and at last that encoding the result again gives the
same bytes, so that one value has one encoding and one manifest one id. The tag finds damage, not forgery: anybody can
compute it.

Encoders run the same walk and raise `ValueError`: a message that others would refuse is our own mistake.

Also here, because they hash encodings: ids, digests, chains and the run id. This module decides nothing about a
message's meaning (`swarm.gate` does) and knows no transport.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

from blake3 import blake3

from p2pfusion.config import (
    GOSSIP_BYTES_MAX,
    LINK_IDS_MAX,
    LINKS_BYTES_MAX,
    LINKS_PER_REPLY_MAX,
    MANIFEST_BYTES_MAX,
    PARAMETERS_MAX,
    PROBE_BYTES_MAX,
    SEGMENTS_MAX,
    RunConfig,
)
from p2pfusion.errors import WireError
from p2pfusion.wire import description, lossless, shapes
from p2pfusion.wire.messages import Contribution, ContributionId, Gossip, Link, PeerId, RunDescription, Snapshot
from p2pfusion.wire.packing import pack
from p2pfusion.wire.pieces import Assembled, Pieces, Whole

T = TypeVar("T")
Body = bytes | bytearray | memoryview

TAG_BYTES = 16
SQUEEZED = b"\xc1"
"""First byte of a squeezed frame: the one that msgpack never uses."""
SIZE_BYTES = 3
"""Of the size behind it."""
SQUEEZED_BYTES_MIN = 300
"""A shorter frame goes as it is: one report has nothing in common with itself that would pay for the time."""

# -- frames -----------------------------------------------------------------------------------------------------------


def frame(payload: bytes) -> bytes:
    """The payload and the first 16 bytes of its BLAKE3 hash."""
    return payload + blake3(payload).digest(length=TAG_BYTES)


def unframe(data: Body, bytes_max: int) -> bytes:
    """The payload of a frame of at most `bytes_max` bytes, tag included. Raises `WireError`."""
    size = memoryview(data).nbytes
    if not TAG_BYTES < size <= bytes_max:
        raise WireError(f"message of {size} bytes: must be {TAG_BYTES + 1}..{bytes_max}")
    whole = bytes(data)
    payload, tag = whole[:-TAG_BYTES], whole[-TAG_BYTES:]
    if blake3(payload).digest(length=TAG_BYTES) != tag:
        raise WireError("message damaged: the tag does not fit")
    return payload


def squeezed(framed: bytes) -> bytes:
    """A frame as it travels: `SQUEEZED`, its size in 3 bytes, and zstd of it, where that is shorter; else as it is."""
    if len(framed) < SQUEEZED_BYTES_MIN:
        return framed
    squeezed = lossless.squeezed(framed)
    is_shorter = 1 + SIZE_BYTES + len(squeezed) < len(framed)
    return SQUEEZED + len(framed).to_bytes(SIZE_BYTES, "big") + squeezed if is_shorter else framed


def unsqueezed(data: Body, bytes_max: int) -> Body:
    """The frame of at most `bytes_max` bytes that travelled so. Raises `WireError`, and never makes more than that."""
    view = memoryview(data).cast("B")
    if bytes(view[:1]) != SQUEEZED:
        return data
    size, packed = int.from_bytes(view[1 : 1 + SIZE_BYTES], "big"), view[1 + SIZE_BYTES :]
    if not SQUEEZED_BYTES_MIN <= size <= bytes_max or packed.nbytes >= size:
        raise WireError("a squeezed message of a size that no honest one has")
    return lossless.restored(packed, size)


def framed_bytes(data: Body) -> int:
    """Bytes of the frame that travels as `data`, which is one that could be decoded."""
    view = memoryview(data).cast("B")
    return int.from_bytes(view[1 : 1 + SIZE_BYTES], "big") if bytes(view[:1]) == SQUEEZED else view.nbytes


# -- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Message(Generic[T]):
    """One kind of framed message: its form and its most bytes."""

    form: Whole[T] | Assembled[T]
    bytes_max: int

    def payload(self, value: T) -> bytes:
        return _packed(self.form, value)

    def encode(self, value: T) -> bytes:
        data = frame(self.payload(value))
        if len(data) > self.bytes_max:
            raise ValueError(f"not fit for the wire: {len(data)} bytes where {self.bytes_max} may be")
        return data

    def decode(self, data: Body) -> T:
        return self.form.decode(unframe(data, self.bytes_max))


def _packed(form: Whole[T] | Assembled[T], value: T) -> bytes:
    try:
        return form.encode(value)
    except WireError as error:
        raise ValueError(f"not fit for the wire: {error}") from None


_SHORT_ARRAYS_MAX = 2048
"""Longest array in a piece of a gossip call: the segments of a manifest that still fits, 37 bytes each."""

_MANIFESTS = Pieces(shapes.CONTRIBUTION, SEGMENTS_MAX)
_ITEMS: dict[str, tuple[Whole[Any], int]] = {
    name: (_MANIFESTS if shape is shapes.CONTRIBUTION else Pieces(shape, _SHORT_ARRAYS_MAX), most)
    for name, (shape, most) in shapes.GOSSIP_ITEMS.items()
}
_CONTRIBUTION = _Message(_MANIFESTS, MANIFEST_BYTES_MAX)
_SNAPSHOT = _Message(Whole(shapes.SNAPSHOT, SEGMENTS_MAX), MANIFEST_BYTES_MAX)
_GOSSIP = _Message(
    Assembled(
        Gossip,
        {name: Pieces(shape, 0) for name, shape in shapes.GOSSIP_HEAD.items()},
        {item.name: _ITEMS[item.name] for item in fields(Gossip) if item.name in _ITEMS},
    ),
    GOSSIP_BYTES_MAX,
)
_PROBE = _Message(Whole(shapes.PROBE, 2), PROBE_BYTES_MAX)
_RUN = _Message(Whole(shapes.RUN_DESCRIPTION, PARAMETERS_MAX), GOSSIP_BYTES_MAX)


def encode_contribution(contribution: Contribution) -> bytes:
    """Raises `ValueError` for what `decode_contribution` would refuse; so do all encoders here."""
    return _CONTRIBUTION.encode(contribution)


def decode_contribution(data: Body) -> Contribution:
    """Raises `WireError`, as all decoders here do, and nothing else."""
    return _CONTRIBUTION.decode(data)


def contribution_id(contribution: Contribution) -> ContributionId:
    """BLAKE3 (32 bytes) of the manifest's canonical encoding, without the frame."""
    return blake3(_CONTRIBUTION.payload(contribution)).digest()


def encode_gossip(gossip: Gossip) -> bytes:
    """See `fit_gossip` for a message that may have become too long."""
    return _GOSSIP.encode(gossip)


def decode_gossip(data: Body) -> Gossip:
    return _GOSSIP.decode(unsqueezed(data, GOSSIP_BYTES_MAX))


def fit_gossip(gossip: Gossip) -> Gossip:
    """The same message with only those items that fit in one body together, in order of urgency.

    Who left, who is where, new manifests, their contents, what is held; within each, the first come first. A peer was
    told what the result contains, no more.
    """
    empty = replace(gossip, reports=(), rumours=(), have=(), fresh=(), inline=())
    left = GOSSIP_BYTES_MAX - TAG_BYTES - len(_GOSSIP.payload(empty)) - 5 * 4  # five array headers may grow by 4 bytes
    kept: dict[str, Any] = {}
    for name, (pieces, most) in _ITEMS.items():
        chosen = []
        for item in getattr(gossip, name)[:most]:
            size = len(_packed(pieces, item))
            if size <= left:
                chosen.append(item)
                left -= size
        kept[name] = tuple(chosen)
    return replace(gossip, **kept)


def _links(links_max: int, bytes_max: int) -> _Message[tuple[Link, ...]]:
    return _Message(Whole(shapes.links(links_max), max(links_max, LINK_IDS_MAX)), bytes_max)


def encode_links(
    links: Sequence[Link], *, links_max: int = LINKS_PER_REPLY_MAX, bytes_max: int = LINKS_BYTES_MAX
) -> bytes:
    """A piece of a chain, rounds rising. The defaults are those of a reply; a checkpoint may hold more."""
    return _links(links_max, bytes_max).encode(tuple(links))


def decode_links(
    data: Body, *, links_max: int = LINKS_PER_REPLY_MAX, bytes_max: int = LINKS_BYTES_MAX
) -> tuple[Link, ...]:
    return _links(links_max, bytes_max).decode(data)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return _SNAPSHOT.encode(snapshot)


def decode_snapshot(data: Body) -> Snapshot:
    return _SNAPSHOT.decode(data)


def encode_run(run: RunDescription) -> bytes:
    return _RUN.encode(run)


def decode_run(data: Body) -> RunDescription:
    return _RUN.decode(data)


def encode_probe(run_id: bytes, target: PeerId) -> bytes:
    """The body of an indirect probe: which member of which run is to be pinged."""
    return _PROBE.encode((run_id, target))


def decode_probe(data: Body) -> tuple[bytes, PeerId]:
    return _PROBE.decode(data)


# -- chains, digests, the run -----------------------------------------------------------------------------------------


def run_id(run: RunConfig, fingerprint: bytes, genesis_hash: bytes) -> bytes:
    """What tells one run from another (PROTOCOL.md 1): 32 bytes over `description.settings`."""
    return blake3(pack(("p2pfusion run", description.settings(run, fingerprint, genesis_hash)))).digest()


def genesis_chain(run_id: bytes) -> bytes:
    """The chain before any round is sealed; 32 bytes that no other run begins with."""
    return blake3(b"p2pfusion genesis" + run_id).digest()


def next_chain(previous: bytes, ids: Iterable[ContributionId]) -> bytes:
    """`H(previous || sorted ids)`, 32 bytes; the ids may come in any order."""
    return blake3(previous + b"".join(sorted(ids))).digest()


def digest(ids: Iterable[ContributionId]) -> bytes:
    """16 bytes that are equal exactly when the ids are, in whatever order they come."""
    return blake3(b"".join(sorted(ids))).digest(length=shapes.DIGEST_BYTES)

"""What devices of a chain of hops say to each other (`hop_messages`), to bytes and back.

All but the passage are records of `schema` in a frame of `codec`: one value has one encoding. A passage is a frame too,
of the length of its header (4 bytes, big-endian), the header (a record), and the payload, which `tensors` encodes and
decodes and which is not looked into here.

Decoders raise `WireError` and nothing else; encoders run the same walk and raise `ValueError`: a message that others
would refuse is our own mistake. Which message it is, the route says. This module knows no transport, decides nothing
about what a message means, and touches no numbers of a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any, TypeVar

from p2pfusion.config import ADDRESSES_MAX, GOSSIP_BYTES_MAX, MICRO_BATCHES_MAX, NAME_BYTES_MAX, SHARDS_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import tensors
from p2pfusion.wire.codec import TAG_BYTES, frame, unframe
from p2pfusion.wire.coding import Body
from p2pfusion.wire.hop_messages import Back, HeldShard, Hop, Lane, Offer, Offers, Passage, Take, Word
from p2pfusion.wire.pieces import Assembled, Pieces, Whole
from p2pfusion.wire.routes import HOP_BYTES_MAX
from p2pfusion.wire.schema import address, binary, flag, integer, many, record, text, where

__all__ = [
    "DEVICES_MAX", "HOPS_MAX", "LANES_MAX", "MICRO_BATCHES_MAX",
    "Back", "HeldShard", "Hop", "Lane", "Offer", "Offers", "Passage", "Take", "Word",
    "decode_back", "decode_offers", "decode_passage", "decode_take", "decode_word",
    "encode_back", "encode_offers", "encode_passage", "encode_take", "encode_word", "fit",
]  # fmt: skip

T = TypeVar("T")

RUN_BYTES = 16
DEVICE_BYTES = 16
HASH_BYTES = 32
DEVICES_MAX = 64
"""Devices of one run: a chain needs few, and the offers of 64 that hold some shards each fit in one gossip body."""
HOPS_MAX = 16
"""In one chain: a longer one waits for its own links."""
LANES_MAX = 8
"""Chains beside each other: with more of them every shard would have more holders than its ledger needs."""
MEMORY_BYTES_MAX = 1 << 50
"""What a device may say it gives: 1 PiB, more than any has."""
LENGTH_BYTES = 4
"""In front of a passage's header."""
HEADER_BYTES_MAX = 103
"""The longest header that the fields allow: two ids, three counts, two small ones, a flag, a codec, six sizes."""
_FIELDS_MAX = 10
"""Longest array in an order, a word or a header: the fields of a header."""
_AROUND_OFFERS_BYTES = 1 + 3 + TAG_BYTES
"""The record's header, that of its longest list, the tag."""

# -- shapes -----------------------------------------------------------------------------------------------------------

_RUN = binary(RUN_BYTES)
_DEVICE = binary(DEVICE_BYTES)
_HASH = binary(HASH_BYTES)
_COUNT = integer()
_SHARD = integer(0, SHARDS_MAX - 1)
_MIDDLE_SHARD = integer(1, SHARDS_MAX - 1)
_BACKWARDS = "shards that end before they begin"

HELD_SHARD = record(HeldShard, shard=_SHARD, tip_round=_COUNT, chain=_HASH, model_sha256=_HASH, is_settled=flag())
HOP = where(
    record(Hop, device=_DEVICE, address=address(), first=_MIDDLE_SHARD, last=_MIDDLE_SHARD),
    lambda hop: hop.first <= hop.last,
    _BACKWARDS,
)
LANE = record(
    Lane,
    owners=many(_DEVICE, DEVICES_MAX, least=1, ascending=lambda owner: owner),
    hops=many(HOP, HOPS_MAX, least=1),
)
OFFER = where(
    record(
        Offer,
        run=_RUN,
        device=_DEVICE,
        name=text(NAME_BYTES_MAX),
        addresses=many(address(), ADDRESSES_MAX, least=1),
        incarnation=_COUNT,
        beat=_COUNT,
        is_owner=flag(),
        is_relay=flag(),
        is_leaving=flag(),
        round=_COUNT,
        memory_bytes=integer(0, MEMORY_BYTES_MAX),
        batch_us=_COUNT,
        chain=many(HOP, HOPS_MAX),
        held=many(HELD_SHARD, SHARDS_MAX, ascending=lambda held: held.shard),
        lanes=many(LANE, LANES_MAX),
    ),
    lambda offer: offer.is_owner or (offer.round == 0 and not offer.chain and not offer.lanes),
    "a round or a chain where there is no owner",
)
TAKE = where(
    record(
        Take,
        run=_RUN,
        owner=_DEVICE,
        owner_address=address(),
        epoch=_COUNT,
        since=_COUNT,
        first=_MIDDLE_SHARD,
        last=_MIDDLE_SHARD,
        previous=address(),
        next=address(),
    ),
    lambda take: take.first <= take.last and take.since <= take.epoch,
    f"{_BACKWARDS}, or a chain of a later epoch",
)
BACK = where(
    record(Back, run=_RUN, owner=_DEVICE, first=_MIDDLE_SHARD, last=_MIDDLE_SHARD),
    lambda back: back.first <= back.last,
    _BACKWARDS,
)
WORD = record(Word, run=_RUN, owner=_DEVICE, epoch=_COUNT, round=_COUNT, batch=_COUNT, place=_SHARD)


def _passage(**header: Any) -> Passage:
    return Passage(payload=b"", **header)


HEADER = where(
    record(
        _passage,
        run=_RUN,
        owner=_DEVICE,
        epoch=_COUNT,
        round=_COUNT,
        batch=_COUNT,
        part=integer(0, MICRO_BATCHES_MAX - 1),
        parts=integer(1, MICRO_BATCHES_MAX),
        is_training=flag(),
        codec=tensors.CODEC,
        shape=tensors.SHAPE,
    ),
    lambda passage: passage.part < passage.parts,
    "a micro-batch behind the last",
)
"""A passage but for its payload."""

_OFFER = Pieces(OFFER, max(SHARDS_MAX, DEVICES_MAX))
_OFFERS = Assembled(Offers, {}, {"offers": (_OFFER, DEVICES_MAX)})
_TAKE = Whole(TAKE, _FIELDS_MAX)
_BACK = Whole(BACK, _FIELDS_MAX)
_WORD = Whole(WORD, _FIELDS_MAX)
_HEADER = Whole(HEADER, _FIELDS_MAX)


# -- bytes ------------------------------------------------------------------------------------------------------------


def encode_offers(offers: Offers) -> bytes:
    """Raises `ValueError` for what `decode_offers` would refuse; so do all encoders here. See `fit`."""
    if not _is_ascending(offers):
        raise ValueError("not fit for the wire: offers that do not ascend by device")
    return _framed(_OFFERS, offers)


def decode_offers(data: Body) -> Offers:
    """Raises `WireError`, as all decoders here do, and nothing else."""
    offers = _OFFERS.decode(unframe(data, GOSSIP_BYTES_MAX))
    if not _is_ascending(offers):
        raise WireError("offers that do not ascend by device")
    return offers


def fit(offers: Sequence[Offer], first: bytes) -> Offers:
    """Of these offers, each of another device, as many as one body holds: that of the device `first`, then in order.

    One that is too long is left out, and a shorter one behind it may still come. Raises `ValueError` for an offer that
    is not fit for the wire.
    """
    left = GOSSIP_BYTES_MAX - _AROUND_OFFERS_BYTES
    chosen: list[Offer] = []
    for offer in sorted(offers, key=lambda offer: offer.device != first):
        size_bytes = len(_packed(_OFFER, offer))
        if size_bytes <= left and len(chosen) < DEVICES_MAX:
            chosen.append(offer)
            left -= size_bytes
    return Offers(offers=tuple(sorted(chosen, key=lambda offer: offer.device)))


def encode_take(take: Take) -> bytes:
    return _framed(_TAKE, take)


def decode_take(data: Body) -> Take:
    return _TAKE.decode(unframe(data, GOSSIP_BYTES_MAX))


def encode_back(back: Back) -> bytes:
    return _framed(_BACK, back)


def decode_back(data: Body) -> Back:
    return _BACK.decode(unframe(data, GOSSIP_BYTES_MAX))


def encode_word(word: Word) -> bytes:
    return _framed(_WORD, word)


def decode_word(data: Body) -> Word:
    return _WORD.decode(unframe(data, GOSSIP_BYTES_MAX))


def encode_passage(passage: Passage) -> bytes:
    """At most `HOP_BYTES_MAX` bytes. The payload's length is checked against its codec and shape, its content not."""
    header = _packed(_HEADER, passage)
    try:
        _check_payload(passage)
    except WireError as error:
        raise ValueError(f"not fit for the wire: {error}") from None
    return frame(b"".join((len(header).to_bytes(LENGTH_BYTES, "big"), header, passage.payload)))


def decode_passage(data: Body) -> Passage:
    """Its payload has a length that its codec and shape allow; `tensors.decode` may still find it odd."""
    body = unframe(data, HOP_BYTES_MAX)
    header_bytes = int.from_bytes(body[:LENGTH_BYTES], "big")
    if header_bytes > HEADER_BYTES_MAX:
        raise WireError(f"a header of {header_bytes} bytes: at most {HEADER_BYTES_MAX} belong")
    end = LENGTH_BYTES + header_bytes
    passage = replace(_HEADER.decode(body[LENGTH_BYTES:end]), payload=body[end:])
    _check_payload(passage)
    return passage


def _check_payload(passage: Passage) -> None:
    least, most = tensors.size_range(passage.codec, prod(passage.shape))
    try:
        binary(least, most).load(passage.payload)
    except WireError as error:
        raise WireError(f"Passage.payload: {error}") from None


def _is_ascending(offers: Offers) -> bool:
    return all(left.device < right.device for left, right in pairwise(offers.offers))


def _packed(form: Whole[T] | Assembled[T], value: T) -> bytes:
    try:
        return form.encode(value)
    except WireError as error:
        raise ValueError(f"not fit for the wire: {error}") from None


def _framed(form: Whole[T] | Assembled[T], value: T) -> bytes:
    data = frame(_packed(form, value))
    if len(data) > GOSSIP_BYTES_MAX:
        raise ValueError(f"not fit for the wire: {len(data)} bytes where {GOSSIP_BYTES_MAX} may be")
    return data

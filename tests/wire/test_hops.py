"""Messages of a chain of hops: there and back, every limit, and hostile bytes are one valid message or refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import ADDRESSES_MAX, GOSSIP_BYTES_MAX, MICRO_BATCHES_MAX, NAME_BYTES_MAX, SHARDS_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import codec, hops, tensors
from p2pfusion.wire.hops import Back, HeldShard, Hop, Lane, Offer, Offers, Passage, Take, Word, fit
from p2pfusion.wire.routes import HOP_BYTES_MAX
from p2pfusion.wire.schema import INTEGER_MAX
from tests.wire import strategies as wire
from tests.wire.plain import framed, paths, put
from tests.wire.strategies import HASH, PEER

RUN = bytes(range(16, 32))
LONGEST = "[" + ":".join(["ffff"] * 8) + "]:65535"
HELD = HeldShard(shard=3, tip_round=7, chain=HASH, model_sha256=bytes(32), is_settled=True)
HOP = Hop(device=PEER, address="192.0.2.9:4711", first=2, last=4)
OFFER = Offer(
    run=RUN,
    device=PEER,
    name="fox",
    addresses=("192.0.2.7:4711", "[2001:db8::7]:4711"),
    incarnation=1,
    beat=2,
    is_owner=True,
    is_relay=True,
    is_leaving=False,
    round=7,
    memory_bytes=1 << 30,
    batch_us=40_000,
    chain=(HOP,),
    held=(HELD,),
    lanes=(Lane(owners=(PEER,), hops=(HOP,)),),
)
TAKE = Take(
    run=RUN,
    owner=PEER,
    owner_address="192.0.2.7:4711",
    epoch=2,
    since=1,
    first=3,
    last=5,
    previous="192.0.2.8:4711",
    next="[2001:db8::7]:4711",
)
PASSAGE = Passage(
    run=RUN,
    owner=PEER,
    epoch=2,
    round=7,
    batch=9,
    part=1,
    parts=4,
    is_training=True,
    codec="fp32",
    shape=(2, 3),
    payload=tensors.encode("fp32", np.arange(6, dtype=np.float32).reshape(2, 3)),
)
HEAD = (RUN, PEER, 2, 7, 9, 1, 4, True, "fp32", (2, 3))

shards = st.integers(0, SHARDS_MAX - 1)
stages = st.tuples(st.integers(1, SHARDS_MAX - 1), st.integers(1, SHARDS_MAX - 1)).map(sorted)
helds = st.builds(
    HeldShard,
    shard=shards,
    tip_round=wire.counts,
    chain=wire.hashes,
    model_sha256=wire.hashes,
    is_settled=st.booleans(),
)
chain_hops = st.builds(
    lambda stage, **rest: Hop(first=stage[0], last=stage[1], **rest),
    stages,
    device=wire.peer_ids,
    address=wire.addresses,
)
lanes = st.builds(
    Lane,
    owners=wire.rising(wire.peer_ids, 3, least=1),
    hops=wire.tuples(chain_hops, 2, least=1),
)
offers = st.builds(
    Offer,
    run=wire.peer_ids,
    device=wire.peer_ids,
    name=wire.labels,
    addresses=wire.tuples(wire.addresses, ADDRESSES_MAX, least=1),
    incarnation=wire.counts,
    beat=wire.counts,
    is_owner=st.booleans(),
    is_relay=st.booleans(),
    is_leaving=st.booleans(),
    round=wire.counts,
    memory_bytes=st.integers(0, hops.MEMORY_BYTES_MAX),
    batch_us=wire.counts,
    chain=wire.tuples(chain_hops, 2),
    held=wire.rising(helds, 3, key=lambda held: held.shard),
    lanes=wire.tuples(lanes, 2),
).map(lambda offer: offer if offer.is_owner else replace(offer, round=0, chain=(), lanes=()))
takes = st.builds(
    lambda stage, epochs, **rest: Take(first=stage[0], last=stage[1], since=epochs[0], epoch=epochs[1], **rest),
    stages,
    st.tuples(wire.counts, wire.counts).map(sorted),
    run=wire.peer_ids,
    owner=wire.peer_ids,
    owner_address=wire.addresses,
    previous=wire.addresses,
    next=wire.addresses,
)
backs = st.builds(
    lambda run, owner, stage: Back(run=run, owner=owner, first=stage[0], last=stage[1]),
    wire.peer_ids,
    wire.peer_ids,
    stages,
)
news = st.builds(
    Word,
    run=wire.peer_ids,
    owner=wire.peer_ids,
    epoch=wire.counts,
    round=wire.counts,
    batch=wire.counts,
    place=shards,
)


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    """With the payload of a tensor, or with any bytes of a length that one may have."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=tensors.DIMS_MAX).map(tuple))
    name = draw(st.sampled_from(tensors.CODECS))
    array = np.full(shape, draw(st.floats(-1, 1, width=32)), np.float32)
    least, most = tensors.size_range(name, array.size)
    payload = draw(st.just(tensors.encode(name, array)) | st.binary(min_size=least, max_size=most))
    ids, counts = wire.peer_ids, wire.counts
    parts = draw(st.integers(1, MICRO_BATCHES_MAX))
    return Passage(
        run=draw(ids),
        owner=draw(ids),
        epoch=draw(counts),
        round=draw(counts),
        batch=draw(counts),
        part=draw(st.integers(0, parts - 1)),
        parts=parts,
        is_training=draw(st.booleans()),
        codec=name,
        shape=shape,
        payload=payload,
    )


KINDS: dict[str, tuple[Callable, Callable, st.SearchStrategy, object]] = {
    "offers": (
        hops.encode_offers,
        hops.decode_offers,
        wire.rising(offers, 3, key=lambda offer: offer.device).map(lambda found: Offers(offers=found)),
        Offers(offers=(OFFER, replace(OFFER, device=HASH[:16], is_owner=False, round=0, chain=(), held=(), lanes=()))),
    ),
    "take": (hops.encode_take, hops.decode_take, takes, TAKE),
    "back": (hops.encode_back, hops.decode_back, backs, Back(run=RUN, owner=PEER, first=3, last=5)),
    "word": (
        hops.encode_word,
        hops.decode_word,
        news,
        Word(run=RUN, owner=PEER, epoch=2, round=7, batch=9, place=4),
    ),
    "passage": (hops.encode_passage, hops.decode_passage, passages(), PASSAGE),
}
RECORDS = ("offers", "take", "back", "word")
kinds = pytest.mark.parametrize("kind", KINDS)
records = pytest.mark.parametrize("kind", RECORDS)


def decodes_or_refuses(kind: str, data: bytes) -> bool:
    """Whether it decodes; if so, then to the one value that has this encoding."""
    encode, decode, *_ = KINDS[kind]
    try:
        value = decode(data)
    except WireError:
        return False
    assert encode(value) == data
    return True


def example(kind: str) -> bytes:
    encode, _, _, value = KINDS[kind]
    return encode(value)


def plain_of(kind: str) -> object:
    return msgpack.unpackb(example(kind)[: -codec.TAG_BYTES], use_list=False)


def passage(head: object, payload: bytes = PASSAGE.payload, size: int | None = None) -> bytes:
    """A passage with any header, framed rightly; `size` is what it says of the header."""
    packed = head if isinstance(head, bytes) else msgpack.packb(head)
    return codec.frame((len(packed) if size is None else size).to_bytes(4, "big") + packed + payload)


def passes(head: object, payload: bytes = PASSAGE.payload) -> bool:
    return decodes_or_refuses("passage", passage(head, payload))


@kinds
def test_there_and_back(kind):
    encode, decode, values, _ = KINDS[kind]

    @given(values)
    def check(value):
        data = encode(value)
        assert decode(data) == decode(bytearray(data)) == decode(memoryview(data)) == value
        assert encode(decode(data)) == data

    check()


@pytest.mark.parametrize(
    ("kind", "shape", "less"),
    [
        (HeldShard, hops.HELD_SHARD, 0),
        (Lane, hops.LANE, 0),
        (Offer, hops.OFFER, 0),
        (Take, hops.TAKE, 0),
        (Back, hops.BACK, 0),
        (Word, hops.WORD, 0),
        (Passage, hops.HEADER, 1),
    ],
)
def test_the_wire_has_the_fields_in_their_order(kind, shape, less):
    examples = (HELD, OFFER, *OFFER.lanes, *(row[3] for row in KINDS.values()))
    value = next(each for each in examples if type(each) is kind)
    names = [field.name for field in fields(kind)]
    plain = [field if type(field) is not HeldShard else None for field in shape.dump(value)]
    assert len(plain) == len(names) - less
    for name, field in zip(names, plain, strict=False):
        if name not in ("held", "chain", "lanes", "hops"):
            assert field == getattr(value, name)


def test_a_tensor_comes_out_as_the_sender_computes_it():
    array = np.arange(300, dtype=np.float32).reshape(3, 100)
    for name in tensors.CODECS:
        payload = tensors.encode(name, array, seed=5)
        heard = hops.decode_passage(
            hops.encode_passage(replace(PASSAGE, codec=name, shape=array.shape, payload=payload))
        )
        mine = tensors.decode(name, payload, array.shape)
        assert tensors.decode(heard.codec, heard.payload, heard.shape).tobytes() == mine.tobytes()


def test_golden_frames():
    assert example("back")[: -codec.TAG_BYTES] == b"\x94\xc4\x10" + RUN + b"\xc4\x10" + PEER + b"\x03\x05"
    head = b"\x9a\xc4\x10" + RUN + b"\xc4\x10" + PEER + b"\x02\x07\x09\x01\x04\xc3\xa4fp32\x92\x02\x03"
    assert example("passage") == codec.frame(len(head).to_bytes(4, "big") + head + PASSAGE.payload)
    assert passage(HEAD) == example("passage")


# -- limits -----------------------------------------------------------------------------------------------------------


def at(*path: int, make: Callable[[int], object] = lambda n: n) -> Callable[[object, int], object]:
    return lambda plain, count: put(plain, path, make(count))


def device(number: int, **changes: object) -> Offer:
    return replace(OFFER, device=number.to_bytes(16, "big"), **changes)


HOP_PLAIN = plain_of("offers")[0][0][12][0]
HELD_PLAIN = plain_of("offers")[0][0][13][0]
LANE_PLAIN = plain_of("offers")[0][0][14][0]
LIMITS = {
    "DEVICES_MAX": (
        "offers",
        hops.DEVICES_MAX,
        lambda plain, n: (tuple(put(plain[0][0], (1,), i.to_bytes(16, "big")) for i in range(n)),),
    ),
    "NAME_BYTES_MAX": ("offers", NAME_BYTES_MAX, at(0, 0, 2, make=lambda n: "é" * (n // 2) + "x" * (n % 2))),
    "ADDRESSES_MAX": ("offers", ADDRESSES_MAX, at(0, 0, 3, make=lambda n: ("192.0.2.7:4711",) * n)),
    "port": ("offers", 65535, at(0, 0, 3, 0, make=lambda n: f"192.0.2.7:{n}")),
    "incarnation": ("offers", INTEGER_MAX, at(0, 0, 4)),
    "beat": ("offers", INTEGER_MAX, at(0, 0, 5)),
    "round": ("offers", INTEGER_MAX, at(0, 0, 9)),
    "round of no owner": ("offers", 0, at(0, 1, 9)),
    "MEMORY_BYTES_MAX": ("offers", hops.MEMORY_BYTES_MAX, at(0, 0, 10)),
    "batch_us": ("offers", INTEGER_MAX, at(0, 0, 11)),
    "SHARDS_MAX": (
        "offers",
        SHARDS_MAX,
        at(0, 0, 13, make=lambda n: tuple(put(HELD_PLAIN, (0,), i) for i in range(n))),
    ),
    "HOPS_MAX": ("offers", hops.HOPS_MAX, at(0, 0, 12, make=lambda n: (HOP_PLAIN,) * n)),
    "LANES_MAX": ("offers", hops.LANES_MAX, at(0, 0, 14, make=lambda n: (LANE_PLAIN,) * n)),
    "hops of a lane": ("offers", hops.HOPS_MAX, at(0, 0, 14, 0, 1, make=lambda n: (HOP_PLAIN,) * n)),
    "owners of a lane": (
        "offers",
        hops.DEVICES_MAX,
        at(0, 0, 14, 0, 0, make=lambda n: tuple(i.to_bytes(16, "big") for i in range(n))),
    ),
    "shard held": ("offers", SHARDS_MAX - 1, at(0, 0, 13, 0, 0)),
    "tip_round": ("offers", INTEGER_MAX, at(0, 0, 13, 0, 1)),
    "epoch of a take": ("take", INTEGER_MAX, at(3)),
    "since of a take is its epoch": ("take", TAKE.epoch, at(4)),
    "first of a take is its last": ("take", TAKE.last, at(5)),
    "last of a take": ("take", SHARDS_MAX - 1, at(6)),
    "first of a back is its last": ("back", 5, at(2)),
    "last of a back": ("back", SHARDS_MAX - 1, at(3)),
    "epoch": ("word", INTEGER_MAX, at(2)),
    "round of a word": ("word", INTEGER_MAX, at(3)),
    "batch": ("word", INTEGER_MAX, at(4)),
    "place": ("word", SHARDS_MAX - 1, at(5)),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limit(limit):
    kind, most, build = LIMITS[limit]
    plain = plain_of(kind)
    assert decodes_or_refuses(kind, framed(build(plain, most)))
    assert not decodes_or_refuses(kind, framed(build(plain, most + 1)))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("offers", (0, 0, 2), ""),
        ("offers", (0, 0, 3), ()),
        ("offers", (0, 0, 3, 0), "192.0.2.7:0"),
        ("offers", (0, 0, 10), -1),
        ("offers", (0, 0, 12, 0, 2), 0),
        ("offers", (0, 0, 12, 0, 3), 1),
        ("take", (2,), "localhost:4711"),
        ("take", (5,), 0),
        ("take", (6,), 2),
        ("take", (7,), ""),
        ("take", (8,), "192.0.2.7"),
        ("back", (2,), 0),
        ("back", (3,), 2),
        ("word", (5,), -1),
    ],
)
def test_one_below_the_least(kind, path, value):
    assert not decodes_or_refuses(kind, framed(put(plain_of(kind), path, value)))


def test_the_least_offers():
    assert hops.decode_offers(hops.encode_offers(Offers(offers=()))) == Offers(offers=())
    assert decodes_or_refuses("offers", framed(((),)))


@records
def test_exact_lengths_of_ids_and_hashes(kind):
    plain, found = plain_of(kind), 0
    for path in paths(plain):
        here = plain
        for step in path:
            here = here[step]
        if type(here) is bytes:
            found += 1
            for other in (here[:-1], here + b"\x00"):
                assert not decodes_or_refuses(kind, framed(put(plain, path, other)))
    assert found >= 2


@pytest.mark.parametrize(
    ("path", "unordered"),
    [
        ((0,), (plain_of("offers")[0][1], plain_of("offers")[0][0])),
        ((0,), (plain_of("offers")[0][0],) * 2),
        ((0, 0, 13), (HELD_PLAIN, put(HELD_PLAIN, (0,), 2))),
        ((0, 0, 13), (HELD_PLAIN, HELD_PLAIN)),
    ],
)
def test_order_where_order_matters(path, unordered):
    assert not decodes_or_refuses("offers", framed(put(plain_of("offers"), path, unordered)))


def test_the_longest_address_and_the_emptiest_device():
    longest = replace(OFFER, addresses=(LONGEST,) * ADDRESSES_MAX, held=(), memory_bytes=0, batch_us=0)
    assert decodes_or_refuses("offers", hops.encode_offers(Offers(offers=(longest,))))
    assert decodes_or_refuses("take", hops.encode_take(replace(TAKE, next=LONGEST)))
    with pytest.raises(ValueError, match=r"Take\.next: not an address"):
        hops.encode_take(replace(TAKE, next=LONGEST + "1"))


def full(number: int, shards_held: int, **changes: object) -> Offer:
    """As long as an offer that holds so many shards can be."""
    held = tuple(replace(HELD, shard=shard, tip_round=INTEGER_MAX) for shard in range(shards_held))
    long = {"incarnation": INTEGER_MAX, "beat": INTEGER_MAX, "round": INTEGER_MAX, "batch_us": INTEGER_MAX}
    rest = {
        "name": "x" * NAME_BYTES_MAX,
        "addresses": (LONGEST,) * ADDRESSES_MAX,
        "held": held,
        "chain": (),
        "lanes": (),
    }
    return device(number, memory_bytes=hops.MEMORY_BYTES_MAX, **(long | rest | changes))


def test_as_many_devices_as_we_say_fit_in_one_body():
    offers_ = [full(i, 8) for i in range(hops.DEVICES_MAX)]
    assert fit(offers_, offers_[5].device) == Offers(offers=tuple(offers_))
    assert decodes_or_refuses("offers", hops.encode_offers(Offers(offers=tuple(offers_))))


def exactly(size_bytes: int) -> Offers:
    """Offers of exactly so many bytes on the wire."""
    each = len(msgpack.packb(hops.OFFER.dump(full(0, 12, name="x"))))
    count, missing = divmod(size_bytes - len(framed(((None,) * 16,))) + 16, each)
    many = [full(i, 12, name="x") for i in range(count)]
    for i in range(len(many)):
        more = min(missing, 30)
        many[i] = replace(many[i], name="x" * (1 + more))
        missing -= more
    assert not missing
    return Offers(offers=tuple(many))


def test_gossip_bytes_max():
    fits, beyond = exactly(GOSSIP_BYTES_MAX), exactly(GOSSIP_BYTES_MAX + 1)
    assert len(hops.encode_offers(fits)) == GOSSIP_BYTES_MAX
    assert decodes_or_refuses("offers", hops.encode_offers(fits))
    with pytest.raises(ValueError, match="65537 bytes where 65536 may be"):
        hops.encode_offers(beyond)
    with pytest.raises(WireError, match="message of 65537 bytes"):
        hops.decode_offers(framed((tuple(hops.OFFER.dump(offer) for offer in beyond.offers),)))


@pytest.mark.parametrize("kind", ["take", "back", "word"])
def test_orders_beyond_gossip_bytes_max_are_not_looked_at(kind):
    for size, reason in ((GOSSIP_BYTES_MAX, "msgpack"), (GOSSIP_BYTES_MAX + 1, f"message of {GOSSIP_BYTES_MAX + 1}")):
        with pytest.raises(WireError, match=reason):
            KINDS[kind][1](codec.frame(bytes(size - codec.TAG_BYTES)))


# -- which offers fit -------------------------------------------------------------------------------------------------


def test_my_own_offer_comes_first_then_the_others_in_their_order():
    many = [full(200 - i, 16) for i in range(100)]
    last = many[-1].device
    kept = fit(many, last).offers
    assert [offer.device for offer in kept] == sorted(offer.device for offer in (many[-1], *many[: len(kept) - 1]))
    assert len(hops.encode_offers(Offers(offers=kept))) <= GOSSIP_BYTES_MAX
    left = GOSSIP_BYTES_MAX - len(hops.encode_offers(Offers(offers=kept)))
    assert left < len(framed(hops.OFFER.dump(many[0])))


def test_of_more_devices_than_may_be_the_first_are_kept():
    many = [device(i) for i in range(hops.DEVICES_MAX + 1)]
    assert fit(many, many[3].device).offers == tuple(many[:-1])
    assert fit(many, many[-1].device).offers == (*many[:-2], many[-1])
    assert fit(many, b"who is not there").offers == tuple(many[:-1])
    assert fit([], PEER) == Offers(offers=())


def test_fit_fills_a_body_to_the_last_byte():
    fits, beyond = exactly(GOSSIP_BYTES_MAX).offers, exactly(GOSSIP_BYTES_MAX + 1).offers
    assert fit(fits, fits[0].device).offers == fits
    assert fit(beyond, beyond[0].device).offers == beyond[:-1]


def test_a_shorter_one_may_follow_one_that_is_too_long():
    fits = exactly(GOSSIP_BYTES_MAX).offers[:-1]
    small = device(1000, addresses=OFFER.addresses[:1], held=())
    assert fit([*fits, full(999, 64), small], fits[0].device).offers == (*fits, small)


def test_an_offer_that_is_not_fit_is_our_own_mistake():
    with pytest.raises(ValueError, match=r"not fit for the wire: Offer\.name"):
        fit([replace(OFFER, name="")], PEER)


# -- passages ---------------------------------------------------------------------------------------------------------

LONG_HEAD = (RUN, PEER, INTEGER_MAX, INTEGER_MAX, INTEGER_MAX, MICRO_BATCHES_MAX - 1, MICRO_BATCHES_MAX, True, "fp32")


def test_hop_bytes_max():
    """The largest tensor with the longest header it can have fits. One beyond the limit is not looked at."""
    elements = tensors.ELEMENTS_MAX
    payload = tensors.encode("fp32", np.zeros(elements, np.float32))
    names = ("run", "owner", "epoch", "round", "batch", "part", "parts", "is_training", "codec")
    longest = dict(zip(names, LONG_HEAD, strict=True))
    whole = Passage(**longest, shape=(1, 1, 1, 1, 1, elements), payload=payload)
    data = hops.encode_passage(whole)
    assert len(data) <= HOP_BYTES_MAX
    assert hops.decode_passage(data) == whole
    assert hops.LENGTH_BYTES + hops.HEADER_BYTES_MAX + codec.TAG_BYTES <= tensors.AROUND_BYTES_MAX
    exact = codec.frame(data[: -codec.TAG_BYTES].ljust(HOP_BYTES_MAX - codec.TAG_BYTES, b"\0"))
    with pytest.raises(WireError, match=r"Passage\.payload"):
        hops.decode_passage(exact)
    with pytest.raises(WireError, match=f"message of {HOP_BYTES_MAX + 1} bytes"):
        hops.decode_passage(exact + b"\0")
    for head in ((*LONG_HEAD, (elements + 1,)), (*LONG_HEAD, (2, elements // 2 + 1))):
        with pytest.raises(WireError, match="shape"):
            hops.decode_passage(passage(head, payload))
    with pytest.raises(ValueError, match="more than 4194224 elements"):
        hops.encode_passage(replace(whole, shape=(2, elements // 2 + 1)))


def test_header_bytes_max():
    longest = msgpack.packb((*LONG_HEAD, (tensors.ELEMENTS_MAX,) * tensors.DIMS_MAX))
    assert len(longest) == hops.HEADER_BYTES_MAX
    with pytest.raises(WireError, match="elements"):
        hops.decode_passage(passage(longest))
    with pytest.raises(WireError, match="header of 104 bytes: at most 103"):
        hops.decode_passage(passage(longest + b"\0"))


@pytest.mark.parametrize("size", [0, 1, 50, 52, 102, 103, 104, 2**31, 2**32 - 1])
def test_who_lies_about_the_header_is_refused(size):
    assert len(msgpack.packb(HEAD)) == 51
    assert not decodes_or_refuses("passage", passage(HEAD, size=size))


@pytest.mark.parametrize("field", [2, 3, 4])
def test_counts_of_a_passage(field):
    assert passes(put(HEAD, (field,), INTEGER_MAX))
    assert not passes(put(HEAD, (field,), INTEGER_MAX + 1))
    assert not passes(put(HEAD, (field,), -1))


def test_parts_of_a_passage():
    most = MICRO_BATCHES_MAX
    for part, parts, belongs in (
        (0, 1, True), (most - 1, most, True), (0, most, True), (1, 1, False), (4, 3, False), (0, 0, False),
        (-1, 1, False), (most, most + 1, False), (0, most + 1, False),
    ):  # fmt: skip
        assert passes(put(put(HEAD, (5,), part), (6,), parts)) == belongs


def test_shapes_of_a_passage():
    for shape in ((6,), (6, 1), (1, 1, 1, 1, 1, 6)):
        assert passes(put(HEAD, (9,), shape))
    for shape in ((), (1, 1, 1, 1, 1, 1, 6), (0, 6), (-2, -3), (6, True), (6.0,), (5,), (7,), ((2, 3),), 6, None):
        assert not passes(put(HEAD, (9,), shape))


def test_codecs_of_a_passage():
    array = np.arange(6, dtype=np.float32)
    for name in tensors.CODECS:
        assert passes(put(HEAD, (8,), name), tensors.encode(name, array))
    for name in ("int4", "stc", "auto", "", "FP32", b"fp32", None, 0):
        assert not passes(put(HEAD, (8,), name))


@pytest.mark.parametrize("name", tensors.CODECS)
def test_payloads_within_what_the_codec_may_give(name):
    """Of two segments, so that the range is that of the whole."""
    elements = 1_100_000
    head = put(put(HEAD, (8,), name), (9,), (elements,))
    least, most = tensors.size_range(name, elements)
    for size, belongs in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        assert passes(head, bytes(size)) == belongs
    for size in (least - 1, most + 1):
        with pytest.raises(ValueError, match=r"not fit for the wire: Passage\.payload"):
            hops.encode_passage(replace(PASSAGE, codec=name, shape=(elements,), payload=bytes(size)))


@settings(max_examples=300)
@given(passages(), st.data())
def test_a_passage_changed_anywhere_under_a_right_tag(value, data):
    """Another valid passage or none; and then its payload is a tensor or refused."""
    body = bytearray(hops.encode_passage(value)[: -codec.TAG_BYTES])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = body[: data.draw(st.integers(len(body) - 3, len(body)))]
    changed = codec.frame(bytes(cut))
    if decodes_or_refuses("passage", changed):
        heard = hops.decode_passage(changed)
        with suppress(WireError):
            tensors.decode(heard.codec, heard.payload, heard.shape)


# -- hostile bytes ----------------------------------------------------------------------------------------------------


@kinds
def test_any_bytes(kind):
    @settings(max_examples=100)
    @given(st.binary(max_size=200), st.booleans())
    def check(data, tagged):
        decodes_or_refuses(kind, codec.frame(data) if tagged else data)

    check()


@kinds
def test_every_prefix_and_one_byte_more(kind):
    whole = example(kind)
    payload = whole[: -codec.TAG_BYTES]
    for length in range(len(payload)):
        assert not decodes_or_refuses(kind, whole[:length])
        assert not decodes_or_refuses(kind, codec.frame(payload[:length]))
    assert not decodes_or_refuses(kind, whole + b"\xc0")
    assert not decodes_or_refuses(kind, codec.frame(payload + b"\xc0"))


@kinds
def test_every_bit_flip_of_a_frame(kind):
    whole = example(kind)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            KINDS[kind][1](data)


@kinds
def test_every_bit_flip_under_a_right_tag(kind):
    """The tag is no authenticator, anybody can compute it. Then it is another valid message or none."""
    payload = example(kind)[: -codec.TAG_BYTES]
    for bit in range(8 * len(payload)):
        data = bytearray(payload)
        data[bit // 8] ^= 1 << bit % 8
        decodes_or_refuses(kind, codec.frame(bytes(data)))


@kinds
def test_messages_of_another_kind_are_refused(kind):
    others = [example(other) for other in KINDS if other != kind]
    foreign = [codec.encode_probe(HASH, PEER), codec.encode_links(())]
    for data in (*others, *foreign):
        assert not decodes_or_refuses(kind, data)


WRONG = [
    True, False, None, -1, 2**53, 2**64 - 1, 1.0, float("nan"), "", "\x00", "x" * 999, b"", bytes(31), bytes(40_000),
    [], [[]], {}, {"a": 1}, msgpack.ExtType(1, b"x"), msgpack.Timestamp(1),
]  # fmt: skip


@records
def test_every_field_with_every_wrong_type(kind):
    plain = plain_of(kind)
    accepted = {
        (path, repr(wrong))
        for path in paths(plain)
        for wrong in WRONG
        if decodes_or_refuses(kind, framed(put(plain, path, wrong)))
    }
    # Flags that may be otherwise (who is no owner has no round); offers, chains and shards that may be none.
    assert {value for _, value in accepted} <= {"[]", "[[]]", "True", "False"}
    assert len(accepted) == {"offers": 21, "take": 0, "back": 0, "word": 0}[kind]


def test_every_field_of_a_passage_with_every_wrong_type():
    for path in paths(HEAD):
        for wrong in WRONG:
            if path != (7,) or type(wrong) is not bool:
                assert not passes(put(HEAD, path, wrong))


@records
def test_every_list_one_longer_or_shorter_than_its_record(kind):
    plain = plain_of(kind)
    for path in paths(plain):
        here = plain
        for step in path:
            here = here[step]
        if type(here) is tuple:
            for other in (here[:-1], (*here, 0), (*here, ())):
                decodes_or_refuses(kind, framed(put(plain, path, other)))
    for other in (plain[:-1], (*plain, 0)):
        assert not decodes_or_refuses(kind, framed(other))


def test_a_value_has_one_encoding():
    back = example("back")[: -codec.TAG_BYTES]
    assert not decodes_or_refuses("back", codec.frame(back[:-1] + b"\xcc\x05"))
    assert not decodes_or_refuses("back", codec.frame(b"\xdc\x00\x04" + back[1:]))
    offers_ = example("offers")[: -codec.TAG_BYTES]
    assert offers_[:2] == b"\x91\x92"
    assert not decodes_or_refuses("offers", codec.frame(b"\x91\xdc\x00\x02" + offers_[2:]))
    head = msgpack.packb(HEAD)
    assert not passes(head[:-1] + b"\xcc\x03")
    assert not passes(b"\xdc\x00\x0a" + head[1:])


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\x00\x01\x00\x00" * 10_000,
        b"\x91" * 60_000,
        b"\xdc\xff\xff" + b"\x90" * 60_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x80",
        b"\xc7\x00\x01",
        b"\xc1",
        b"",
    ],
)
@kinds
def test_bombs_and_foreign_types(kind, bomb):
    assert not decodes_or_refuses(kind, codec.frame(bomb))
    assert not decodes_or_refuses("passage", passage(bomb))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("offers", Offers(offers=(OFFER, OFFER))),
        ("offers", Offers(offers=(replace(OFFER, is_owner=False),))),
        ("offers", Offers(offers=(replace(OFFER, held=(HELD, HELD)),))),
        ("offers", Offers(offers=(replace(OFFER, addresses=()),))),
        ("offers", Offers(offers=tuple(map(device, range(hops.DEVICES_MAX + 1))))),
        ("take", replace(TAKE, first=6)),
        ("take", replace(TAKE, since=3)),
        ("take", replace(TAKE, run=bytes(32))),
        ("back", Back(run=RUN, owner=PEER, first=0, last=1)),
        ("word", Word(run=RUN, owner=PEER, epoch=-1, round=0, batch=0, place=0)),
        ("passage", replace(PASSAGE, codec="int4")),
        ("passage", replace(PASSAGE, shape=())),
        ("passage", replace(PASSAGE, payload=bytearray(PASSAGE.payload))),
    ],
)
def test_what_others_would_refuse_is_our_own_mistake(kind, wrong):
    with pytest.raises(ValueError, match="not fit for the wire"):
        KINDS[kind][0](wrong)


def test_messages_are_frozen_and_have_no_room_for_more():
    for value in (HELD, OFFER, *(row[3] for row in KINDS.values())):
        assert not hasattr(value, "__dict__")
        with pytest.raises(AttributeError):
            setattr(value, fields(value)[0].name, 1)

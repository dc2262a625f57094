"""The codec: what is encoded comes back, in one encoding; ids, digests and chains."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion import config
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import WireError
from p2pfusion.wire import codec, shapes
from p2pfusion.wire.messages import (
    Contribution,
    Gossip,
    Link,
    Report,
    RunDescription,
    ShardReport,
    Snapshot,
)
from tests.wire import strategies as wire
from tests.wire.plain import EXAMPLES, IDS, KINDS, REPORT, SHARD, WORK, framed, plain_of, put
from tests.wire.strategies import HASH, PEER

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_every_message_comes_back(kind):
    encode, decode, strategy = KINDS[kind]

    @settings(max_examples=40)
    @given(strategy)
    def check(value):
        data = encode(value)
        assert decode(data) == decode(bytearray(data)) == decode(memoryview(data)) == value

    check()
    assert decode(encode(EXAMPLES[kind])) == EXAMPLES[kind]


@pytest.mark.parametrize("kind", [Contribution, Link, ShardReport, Report, Gossip, Snapshot, RunDescription])
def test_every_field_is_on_the_wire_in_its_order(kind):
    """A field without a shape would silently keep its default, and another order would be another protocol."""
    value = {
        Contribution: WORK,
        Link: EXAMPLES["links"][0],
        ShardReport: SHARD,
        Report: REPORT,
        Gossip: EXAMPLES["gossip"],
        Snapshot: EXAMPLES["snapshot"],
        RunDescription: EXAMPLES["run"],
    }[kind]
    shape = {
        Contribution: shapes.CONTRIBUTION,
        Link: shapes.LINK,
        ShardReport: shapes.SHARD_REPORT,
        Report: shapes.REPORT,
        Gossip: shapes.GOSSIP,
        Snapshot: shapes.SNAPSHOT,
        RunDescription: shapes.RUN_DESCRIPTION,
    }[kind]
    plain = shape.dump(value)
    names = [field.name for field in dataclasses.fields(kind)]
    assert len(plain) == len(names)
    for name, item in zip(names, plain, strict=True):
        here = getattr(value, name)
        assert item == here or (
            type(item) is tuple and len(item) == len(dataclasses.astuple(here) if name == "sub_model" else here)
        )


@pytest.mark.parametrize(
    ("kind", "golden"),
    [
        ("contribution", "cf8840daa9a90b69a141fd8a78a48dd0d2ac82d10059d2ce310b7c215e6e7fc4"),
        ("gossip", "e1cf97d13788a40e51fdeccbd97833743ecd4b48d9bc330760c97c089eafd8b5"),
        ("links", "b3fd2bbb596a8191a93e2bcc8f13916947644c308c67e2a1639a4a5532232d9f"),
        ("snapshot", "afd833a217f189be073a61bf09961724257e99add3f073716029589f2422938b"),
        ("run", "580177c8d967b90dba55b41e79ec8fcbd23151bca5fe8ab0e04f3a7d8f12a6b5"),
    ],
)
def test_golden_encodings(kind, golden):
    """These bytes are the protocol: another value here means another PROTOCOL_VERSION."""
    assert blake3(KINDS[kind][0](EXAMPLES[kind])).hexdigest() == golden


# -- our own mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        replace(WORK, weight=0),
        replace(WORK, weight=True),
        replace(WORK, round=-1),
        replace(WORK, peer=HASH),
        replace(WORK, kind="?"),
        replace(WORK, segments=()),
        replace(WORK, segments=list(WORK.segments)),
        replace(WORK, codec="\n"),
        replace(WORK, sub_model=SubModel((), ())),
        replace(WORK, sub_model=SubModel(("a",), (("h", ((4, 0),)),))),
        replace(WORK, sub_model=SubModel(("a",), (("h", ((0, 4, 6),)),))),
        replace(WORK, sub_model=SubModel(("\ud800",), ())),
    ],
)
def test_nothing_leaves_that_others_would_refuse(wrong):
    for call in (codec.encode_contribution, codec.contribution_id):
        with pytest.raises(ValueError, match="not fit for the wire: Contribution"):
            call(wrong)


def test_too_long_a_message_is_refused_before_it_leaves():
    inline = ((HASH, (bytes(config.INLINE_BYTES_MAX),)),) * 2
    with pytest.raises(ValueError, match="65536 may be"):
        codec.encode_gossip(replace(EXAMPLES["gossip"], inline=inline))


def test_error_texts_name_our_field_and_not_the_input():
    with pytest.raises(WireError) as caught:
        codec.decode_gossip(framed(put(plain_of("gossip"), (2, 0, 1), "evil\n")))
    assert str(caught.value) == "Gossip.reports: Report.name: not a text without control characters"


@settings(max_examples=25)
@given(wire.gossips, st.integers(0, 60), st.integers(0, 3))
def test_fit_gossip_keeps_what_fits(gossip, reports, inline):
    shards = (replace(SHARD, digests=tuple((r, PEER) for r in range(64))),)
    heavy = (replace(REPORT, shards=shards),) * reports
    whole = replace(gossip, reports=heavy + gossip.reports, inline=((HASH, (bytes(30_000),)),) * inline + gossip.inline)
    fitted = codec.fit_gossip(whole)
    assert codec.decode_gossip(codec.encode_gossip(fitted)) == fitted
    for name in shapes.GOSSIP_ITEMS:
        rest = iter(getattr(whole, name))
        assert all(item in rest for item in getattr(fitted, name))  # in order
    if reports <= 10 and not inline:
        assert fitted == whole
    if reports == 60:
        assert len(codec.encode_gossip(fitted)) > config.GOSSIP_BYTES_MAX * 0.9


# -- ids, digests, chains ---------------------------------------------------------------------------------------------


@given(wire.contributions, wire.contributions)
def test_equal_ids_mean_equal_manifests(left, right):
    assert (codec.contribution_id(left) == codec.contribution_id(right)) == (left == right)
    payload = codec.encode_contribution(left)[: -codec.TAG_BYTES]
    assert codec.contribution_id(left) == blake3(payload).digest()


@given(st.lists(wire.hashes, max_size=5), st.randoms(use_true_random=False), wire.hashes)
def test_chains_and_digests_do_not_depend_on_order(ids, rng, previous):
    shuffled = rng.sample(ids, len(ids))
    assert codec.digest(ids) == codec.digest(shuffled)
    assert codec.next_chain(previous, ids) == codec.next_chain(previous, shuffled)
    assert len(codec.digest(ids)) == 16
    assert len(codec.next_chain(previous, ids)) == 32
    if ids:
        assert codec.digest(ids) != codec.digest(ids[1:])
        assert codec.next_chain(previous, ids) != codec.next_chain(previous, ids[1:])


def test_golden_chain():
    chain = codec.genesis_chain(HASH)
    assert chain == blake3(b"p2pfusion genesis" + HASH).digest()
    assert codec.next_chain(chain, IDS) == blake3(chain + bytes(32) + HASH).digest()
    assert codec.digest([]) == blake3(b"").digest(length=16)


def test_frames():
    assert codec.unframe(codec.frame(b"x"), 17) == b"x"
    for data in (b"", bytes(16), codec.frame(b""), codec.frame(b"xy")):
        with pytest.raises(WireError):
            codec.unframe(data, 17)

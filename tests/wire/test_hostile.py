"""Hostile bytes: whatever arrives is one valid message in its one encoding, or a `WireError` and nothing else."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.errors import WireError
from p2pfusion.wire import codec
from tests.wire.plain import EXAMPLES, KINDS, WORK, decodes_or_refuses, framed, paths, plain_of, put

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_any_bytes(kind):
    @settings(max_examples=100)
    @given(st.binary(max_size=200), st.booleans())
    def check(data, tagged):
        decodes_or_refuses(kind, codec.frame(data) if tagged else data)

    check()


@kinds
def test_every_prefix(kind):
    whole = KINDS[kind][0](EXAMPLES[kind])
    payload = whole[: -codec.TAG_BYTES]
    for length in range(len(payload)):
        assert not decodes_or_refuses(kind, whole[:length])
        assert not decodes_or_refuses(kind, codec.frame(payload[:length]))
    assert not decodes_or_refuses(kind, codec.frame(payload + b"\xc0"))


@kinds
def test_every_bit_flip_of_a_frame(kind):
    whole = KINDS[kind][0](EXAMPLES[kind])
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            KINDS[kind][1](data)


@kinds
def test_every_bit_flip_under_a_right_tag(kind):
    """The tag is no authenticator, anybody can compute it. Then it is another valid message or none."""
    payload = KINDS[kind][0](EXAMPLES[kind])[: -codec.TAG_BYTES]
    for bit in range(8 * len(payload)):
        data = bytearray(payload)
        data[bit // 8] ^= 1 << bit % 8
        decodes_or_refuses(kind, codec.frame(bytes(data)))


WRONG = [
    True,
    False,
    None,
    -1,
    2**53,
    2**64 - 1,
    1.0,
    float("nan"),
    "",
    "\x00",
    "x" * 999,
    b"",
    bytes(31),
    bytes(40_000),
    [],
    [[]],
    {},
    {"a": 1},
    msgpack.ExtType(1, b"x"),
    msgpack.Timestamp(1),
]


@kinds
def test_every_field_with_every_wrong_type(kind):
    plain = plain_of(kind)
    accepted = {
        (path, repr(wrong))
        for path in paths(plain)
        for wrong in WRONG
        if decodes_or_refuses(kind, framed(put(plain, path, wrong)))
    }
    # Lists that may be empty, flags that may be otherwise, a stop or graft that may be missing, bytes of any number.
    assert {value for _, value in accepted} <= {"[]", "True", "False", "None", "b''", repr(bytes(31))}
    assert len(accepted) == {"contribution": 2, "gossip": 16, "links": 5, "snapshot": 1, "run": 2}[kind]


@kinds
def test_every_list_one_longer_or_shorter_than_its_record(kind):
    plain = plain_of(kind)
    for path in paths(plain):
        here = plain
        for step in path:
            here = here[step]
        if type(here) is tuple:
            for other in (here[:-1], (*here, 0), (*here, ())):
                decodes_or_refuses(kind, framed(put(plain, path, other)))


def test_a_value_has_one_encoding():
    """The same integer in more bytes, the same array under a longer header: refused, or one manifest had two ids."""
    payload = codec.encode_contribution(WORK)[: -codec.TAG_BYTES]
    assert payload[:3] == b"\x9c\x00\x05"
    assert not decodes_or_refuses("contribution", codec.frame(b"\x9c\xcc\x00" + payload[2:]))
    assert not decodes_or_refuses("contribution", codec.frame(b"\xdc\x00\x0c" + payload[1:]))
    assert not decodes_or_refuses("contribution", codec.frame(payload.replace(b"\xa4work", b"\xd9\x04work")))
    assert not decodes_or_refuses("contribution", codec.frame(payload.replace(b"\xa4work", b"\xc4\x04work")))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\x00\x01\x00\x00" * 10_000,  # nested headers that each announce 65,536 elements
        b"\x91" * 200_000,  # deeper than any stack
        b"\xdc\xff\xff" + b"\x90" * 65_535,  # many arrays
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x80",
        b"\x81\x90\x90",
        b"\xc7\x00\x01",
        b"\xa1\xff",
        b"\xc1",
        b"",
    ],
)
@kinds
def test_bombs_and_foreign_types(kind, bomb):
    assert not decodes_or_refuses(kind, codec.frame(bomb))

"""Gossip squeezed on the wire: the same message, fewer bytes, and no bomb."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import GOSSIP_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import codec, lossless
from p2pfusion.wire.codec import SIZE_BYTES, SQUEEZED, SQUEEZED_BYTES_MIN, squeezed, unsqueezed
from tests.wire import strategies as wire
from tests.wire.plain import EXAMPLES, REPORT

MANY = replace(EXAMPLES["gossip"], reports=tuple(replace(REPORT, beat=beat) for beat in range(20)))


def claiming(size: int, content: bytes) -> bytes:
    """A squeezed message that says it has this size."""
    return SQUEEZED + size.to_bytes(SIZE_BYTES, "big") + lossless.squeezed(content)


@given(wire.gossips)
def test_a_gossip_call_survives_squeezing(gossip):
    assert codec.decode_gossip(squeezed(codec.encode_gossip(gossip))) == gossip


def test_reports_that_resemble_each_other_take_a_third():
    plain = codec.encode_gossip(MANY)
    assert len(squeezed(plain)) < len(plain) / 3
    assert bytes(unsqueezed(squeezed(plain), GOSSIP_BYTES_MAX)) == plain


def test_short_and_random_frames_go_as_they_are():
    short, long = bytes(SQUEEZED_BYTES_MIN - 1), bytes(SQUEEZED_BYTES_MIN)
    assert squeezed(short) == short
    assert squeezed(long)[:1] == SQUEEZED
    noise = codec.blake3(b"noise").digest(length=4000)
    assert squeezed(noise) == noise


def test_the_limit_holds_for_what_comes_out():
    fits = bytes(GOSSIP_BYTES_MAX)
    assert bytes(unsqueezed(claiming(len(fits), fits), GOSSIP_BYTES_MAX)) == fits
    with pytest.raises(WireError):
        unsqueezed(claiming(len(fits) + 1, bytes(len(fits) + 1)), GOSSIP_BYTES_MAX)


@pytest.mark.parametrize("claimed", [0, SQUEEZED_BYTES_MIN - 1, 4999, 5001, GOSSIP_BYTES_MAX, 2**24 - 1])
def test_who_lies_about_the_size_is_refused(claimed):
    with pytest.raises(WireError):
        unsqueezed(claiming(claimed, bytes(5000)), GOSSIP_BYTES_MAX)


def test_damage_is_found():
    whole = squeezed(codec.encode_gossip(MANY))
    for at in range(len(whole)):
        for bit in (1, 128):
            damaged = bytearray(whole)
            damaged[at] ^= bit
            try:
                assert codec.decode_gossip(bytes(damaged)) == MANY  # a bit of zstd's own that says nothing
            except WireError:
                continue
    for end in range(len(whole)):
        with pytest.raises(WireError):
            codec.decode_gossip(whole[:end])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_refused(data):
    for hostile in (SQUEEZED + data, SQUEEZED + (1000).to_bytes(SIZE_BYTES, "big") + data):
        with pytest.raises(WireError):
            codec.decode_gossip(hostile)

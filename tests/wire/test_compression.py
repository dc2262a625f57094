"""Codecs: exact sizes, exact bits, nothing infinite out of anything finite."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire.compression import (
    CODECS,
    Coding,
    decode_into,
    elements_per_segment,
    encode,
    segment_elements,
    segment_sizes,
    size_range,
)

floats = st.floats(width=32)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
names = st.sampled_from(sorted(CODECS))


def bits(*words: int) -> np.ndarray:
    return np.array(words, np.uint32).view(np.float32)


def decoded(codec: str, segments: tuple[bytes, ...], elements: int) -> np.ndarray:
    out = np.full(elements, 7, np.float32)
    step = elements_per_segment(codec)
    for index, segment in enumerate(segments):
        decode_into(codec, segment, out[index * step : (index + 1) * step])
    return out


@given(st.lists(floats, max_size=40))
def test_fp32_keeps_every_bit(values):
    flat = np.array(values, np.float32)
    assert decoded("fp32", encode("fp32", flat), flat.size).tobytes() == flat.tobytes()


@given(st.lists(floats, max_size=40))
def test_bf16_is_a_projection(values):
    once = decoded("bf16", encode("bf16", np.array(values, np.float32)), len(values))
    assert decoded("bf16", encode("bf16", once), once.size).tobytes() == once.tobytes()


@given(names, st.lists(finite, max_size=300))
def test_finite_stays_finite(codec, values):
    flat = np.array(values, np.float32)
    assert np.isfinite(decoded(codec, encode(codec, flat), flat.size)).all()


@given(st.lists(st.floats(2**-120, 2**127, width=32), max_size=40))
def test_bf16_relative_error_is_at_most_half_a_unit(values):
    flat = np.array(values, np.float32)
    back = decoded("bf16", encode("bf16", flat), flat.size)
    assert (np.abs(back.astype(np.float64) - flat) <= flat.astype(np.float64) * 2.0**-8).all()


def test_bf16_rounds_to_nearest_even_against_exact_arithmetic():
    """Every bfloat16 with every interesting lower half, against distances in float64, where all of this is exact."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    upper = upper[(upper & 0x7F80) != 0x7F80]
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        flat = ((upper << 16) | np.uint32(lower)).view(np.float32)
        codes = np.frombuffer(b"".join(encode("bf16", flat)), "<u2").astype(np.uint32)
        below, above = (upper << 16).view(np.float32).astype(np.float64), np.empty(upper.size)
        largest = (upper & 0x7FFF) == 0x7F7F
        above[~largest] = ((upper[~largest] + 1) << 16).view(np.float32)
        above[largest] = np.where(upper[largest] & 0x8000, -(2.0**128), 2.0**128)
        to_below, to_above = np.abs(flat - below), np.abs(above - flat)
        up = (to_above < to_below) | ((to_above == to_below) & (upper & 1 == 1))
        assert np.array_equal(codes, upper + (up & ~largest))


def test_bf16_of_what_is_not_finite():
    flat = bits(0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF)
    assert [hex(x) for x in np.frombuffer(encode("bf16", flat)[0], "<u2")] == [
        "0x7f80", "0xff80", "0x7fc0", "0x7fc0", "0xffff",
    ]  # fmt: skip


def test_golden_bf16_decoder():
    """All 65,536 codes: -0.0, denormals, infinities and NaN payloads among them."""
    codes = np.arange(1 << 16, dtype="<u2").tobytes()
    values = decoded("bf16", (codes,), 1 << 16)
    assert values[0x8000].tobytes() == b"\x00\x00\x00\x80"
    assert values[1].tobytes() == b"\x00\x00\x01\x00"
    assert blake3(values.astype("<f4").tobytes()).hexdigest() == GOLDEN_BF16


def test_golden_fp32_decoder():
    flat = bits(0, 0x80000000, 1, 0x807FFFFF, 0x00800000, 0x3F800001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0x7F800001)
    segment = flat.astype("<f4").tobytes() + blake3(b"p2pfusion golden").digest(length=4056)
    values = decoded("fp32", (segment,), 1024)
    assert blake3(values.astype("<f4").tobytes()).hexdigest() == GOLDEN_FP32


def test_golden_bf16_encoder():
    noise = np.frombuffer(blake3(b"p2pfusion golden").digest(length=4096), "<u4").view(np.float32)
    assert blake3(encode("bf16", noise)[0]).hexdigest() == GOLDEN_BF16_ENCODED


@pytest.mark.parametrize(("codec", "element_bytes"), [("fp32", 4), ("bf16", 2)])
def test_segments_are_full_but_the_last(codec, element_bytes):
    step = elements_per_segment(codec)
    assert step * element_bytes == SEGMENT_BYTES_MAX
    assert segment_elements(codec, 0) == ()
    assert segment_elements(codec, 2 * step + 3) == (step, step, 3)
    assert size_range(codec, 3) == (3 * element_bytes, 3 * element_bytes)
    assert segment_sizes(codec, 0) == ()
    assert segment_sizes(codec, 1) == (element_bytes,)
    assert segment_sizes(codec, step) == (SEGMENT_BYTES_MAX,)
    assert segment_sizes(codec, step + 1) == (SEGMENT_BYTES_MAX, element_bytes)
    flat = np.arange(2 * step + 3, dtype=np.float32)
    assert tuple(map(len, encode(codec, flat))) == segment_sizes(codec, flat.size)


@given(names, st.integers(1, 9), st.binary(max_size=40))
def test_another_size_is_refused_and_nothing_written(codec, elements, segment):
    out = np.full(elements, 7, np.float32)
    least, most = size_range(codec, elements)
    if least <= len(segment) <= most:
        with suppress(WireError):
            decode_into(codec, segment, out)
    else:
        with pytest.raises(WireError):
            decode_into(codec, segment, out)
        assert (out == 7).all()


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_reads_any_buffer_and_writes_a_view(codec):
    segment = encode(codec, np.array([2, -2], np.float32))[0]
    for body in (segment, bytearray(segment), memoryview(b"x" + segment)[1:]):
        out = np.zeros(4, np.float32)
        decode_into(codec, body, out[1:3])
        assert out.tolist() == pytest.approx([0, 2, -2, 0])
    decode_into(codec, b"", out[:0])
    with pytest.raises(WireError):
        decode_into(codec, b"\0", out[:0])


def test_our_own_mistakes_raise_value_error():
    flat = np.zeros(2, np.float32)
    for wrong in (flat.astype(np.float64), flat.reshape(1, 2)):
        with pytest.raises(ValueError, match="flat float32"):
            encode("fp32", wrong)
        with pytest.raises(ValueError, match="flat float32"):
            decode_into("fp32", bytes(8), wrong)
    with pytest.raises(ValueError, match="without gaps"):
        decode_into("int8", bytes(1), np.zeros(4, np.float32)[::2])
    with pytest.raises(ValueError, match="3 elements together"):
        encode("topk", flat, Coding(tensors=(1, 2)))
    for wrong in (np.nan, np.inf, -np.inf):
        for codec in ("int8", "int4", "topk", "stc"):
            with pytest.raises(ValueError, match="not finite"):
                encode(codec, np.array([0, wrong, 1], np.float32))
    for settings in ({"density": 0}, {"density": 1.01}, {"density": np.nan}, {"seed": -1}, {"tensors": (-1,)}):
        with pytest.raises(ValueError, match="must be"):
            Coding(**settings)
    for call in (lambda: encode("zip", flat), lambda: segment_sizes("zip", 1), lambda: decode_into("zip", b"", flat)):
        with pytest.raises(ValueError, match="must be one of fp32, bf16"):
            call()


GOLDEN_BF16 = "74bf08786c8254f84a38953f4aedfad13fb38602f27fac42297296735baec30c"
GOLDEN_FP32 = "6f0b78cbffe79d5339eac777966d6c1ce134e1afc022d297f50ec3665233aae7"
GOLDEN_BF16_ENCODED = "b46320651fae5470b762a0bf9f51bba377913cfffcb053ed45931eef2a992ba3"

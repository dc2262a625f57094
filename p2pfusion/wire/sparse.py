"""Codecs that keep a small share of the elements: `topk` with 8-bit values, `stc` with signs.

What is kept is about `Coding.density` of each tensor, by magnitude (`selecting`); everything else decodes to +0.0 and
is the author's residual, **without which these codecs do not learn**: what is never large enough is then never sent.

`topk` sends each kept value like `int8`: blocks of 256 kept values, one scale each, rounded at random. `stc` (sparse
ternary compression, Sattler et al. 2019, arXiv 1903.02891) sends one bit each, the sign, and a block's mean magnitude.

A segment, integers little-endian: kind of the indices (u8), their count, their bytes, their stored bytes (u32 each),
stored indices, stored values. Stored is what `lossless` made of it. Values: one float32 scale for each block of 256,
then `topk`: one int8 for each; `stc`: one bit for each, 1 is negative, the first in the lowest bit, padded with zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import gaps
from p2pfusion.wire.blocks import dequantise, quantised, read_scales, scale_count
from p2pfusion.wire.coding import BLOCK, Body, Codec, Coding, Flat
from p2pfusion.wire.lossless import restored, squeezed
from p2pfusion.wire.selecting import selected

_HEAD = struct.Struct("<BIII")
_STEP = 7 << 17
"""Elements of a segment: the most for which even a segment of which all is kept stays below SEGMENT_BYTES_MAX."""
_SIGN = np.uint32(0x80000000)
_TINY, _LARGEST = 2.0**-126, 2.0**126


@dataclass(frozen=True, slots=True)
class _Values:
    """How the values of one codec are written: scales, then so many bits for each."""

    bits: int
    write: Callable[[Flat, Random], bytes]
    read: Callable[[Body, Flat], None]

    def raw_bytes(self, count: int) -> int:
        """Of that many values."""
        return 4 * scale_count(count) + -(-count * self.bits // 8)

    def size_range(self, elements: int) -> tuple[int, int]:
        """Nothing kept; everything, by the mask."""
        return _HEAD.size, _HEAD.size + -(-elements // 8) + self.raw_bytes(elements)


def _encode(flat: Flat, coding: Coding, values: _Values) -> Iterator[bytes]:
    rng = Random(coding.seed)
    flat = np.ascontiguousarray(flat)
    kept = selected(flat, coding, rng)
    numbers = flat[kept]
    if not np.isfinite(numbers).all():
        raise ValueError("encode: values that are not finite")
    for start in range(0, flat.size, _STEP):
        elements = min(_STEP, flat.size - start)
        first, last = np.searchsorted(kept, (start, start + elements))
        raw = values.write(numbers[first:last], rng)
        ways = gaps.candidates(kept[first:last] - start, elements)
        yield _packed(last - first, ways, raw, coding.lossless)


def _packed(count: int, ways: dict[int, bytes], raw: bytes, lossless: bool) -> bytes:
    stored = {kind: squeezed(way) if lossless else way for kind, way in ways.items()}
    kind = min(stored, key=lambda kind: (len(stored[kind]), kind))
    head = _HEAD.pack(kind, count, len(ways[kind]), len(stored[kind]))
    return b"".join((head, stored[kind], squeezed(raw) if lossless else raw))


class _Kept:
    """What a segment keeps, decoded when it is opened: little next to the segment's elements."""

    __slots__ = ("_indices", "_numbers")

    def __init__(self, segment: Body, elements: int, values: _Values) -> None:
        self._indices, self._numbers = _decoded(segment, elements, values)

    def largest(self) -> float:
        return float(np.abs(self._numbers).max(initial=0))

    def read(self, start: int, out: Flat) -> None:
        first, last = np.searchsorted(self._indices, (start, start + out.size))
        out.fill(0)
        out[self._indices[first:last] - start] = self._numbers[first:last]


def _decoded(segment: Body, elements: int, values: _Values) -> tuple[gaps.Indices, Flat]:
    kind, count, index_bytes, stored_bytes = _HEAD.unpack_from(segment)
    least, most = gaps.bytes_range(kind, count, elements)
    body = memoryview(segment)[_HEAD.size :]
    if count > elements or not least <= index_bytes <= most or stored_bytes > body.nbytes:
        raise WireError("a sparse segment of impossible lengths")
    indices = gaps.read(kind, restored(body[:stored_bytes], index_bytes), count, elements)
    numbers = np.empty(count, np.float32)
    values.read(restored(body[stored_bytes:], values.raw_bytes(count)), numbers)
    return indices, numbers


# -- values -----------------------------------------------------------------------------------------------------------


def _write_bytes(numbers: Flat, rng: Random) -> bytes:
    scales, codes = quantised(numbers, 127, rng)
    return b"".join((scales.astype("<f4", copy=False).data, codes[: numbers.size].data))


def _read_bytes(piece: Body, out: Flat) -> None:
    scales = read_scales(piece, scale_count(out.size), 2.0**120)
    dequantise(scales, np.frombuffer(piece, np.int8, offset=scales.nbytes), out)


def _write_signs(numbers: Flat, _: Random) -> bytes:
    starts = np.arange(0, numbers.size, BLOCK)
    sums = np.add.reduceat(np.abs(numbers, dtype=np.float64), starts) if numbers.size else np.empty(0)
    means = sums / np.minimum(BLOCK, numbers.size - starts)
    means[means < _TINY] = 0
    scales = np.minimum(means, _LARGEST).astype("<f4")
    return scales.tobytes() + np.packbits(np.signbit(numbers), bitorder="little").tobytes()


def _read_signs(piece: Body, out: Flat) -> None:
    scales = read_scales(piece, scale_count(out.size), _LARGEST)
    packed = np.frombuffer(piece, np.uint8, offset=scales.nbytes)
    bits = np.unpackbits(packed, bitorder="little")
    if bits[out.size :].any():
        raise WireError("signs of no values")
    signs = bits[: out.size].astype(np.uint32) << np.uint32(31)
    np.bitwise_or(np.repeat(scales.view(np.uint32), BLOCK)[: out.size], signs, out=out.view(np.uint32))


_BYTES = _Values(8, _write_bytes, _read_bytes)
_SIGNS = _Values(1, _write_signs, _read_signs)


def _sparse(values: _Values) -> Codec:
    if values.size_range(_STEP)[1] > SEGMENT_BYTES_MAX:
        raise AssertionError("a full segment does not fit")
    return Codec(
        _STEP,
        values.size_range,
        lambda flat, coding: _encode(flat, coding, values),
        lambda segment, elements: _Kept(segment, elements, values),
    )


TOPK = _sparse(_BYTES)
STC = _sparse(_SIGNS)

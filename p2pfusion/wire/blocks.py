"""Codecs of few bits per element: blocks of 256 elements, each with one float32 scale. `int8` and `int4`.

Sharing a scale among 256 costs `int8` 1.6 % of its bytes, and an outlier coarsens few others.
A block's scale is its largest magnitude / 127 (or / 7); an element is the integer that it is in units of the scale,
rounded up or down **at random, so that it is right on average** (stochastic rounding): what many authors lose cancels,
and what one author loses is its residual. A block whose scale would be below the smallest normal float32 is sent as
zeros, and what exceeds 2^126 is sent as 2^126: so finite values stay finite and no arithmetic here meets subnormals,
which other software may have switched off.

Raw form of a segment: all scales, little-endian float32, then the integers in two's complement, one byte each; or for
`int4` two in a byte: a block's first half in the low four bits and its second half in the high ones, so that both ways
move whole runs. The lossless stage may follow. Everything is done in chunks that stay in the processor's cache, one
thread, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire.coding import BLOCK, Body, Codec, Coding, Flat
from p2pfusion.wire.lossless import FRAME_BYTES_MIN, restored, squeezed

GAIN_MIN = 0.1
"""Share of a segment's bytes for which zstd is worth it: undoing it takes longer than all the rest of decoding, and
everybody does it twice, at the gate and in the fold."""
_CHUNK = 1 << 15
"""Elements at a time, a multiple of BLOCK: 128 KiB of float32 twice and the dither stay in a core's second cache."""
_DITHER_STEPS = 1 << 13
"""Fewer than the 2^16 that a float32 just below 256 can tell apart, so that 127 plus its dither never reaches 128."""
_TINY = np.float32(2.0**-126)
_LARGEST = np.float32(2.0**126)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITE = np.uint32(0x7F800000)

Codes = NDArray[np.int8]


@cache
def _dither() -> Flat:
    """One period of a chunk's length, twice, uniform in (0, 1).

    It begins anywhere, so that over all beginnings every element meets every step equally often: unbiased exactly.
    """
    order = list(range(_CHUNK))
    Random(256).shuffle(order)
    period = ((np.array(order) % _DITHER_STEPS + 0.5) / _DITHER_STEPS).astype(np.float32)
    return np.concatenate((period, period))


@cache
def _starts() -> NDArray[np.intp]:
    """Where a chunk's blocks begin."""
    return np.arange(0, _CHUNK, BLOCK)


def scale_count(elements: int) -> int:
    """How many blocks so many elements make."""
    return -(-elements // BLOCK)


def quantised(flat: Flat, levels: int, rng: Random) -> tuple[Flat, Codes]:
    """Scales of the blocks and the integers in -levels..levels, one int8 per element, padded with 0 to whole blocks.

    Raises `ValueError` for values that are not finite.
    """
    scales = np.empty(scale_count(flat.size), np.float32)
    codes = np.empty(scales.size * BLOCK, np.int8)
    whole = flat.size - flat.size % BLOCK
    work = np.empty(min(_CHUNK, codes.size), np.float32)
    for start in range(0, whole, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, whole))
        _quantise(flat[chunk], levels, rng, (scales[chunk.start // BLOCK : chunk.stop // BLOCK], codes[chunk], work))
    if whole < flat.size:
        last = np.zeros(BLOCK, np.float32)
        last[: flat.size - whole] = flat[whole:]
        _quantise(last, levels, rng, (scales[-1:], codes[whole:], work))
    return scales, codes


def _quantise(flat: Flat, levels: int, rng: Random, into: tuple[Flat, Codes, Flat]) -> None:
    """Whole blocks, one chunk at most, into (scales, codes, room to work in)."""
    scales, codes, work = into[0], into[1], into[2][: flat.size]
    # Magnitudes as integers order like the numbers, NaN above infinity above all, and twice as fast.
    bits = work.view(np.uint32)
    np.bitwise_and(flat.view(np.uint32), _MAGNITUDE, out=bits)
    np.maximum.reduceat(bits, _starts()[: scales.size], out=scales.view(np.uint32))
    if scales.view(np.uint32).max() >= _INFINITE:
        raise ValueError("encode: values that are not finite")
    if scales.max() > _LARGEST:
        flat = np.clip(flat, -_LARGEST, _LARGEST)
        np.minimum(scales, _LARGEST, out=scales)
    scales /= np.float32(levels)
    scales[scales < _TINY] = 0
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    np.multiply(flat.reshape(-1, BLOCK), inverse[:, None], out=work.reshape(-1, BLOCK))
    # Shifted above zero, cutting off is rounding down; the dither before it makes that rounding at random.
    begin = rng.randrange(_CHUNK)
    work += _shifted_dither(levels)[begin : begin + flat.size]
    unsigned = codes.view(np.uint8)
    np.copyto(unsigned, work, casting="unsafe")
    unsigned -= np.uint8(levels + 1)


@cache
def _shifted_dither(levels: int) -> Flat:
    return _dither() + np.float32(levels + 1)


def dequantise(scales: Flat, codes: Codes, out: Flat) -> None:
    """`out` = integer x scale; `codes` has one int8 for each element of `out`."""
    whole = out.size - out.size % BLOCK
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        chunk = out[start:stop]
        np.copyto(chunk, codes[start:stop])
        blocks = chunk.reshape(-1, BLOCK)
        np.multiply(blocks, scales[start // BLOCK : stop // BLOCK, None], out=blocks)
    if whole < out.size:
        np.multiply(codes[whole : out.size], scales[-1], out=out[whole:], dtype=np.float32)


def read_scales(piece: Body, count: int, largest: float) -> Flat:
    """The first `count` float32 of a piece. Raises `WireError` unless each is +0 or normal and at most `largest`.

    `largest` times the largest integer must be finite. That leaves nothing that decodes to infinity or to NaN.
    """
    scales = np.frombuffer(piece, "<f4", count).astype(np.float32, copy=False)
    bits = scales.view(np.uint32)  # Whose order is the numbers', with what is negative or not finite above all.
    if not (((bits >= _TINY.view(np.uint32)) & (bits <= np.float32(largest).view(np.uint32))) | (bits == 0)).all():
        raise WireError("a scale that is not finite, or none that an encoder makes")
    return scales


# -- the codecs -------------------------------------------------------------------------------------------------------


def _raw_bytes(elements: int, bits: int) -> int:
    return 4 * scale_count(elements) + -(-elements * bits // 8)


def _encode(flat: Flat, coding: Coding, step: int, bits: int) -> Iterator[bytes]:
    rng = Random(coding.seed)
    for start in range(0, flat.size, step):
        part = np.ascontiguousarray(flat[start : start + step])
        scales, codes = quantised(part, 2 ** (bits - 1) - 1, rng)
        body = codes[: part.size] if bits == 8 else _packed(codes, part.size)
        raw = b"".join((scales.astype("<f4", copy=False).data, body.data))
        yield squeezed(raw, GAIN_MIN) if coding.lossless else raw


class _Int8:
    __slots__ = ("_codes", "_scales")

    def __init__(self, segment: Body, elements: int) -> None:
        piece = restored(segment, _raw_bytes(elements, 8))
        self._scales = read_scales(piece, scale_count(elements), 2.0**120)
        self._codes = np.frombuffer(piece, np.int8, offset=self._scales.nbytes)

    def largest(self) -> float:
        return 127.0 * float(self._scales.max())

    def read(self, start: int, out: Flat) -> None:
        first = start // BLOCK
        scales = self._scales[first : first + scale_count(out.size)]
        dequantise(scales, self._codes[start : start + out.size], out)


def _packed(codes: Codes, elements: int) -> NDArray[np.uint8]:
    """Two in a byte: halves of whole blocks, then halves of what is left."""
    whole = elements - elements % BLOCK
    packed = np.empty(-(-elements // 2), np.uint8)
    _pack(codes[:whole].reshape(-1, BLOCK), packed[: whole // 2].reshape(-1, BLOCK // 2))
    if whole < elements:
        half = packed.size - whole // 2
        _pack(codes[whole : whole + 2 * half].reshape(1, -1), packed[whole // 2 :].reshape(1, -1))
    return packed


def _pack(codes: Codes, packed: NDArray[np.uint8]) -> None:
    half = packed.shape[1]
    unsigned = codes.view(np.uint8)
    np.left_shift(unsigned[:, half:], np.uint8(4), out=packed)
    packed |= unsigned[:, :half] & np.uint8(15)


def _unpack(packed: Codes, codes: Codes) -> None:
    half = packed.shape[1]
    np.right_shift(packed, np.int8(4), out=codes[:, half:])
    low = packed << np.int8(4)
    np.right_shift(low, np.int8(4), out=codes[:, :half])


class _Int4:
    __slots__ = ("_packed", "_scales")

    def __init__(self, segment: Body, elements: int) -> None:
        piece = restored(segment, _raw_bytes(elements, 4))
        self._scales = read_scales(piece, scale_count(elements), 2.0**124)
        self._packed = np.frombuffer(piece, np.int8, offset=self._scales.nbytes)
        if elements % 2 and self._packed[-1] & -16:
            raise WireError("something in the half byte that belongs to no element")

    def largest(self) -> float:
        return 7.0 * float(self._scales.max())

    def read(self, start: int, out: Flat) -> None:
        stop = start + out.size
        whole = stop - out.size % BLOCK  # A rest is the segment's last block and has halves of its own length.
        codes = np.empty(min(_CHUNK, out.size + 1), np.int8)
        for first in range(start, whole, _CHUNK):
            last = min(first + _CHUNK, whole)
            halves = self._packed[first // 2 : last // 2].reshape(-1, BLOCK // 2)
            _unpack(halves, codes[: last - first].reshape(-1, BLOCK))
            self._dequantise(first, codes, out[first - start : last - start])
        if whole < stop:
            rest = self._packed[whole // 2 :].reshape(1, -1)
            _unpack(rest, codes[: 2 * rest.size].reshape(1, -1))
            self._dequantise(whole, codes, out[whole - start :])

    def _dequantise(self, start: int, codes: Codes, out: Flat) -> None:
        first = start // BLOCK
        dequantise(self._scales[first : first + scale_count(out.size)], codes, out)


def _size_range(elements: int, bits: int) -> tuple[int, int]:
    raw = _raw_bytes(elements, bits)
    return min(raw, FRAME_BYTES_MIN), raw


_INT8_STEP = SEGMENT_BYTES_MAX // (BLOCK + 4) * BLOCK
_INT4_STEP = 1 << 20
"""540,672 bytes; a segment of 1 MiB would decode to 8 MiB."""

INT8 = Codec(_INT8_STEP, lambda n: _size_range(n, 8), lambda flat, c: _encode(flat, c, _INT8_STEP, 8), _Int8)
INT4 = Codec(_INT4_STEP, lambda n: _size_range(n, 4), lambda flat, c: _encode(flat, c, _INT4_STEP, 4), _Int4)

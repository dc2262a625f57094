"""Codecs of a fixed number of bytes per element: `fp32` keeps every bit, `bf16` the upper half of each float32.

Rounding of `bf16` is to nearest, ties to even. A finite value never becomes infinite: what would round up to infinity
becomes the largest finite bfloat16. Decoders only move bits. Knows no model and no manifest; bytes are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.wire.coding import Body, Codec, Coding, Flat, Opened

_EXPONENT = np.uint16(0x7F80)
_QUIET = np.uint16(0x0040)
_OVERFLOWS = 0x7F7F8000
"""Bits of the least float32 that rounds to infinity."""
_CHUNK = 1 << 15
"""Elements at a time, so that what is between stays in a core's second cache."""


def _encode_fp32(flat: Flat) -> bytes:
    return flat.astype("<f4", copy=False).tobytes()


def _largest_bits(words: NDArray[np.unsignedinteger[Any]], signed: type[np.signedinteger[Any]]) -> int:
    """The largest of some floats' bits without the sign: the largest of those with it, or of those without.

    Bits of floats order like their magnitudes, what is not finite above all. No temporary array.
    """
    sign = 1 << (8 * words.itemsize - 1)
    positive, negative = int(words.view(signed).max()), int(words.max()) - sign
    return max(positive, negative, 0)


def _float(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


class _Fp32:
    __slots__ = ("_words",)

    def __init__(self, segment: Body, _: int) -> None:
        self._words = np.frombuffer(segment, "<u4").astype(np.uint32, copy=False)

    def largest(self) -> float:
        return _float(_largest_bits(self._words, np.int32))

    def read(self, start: int, out: Flat) -> None:
        # Copied as integers: some processors turn a signalling NaN into a quiet one when it moves as a float.
        out.view(np.uint32)[:] = self._words[start : start + out.size]


def _encode_bf16(flat: Flat) -> bytes:
    codes = np.empty(flat.size, np.uint16)
    work = np.empty(min(flat.size, _CHUNK), np.uint32)
    for start in range(0, flat.size, _CHUNK):
        bits = np.ascontiguousarray(flat[start : start + _CHUNK]).view(np.uint32)
        if _largest_bits(bits, np.int32) < _OVERFLOWS:
            _round(bits, work[: bits.size], codes[start : start + _CHUNK])
        else:
            codes[start : start + _CHUNK] = _rounded_extremes(bits)
    return codes.astype("<u2", copy=False).tobytes()


def _round(bits: NDArray[np.uint32], work: NDArray[np.uint32], codes: NDArray[np.uint16]) -> None:
    """To nearest, ties to even: add just under half a unit, and the rest when the unit is odd. Nothing overflows."""
    np.right_shift(bits, np.uint32(16), out=work)
    work &= np.uint32(1)
    work += np.uint32(0x7FFF)
    work += bits
    work >>= np.uint32(16)
    np.copyto(codes, work, casting="unsafe")


def _rounded_extremes(bits: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """The same where something may overflow or is not finite."""
    upper = (bits >> np.uint32(16)).astype(np.uint16)
    special = (upper & _EXPONENT) == _EXPONENT
    rounded = ((bits + np.uint32(0x7FFF) + (upper & np.uint16(1))) >> np.uint32(16)).astype(np.uint16)
    overflow = ((rounded & _EXPONENT) == _EXPONENT) & ~special
    rounded -= overflow.astype(np.uint16)
    if special.any():  # Never in our own work; then infinities stay, and a NaN stays one whose payload was cut off.
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        rounded = np.where(special, upper | np.where(is_nan, _QUIET, np.uint16(0)), rounded)
    return rounded


class _Bf16:
    __slots__ = ("_words",)

    def __init__(self, segment: Body, _: int) -> None:
        self._words = np.frombuffer(segment, "<u2").astype(np.uint16, copy=False)

    def largest(self) -> float:
        return _float(_largest_bits(self._words, np.int16) << 16)

    def read(self, start: int, out: Flat) -> None:
        words = self._words[start : start + out.size]
        np.left_shift(words, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)


def _fixed(element_bytes: int, encode: Callable[[Flat], bytes], opened: Callable[[Body, int], Opened]) -> Codec:
    """A codec whose segments are exactly so many bytes per element."""
    step = SEGMENT_BYTES_MAX // element_bytes

    def encode_all(flat: Flat, _: Coding) -> Iterator[bytes]:
        return (encode(flat[start : start + step]) for start in range(0, flat.size, step))

    return Codec(step, lambda elements: (elements * element_bytes, elements * element_bytes), encode_all, opened)


FP32 = _fixed(4, _encode_fp32, _Fp32)
BF16 = _fixed(2, _encode_bf16, _Bf16)

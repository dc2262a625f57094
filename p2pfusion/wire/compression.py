"""Codecs: float32 values as segments of bytes and back. What a codec loses is the caller's residual.

A codec cuts a flat vector into segments of at most `SEGMENT_BYTES_MAX` encoded bytes, each decodable by itself, whose
sizes follow from the number of elements alone: nothing on the wire says how long a segment should be. A decoder only
moves bits (no arithmetic, no transcendental function), so it gives the same bits on every machine, denormals and -0.0
included; golden vectors in the tests hold it there.

`bf16` keeps the upper half of each float32, rounded to nearest, ties to even. A finite value never becomes infinite:
what would round up to infinity becomes the largest finite bfloat16.

This module knows no model, no manifest and no hash; numpy only. Bytes are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError

Body = bytes | bytearray | memoryview
Flat = NDArray[np.float32]

_EXPONENT = np.uint16(0x7F80)
_QUIET = np.uint16(0x0040)


@dataclass(frozen=True, slots=True)
class Codec:
    """Bytes per element, and both directions for one segment. Use the functions below, which check sizes."""

    element_bytes: int
    encode: Callable[[Flat], bytes]
    decode_into: Callable[[Body, Flat], None]


def _encode_fp32(flat: Flat) -> bytes:
    return flat.astype("<f4", copy=False).tobytes()


def _decode_fp32(segment: Body, out: Flat) -> None:
    # Copied as integers: some processors turn a signalling NaN into a quiet one when it moves as a float.
    out.view(np.uint32)[:] = np.frombuffer(segment, "<u4")


def _encode_bf16(flat: Flat) -> bytes:
    bits = np.ascontiguousarray(flat).view(np.uint32)
    upper = (bits >> np.uint32(16)).astype(np.uint16)
    special = (upper & _EXPONENT) == _EXPONENT
    # To nearest, ties to even: add just under half a unit, and the rest when the unit is odd.
    rounded = ((bits + np.uint32(0x7FFF) + (upper & np.uint16(1))) >> np.uint32(16)).astype(np.uint16)
    overflow = ((rounded & _EXPONENT) == _EXPONENT) & ~special
    rounded -= overflow.astype(np.uint16)
    if special.any():  # Never in our own work; then infinities stay, and a NaN stays one whose payload was cut off.
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        rounded = np.where(special, upper | np.where(is_nan, _QUIET, np.uint16(0)), rounded)
    return rounded.astype("<u2", copy=False).tobytes()


def _decode_bf16(segment: Body, out: Flat) -> None:
    np.left_shift(np.frombuffer(segment, "<u2"), np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)


CODECS: Mapping[str, Codec] = MappingProxyType(
    {"fp32": Codec(4, _encode_fp32, _decode_fp32), "bf16": Codec(2, _encode_bf16, _decode_bf16)}
)


def _codec(name: str) -> Codec:
    if name not in CODECS:
        raise ValueError(f"codec {name!r}: must be one of {', '.join(CODECS)}")
    return CODECS[name]


def elements_per_segment(codec: str) -> int:
    """Elements in every segment but the last. Raises `ValueError` for an unknown codec."""
    return SEGMENT_BYTES_MAX // _codec(codec).element_bytes


def segment_sizes(codec: str, elements: int) -> tuple[int, ...]:
    """Encoded bytes of each segment of a vector of that many elements. Raises `ValueError` for an unknown codec."""
    whole, rest = divmod(elements, elements_per_segment(codec))
    element_bytes = _codec(codec).element_bytes
    full = elements_per_segment(codec) * element_bytes
    return (full,) * whole + ((rest * element_bytes,) if rest else ())


def encode(codec: str, flat: Flat) -> tuple[bytes, ...]:
    """Segments of a flat float32 vector, in order, sized as `segment_sizes` says. `ValueError` for any other array."""
    if flat.dtype != np.float32 or flat.ndim != 1:
        raise ValueError(f"encode: a flat float32 vector, not {flat.dtype} of {flat.ndim} dimensions")
    step = elements_per_segment(codec)
    return tuple(CODECS[codec].encode(flat[start : start + step]) for start in range(0, flat.size, step))


def decode_into(codec: str, segment: Body, out: Flat) -> None:
    """Write one segment's values to `out`, a flat writable float32 view of exactly as many elements.

    Raises `WireError` when the segment has another size, `ValueError` for an unknown codec or a wrong `out`.
    """
    found = _codec(codec)
    if out.dtype != np.float32 or out.ndim != 1:
        raise ValueError(f"decode_into: a flat float32 view, not {out.dtype} of {out.ndim} dimensions")
    size = memoryview(segment).nbytes
    if size != out.size * found.element_bytes:
        raise WireError(f"segment of {size} bytes where {out.size * found.element_bytes} belong")
    if size:
        found.decode_into(segment, out)

"""Codecs: float32 values as segments of bytes and back. What a codec loses is the caller's residual.

A codec cuts a flat vector into segments of at most `SEGMENT_BYTES_MAX` encoded bytes, each decodable by itself. How
many elements a segment holds follows from the codec and the length of the vector alone; how many bytes it may have is
bounded below and above by the same two. A decoder moves integers and multiplies each by one float32 at most, so it
gives the same bits on every machine, denormals and -0.0 included; golden vectors in the tests hold it there.

| name | bytes per element | what is kept |
|---|---|---|
| `fp32` | 4 | every bit |
| `bf16` | 2 | the upper half, rounded to nearest |
| `int8` | 1.02, less after zstd | a multiple of a block's scale, rounded at random (`blocks`) |
| `int4` | 0.52, less after zstd | the same in 15 steps |
| `topk` | 2 for each element kept | the largest in 8 bits, the rest is 0 (`sparse`) |
| `stc` | 1.2 for each element kept | the signs of the largest, the rest is 0 |

This module knows no model, no manifest and no hash; numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from p2pfusion.errors import WireError
from p2pfusion.wire.blocks import INT4, INT8
from p2pfusion.wire.coding import BLOCK, Body, Codec, Coding, Flat, Opened
from p2pfusion.wire.plain import BF16, FP32
from p2pfusion.wire.sparse import STC, TOPK

__all__ = [
    "BLOCK", "CODECS", "Body", "Codec", "Coding", "Flat", "Opened", "decode_into", "elements_per_segment", "encode",
    "encoded", "opened", "segment_elements", "segment_sizes", "size_range",
]  # fmt: skip

CODECS: Mapping[str, Codec] = MappingProxyType(
    {"fp32": FP32, "bf16": BF16, "int8": INT8, "int4": INT4, "topk": TOPK, "stc": STC}
)
"""By the name that travels in the manifest."""
PLAIN = Coding()


def _codec(name: str) -> Codec:
    if name not in CODECS:
        raise ValueError(f"codec {name!r}: must be one of {', '.join(CODECS)}")
    return CODECS[name]


def elements_per_segment(codec: str) -> int:
    """Elements in every segment but the last. Raises `ValueError` for an unknown codec."""
    return _codec(codec).segment_elements


def segment_elements(codec: str, elements: int) -> tuple[int, ...]:
    """Elements of each segment of a vector of that many. Raises `ValueError` for an unknown codec."""
    whole, rest = divmod(elements, step := elements_per_segment(codec))
    return (step,) * whole + ((rest,) if rest else ())


def size_range(codec: str, elements: int) -> tuple[int, int]:
    """Least and most encoded bytes of ONE segment of so many elements. Raises `ValueError` for an unknown codec."""
    return _codec(codec).size_range(elements)


def segment_sizes(codec: str, elements: int) -> tuple[int, ...]:
    """The most encoded bytes of each segment of a vector of that many elements; exact for `fp32` and `bf16`."""
    return tuple(size_range(codec, one)[1] for one in segment_elements(codec, elements))


def encode(codec: str, flat: Flat, coding: Coding = PLAIN) -> tuple[bytes, ...]:
    """All that `encoded` makes. Raises as it does."""
    return tuple(encoded(codec, flat, coding))


def encoded(codec: str, flat: Flat, coding: Coding = PLAIN) -> Iterator[bytes]:
    """Segments of a flat float32 vector, in order, cut as `segment_elements` says; each is made when it is asked for.

    The elements of a segment are not looked at after it was made, so the caller may change them then.
    Raises `ValueError` for any other array, for tensors that do not add up to it, and for values that are not finite
    where the codec cannot say them (all but `fp32` and `bf16`).
    """
    found = _codec(codec)
    if flat.dtype != np.float32 or flat.ndim != 1:
        raise ValueError(f"encode: a flat float32 vector, not {flat.dtype} of {flat.ndim} dimensions")
    if coding.tensors and sum(coding.tensors) != flat.size:
        raise ValueError(f"encode: tensors of {sum(coding.tensors)} elements together, not {flat.size}")
    return found.encode(flat, coding)


def opened(codec: str, segment: Body, elements: int) -> Opened:
    """A segment of so many elements, at least 1, to be read. Raises `WireError` for anything odd about it.

    After that nothing about it raises. `ValueError` for an unknown codec.
    """
    found, size = _codec(codec), memoryview(segment).nbytes
    least, most = found.size_range(elements)
    if not least <= size <= most:
        raise WireError(f"segment of {size} bytes where {least} to {most} belong")
    return found.open(segment, elements)


def decode_into(codec: str, segment: Body, out: Flat) -> None:
    """Write one segment's values to `out`, a flat writable float32 view without gaps of exactly as many.

    Raises `WireError` for anything odd and writes nothing, `ValueError` for unknown codecs or another `out`.
    """
    if out.dtype != np.float32 or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError(f"decode_into: a flat float32 view without gaps, not {out.dtype} of {out.ndim} dimensions")
    if out.size:
        opened(codec, segment, out.size).read(0, out)
    elif _codec(codec) and memoryview(segment).nbytes:
        raise WireError("a segment for no elements")

"""One float32 tensor to bytes and back under a codec: activations and gradients on their way along a chain of hops.

A tensor is flattened in C order and cut into the segments of `compression`; the payload is these segments, one behind
the other, each behind its length (4 bytes, big-endian, also where it could be known). Decoding gives the same bits on
every machine, so whoever encoded can decode its own bytes and knows exactly what the other side computes with; what
the codec lost is the caller's affair.

This module knows no message, no hop and no model; numpy only.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import compression
from p2pfusion.wire.coding import Body, Coding
from p2pfusion.wire.routes import HOP_BYTES_MAX
from p2pfusion.wire.schema import Shape, choice, integer, many, where

Array = NDArray[np.float32]

CODECS = ("fp32", "bf16", "int8", "topk")
"""By the names of `compression`; not `int4` and `stc`, which lose more than work without a residual can bear."""
DIMS_MAX = 6
"""Batch, time or depth, channels, height and width, and one to spare."""
LENGTH_BYTES = 4
"""In front of each segment."""
AROUND_BYTES_MAX = 256
"""Kept free in a body for what stands around a payload: header, its length, tag (`hops`)."""
ELEMENTS_MAX = (HOP_BYTES_MAX - AROUND_BYTES_MAX - LENGTH_BYTES * (HOP_BYTES_MAX // SEGMENT_BYTES_MAX)) // 4
"""Of one tensor: what fits in one body as `fp32`, which takes most. It bounds what a few bytes can make us allocate."""
DENSITY_DEFAULT = 0.1
"""Share that `topk` keeps, ten times that of a contribution: what is not sent of a batch is not there in this step."""

CODEC: Shape[str] = choice(CODECS)
SHAPE: Shape[tuple[int, ...]] = where(
    many(integer(1, ELEMENTS_MAX), DIMS_MAX, least=1),
    lambda shape: prod(shape) <= ELEMENTS_MAX,
    f"a tensor of more than {ELEMENTS_MAX} elements",
)
"""What may stand on the wire as a codec's name and as a tensor's sizes, 1 to `DIMS_MAX` of them."""


def size_range(codec: str, elements: int) -> tuple[int, int]:
    """Least and most bytes of a payload of so many elements, at least 1. Raises `ValueError` for an unknown codec."""
    counts = compression.segment_elements(_known(codec), elements)
    ranges = [compression.size_range(codec, count) for count in counts]
    lengths = LENGTH_BYTES * len(ranges)
    return lengths + sum(least for least, _ in ranges), lengths + sum(most for _, most in ranges)


def encode(codec: str, array: NDArray[Any], seed: int = 0, density: float = DENSITY_DEFAULT) -> bytes:
    """The payload of a float32 array of any layout, 1 to `DIMS_MAX` dimensions and 1 to `ELEMENTS_MAX` elements.

    `seed` >= 0 is of the rounding of `int8` and `topk`: the same seed and array give the same bytes. `density` in
    (0, 1] is the share that `topk` keeps, of a tensor of 256 elements or more. Raises `ValueError` for anything else,
    and for values that are not finite where the codec cannot say them (`int8`, and `topk` among what it keeps).
    """
    coding = Coding(density=density, seed=seed)
    segments = compression.encoded(_known(codec), _flat(array), coding)
    return b"".join(piece for segment in segments for piece in (len(segment).to_bytes(LENGTH_BYTES, "big"), segment))


def decode(codec: str, payload: Body, shape: tuple[int, ...]) -> Array:
    """The tensor, C-contiguous, owned and writable. All three arguments may come from outside: only `WireError`.

    What is allocated is bounded by `ELEMENTS_MAX`, and nothing is for a payload of a length that no encoder gives.
    """
    name, sizes = CODEC.load(codec), SHAPE.load(shape)
    body, elements = memoryview(payload).cast("B"), prod(sizes)
    least, most = size_range(name, elements)
    if not least <= body.nbytes <= most:
        raise WireError(f"a payload of {body.nbytes} bytes where {least} to {most} belong")
    counts = compression.segment_elements(name, elements)
    segments = _cut(body, len(counts))
    flat = np.empty(elements, np.float32)
    start = 0
    for count, segment in zip(counts, segments, strict=True):
        compression.decode_into(name, segment, flat[start : start + count])
        start += count
    return flat.reshape(sizes)


def _known(codec: str) -> str:
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r}: must be one of {', '.join(CODECS)}")
    return codec


def _flat(array: NDArray[Any]) -> Array:
    if array.dtype != np.float32:
        raise ValueError(f"encode: a tensor of float32, not of {array.dtype}")
    if not 1 <= array.ndim <= DIMS_MAX or not array.size:
        raise ValueError(f"encode: 1 to {DIMS_MAX} dimensions of at least 1, not the shape {array.shape}")
    if array.size > ELEMENTS_MAX:
        raise ValueError(
            f"encode: a tensor of {array.size:,} elements where one message holds {ELEMENTS_MAX:,}; use smaller batches"
        )
    return np.ascontiguousarray(array).reshape(-1)


def _cut(payload: memoryview, count: int) -> list[memoryview]:
    """So many segments. A length that leads too far gives short or empty ones, and the end then shows it."""
    segments, at = [], 0
    for _ in range(count):
        start = at + LENGTH_BYTES
        stop = start + int.from_bytes(payload[at:start], "big")
        segments.append(payload[start:stop])
        at = stop
    if at != payload.nbytes:
        raise WireError("segments that do not add up to the payload")
    return segments

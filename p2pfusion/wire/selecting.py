"""Which elements the sparse codecs keep: the largest of each tensor, about as many as asked.

Sorting 10 M values to find the largest 1 % takes longer than training a step of a small network. A threshold learnt
from a sample gives about as many; a second pass over what it selected, and over everything where it selected far too
few, keeps the number between half and twice the one asked for (fewer only where fewer differ from zero).

Magnitudes are compared as integers, the float's bits without the sign: they order alike, and what is not finite stands
above everything, so that it is always selected and the caller sees it.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil
from random import Random

import numpy as np
from numpy.typing import NDArray

from p2pfusion.wire.coding import Coding, Flat

Indices = NDArray[np.int64]

WHOLE_BELOW = 256
"""Elements of a tensor that is kept whole: biases and norms matter and cost little."""
_SAMPLE_MIN, _SAMPLE_MAX = 4096, 1 << 16
_SAMPLE_HITS = 128
"""Selected values wanted in a sample: the number kept then strays by about 9 %."""
_CHUNK = 1 << 16
"""Elements at a time: 256 KiB of float32 stay in a core's second cache."""
_MAGNITUDE = np.uint32(0x7FFFFFFF)


def selected(flat: Flat, coding: Coding, rng: Random) -> Indices:
    """Ascending indices of what is kept of each tensor; zeros are not, and what is not finite is."""
    found = []
    sizes = coding.tensors or (flat.size,)
    for start, size in zip((0, *accumulate(sizes)), sizes, strict=False):
        wanted = size if size < WHOLE_BELOW else ceil(coding.density * size)
        found.append(_largest(flat[start : start + size], wanted, rng) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _largest(tensor: Flat, wanted: int, rng: Random) -> Indices:
    bits = tensor.view(np.uint32)
    threshold = 1 if wanted >= tensor.size else max(_threshold(bits, wanted, rng), 1)
    found = _at_least(bits, threshold)
    if found.size < wanted / 2 and threshold > 1:
        found = _at_least(bits, 1)
    elif found.size <= 2 * wanted:
        return found
    if found.size <= wanted:
        return found
    magnitudes = bits[found] & _MAGNITUDE
    kept = np.argpartition(magnitudes, found.size - wanted)[found.size - wanted :]
    return found[np.sort(kept)]


def _threshold(bits: NDArray[np.uint32], wanted: int, rng: Random) -> int:
    """About the `wanted`-th largest magnitude's bits, from a bounded number of values."""
    size = bits.size
    share = wanted / size
    number = min(max(_SAMPLE_MIN, ceil(_SAMPLE_HITS / share)), _SAMPLE_MAX)
    sample = bits if size <= number else bits[_places(number, size, rng)]
    rank = sample.size - min(max(round(share * sample.size), 1), sample.size)
    return int(np.partition(sample & _MAGNITUDE, rank)[rank])


def _places(number: int, size: int, rng: Random) -> Indices:
    """Places below `size` < 2^32, spread by steps of the golden ratio, which no period in the data meets."""
    turns = np.arange(number, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(rng.getrandbits(64))
    return ((turns >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(np.int64)


def _at_least(bits: NDArray[np.uint32], threshold: int) -> Indices:
    found = []
    work = np.empty(min(_CHUNK, bits.size), np.uint32)
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK]
        magnitudes = np.bitwise_and(chunk, _MAGNITUDE, out=work[: chunk.size])
        found.append(np.flatnonzero(magnitudes >= np.uint32(threshold)) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)

"""Ascending indices below a bound as bytes and back, in the shortest of three ways.

`GAPS8`: for each index how many elements lie between it and the one before it, in one byte; 255 means: 255 elements
more, none of them listed. `GAPS16`: the same in two bytes, with 65,535. `MASK`: one bit for each element, the first in
the lowest bit, padded with zeros; never longer than an eighth of the bound, so a dense segment is bounded too.

After zstd's entropy coder GAPS8 costs about what the gaps' entropy is (8.1 bits an index at 1 %, 5.8 at 5 %): what a
Golomb code would, which Sattler et al. use (arXiv 1903.02891).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfusion.errors import WireError
from p2pfusion.wire.coding import Body

Indices = NDArray[np.int64]

GAPS8, GAPS16, MASK = range(3)
_WORDS: dict[int, np.dtype[Any]] = {GAPS8: np.dtype("u1"), GAPS16: np.dtype("<u2")}
_ESCAPE = {GAPS8: 255, GAPS16: 65535}


def candidates(indices: Indices, elements: int) -> dict[int, bytes]:
    """The ways worth trying, by kind; none longer than the mask, unless it is the mask."""
    mask_bytes = -(-elements // 8)
    gaps = np.diff(indices, prepend=-1) - 1
    found = {}
    for kind, word in _WORDS.items():
        words = indices.size + int((gaps // _ESCAPE[kind]).sum())
        if words * word.itemsize < mask_bytes:
            found[kind] = _written(gaps, words, kind)
    if not found or indices.size > elements // 16:
        mask = np.zeros(elements, np.bool_)
        mask[indices] = True
        found[MASK] = np.packbits(mask, bitorder="little").tobytes()
    return found


def _written(gaps: Indices, words: int, kind: int) -> bytes:
    escapes, rest = np.divmod(gaps, _ESCAPE[kind])
    out = np.full(words, _ESCAPE[kind], _WORDS[kind])
    out[np.cumsum(escapes + 1) - 1] = rest
    return out.tobytes()


def bytes_range(kind: int, count: int, elements: int) -> tuple[int, int]:
    """Least and most bytes of `count` indices below `elements`. Raises `WireError` for an unknown kind."""
    if kind == MASK:
        return -(-elements // 8), -(-elements // 8)
    if kind not in _WORDS:
        raise WireError(f"indices of an unknown kind {kind}")
    word = _WORDS[kind]
    return count * word.itemsize, (count + elements // _ESCAPE[kind]) * word.itemsize


def read(kind: int, piece: Body, count: int, elements: int) -> Indices:
    """The indices, `count` of them, ascending, below `elements`. Raises `WireError` for anything else."""
    if kind == MASK:
        bits = np.unpackbits(np.frombuffer(piece, np.uint8), bitorder="little")
        found = np.flatnonzero(bits)
    else:
        if memoryview(piece).nbytes % _WORDS[kind].itemsize:
            raise WireError("half a gap")
        words = np.frombuffer(piece, _WORDS[kind])
        is_index = words != _ESCAPE[kind]
        if words.size and not is_index[-1]:
            raise WireError("gaps that lead to no index")
        found = np.cumsum(words, dtype=np.int64)[is_index]
        found += np.arange(found.size)
    if found.size != count or (count and found[-1] >= elements):
        raise WireError("indices that do not fit")
    return found

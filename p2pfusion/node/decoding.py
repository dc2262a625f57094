"""From what the ledger counts to what the fold takes: contributions that stay encoded and are decoded as they are read.

To be used in the executor: decoding takes time. What is made here is for one reader, one fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.replica import Round
from p2pfusion.core.submodel import Vector
from p2pfusion.swarm.ledger import Counting, Entry
from p2pfusion.wire.compression import BLOCK, Body, Opened, elements_per_segment, opened

RAW = "fp32"
"""The codec whose segments are the values themselves: they are looked at where they lie."""


class Encoded:
    """`core.values.Values` in segments. What is asked for is decoded, a block more at most; of `fp32` nothing ever is.

    Memory is what the largest span takes. One segment is open at a time. The segments may be a contribution's own list:
    what is moved to disk meanwhile is read from there.
    """

    __slots__ = ("_buffer", "_codec", "_index", "_open", "_segments", "_size", "_span", "_step")

    def __init__(self, codec: str, segments: Sequence[Body | None], size: int) -> None:
        """`size` elements; segments behind the last one they need are not read: a graft has ids there."""
        self._codec = codec
        self._segments = segments
        self._size = size
        self._step = elements_per_segment(codec)
        self._buffer = np.empty(0, np.float32)
        self._span = (0, 0)
        """What the buffer holds."""
        self._index = -1
        """Which segment is open."""
        self._open: Opened | None = None

    @property
    def size(self) -> int:
        return self._size

    def span(self, start: int, stop: int) -> Vector:
        """See `Values.span`. Raises `ValueError` where a segment is missing, `WireError` for one that is odd."""
        if not 0 <= start <= stop <= self._size:
            raise ValueError(f"elements {start} to {stop} of {self._size}")
        index, offset = divmod(start, self._step)
        if self._codec == RAW and start < stop <= (index + 1) * self._step:
            raw = np.frombuffer(self._segment(index), "<f4", stop - start, 4 * offset)
            return raw.astype(np.float32, copy=False)
        first, end = self._span
        if not first <= start <= stop <= end:
            first = self._fill(start, stop)
        return self._buffer[start - first : stop - first]

    def _fill(self, start: int, stop: int) -> int:
        """Decode the blocks around a span into the buffer; which element it begins with then."""
        first, end = start - start % BLOCK, min(stop + -stop % BLOCK, self._size)
        if self._buffer.size < end - first:
            self._buffer = np.empty(end - first, np.float32)
        self._span = (0, 0)  # should decoding fail, the buffer holds nothing
        done = first
        while done < end:
            index, offset = divmod(done, self._step)
            last = min(end, (index + 1) * self._step)
            self._opened(index).read(offset, self._buffer[done - first : last - first])
            done = last
        self._span = (first, end)
        return first

    def _opened(self, index: int) -> Opened:
        if self._open is None or index != self._index:
            self._open = None
            count = min(self._step, self._size - index * self._step)
            self._open, self._index = opened(self._codec, self._segment(index), count), index
        return self._open

    def _segment(self, index: int) -> Body:
        segment = self._segments[index]
        if segment is None:
            raise ValueError("an incomplete contribution cannot be folded")
        return segment


def encoded(blueprint: Blueprint, entry: Entry) -> Encoded:
    """A contribution's values, to be decoded when they are read. Raises `ValueError` for an incomplete one."""
    if not entry.is_complete:
        raise ValueError("an incomplete contribution cannot be folded")
    manifest = entry.manifest
    return Encoded(manifest.codec, entry.segments, manifest.sub_model.size(blueprint))


def values_of(blueprint: Blueprint, entry: Entry) -> Vector:
    """A complete contribution's values decoded at once, flat float32 of its sub-model, a new vector."""
    values = encoded(blueprint, entry)
    return np.array(values.span(0, values.size))


def weighted(blueprint: Blueprint, entry: Entry) -> Weighted:
    """One member of a round's mean."""
    manifest = entry.manifest
    return Weighted(manifest.peer, manifest.weight, manifest.sub_model, encoded(blueprint, entry))


def decoded(blueprint: Blueprint, counting: Counting) -> Round:
    """A whole round as the fold takes it."""
    graft = encoded(blueprint, counting.graft) if counting.graft is not None else None
    return [weighted(blueprint, entry) for entry in counting.work], graft


def folded(blueprint: Blueprint, model: Vector, counting: Counting) -> Vector:
    """The sealed model after one more round."""
    return fold(blueprint, blueprint.whole(), model, *decoded(blueprint, counting))


def counting_of(entries: Sequence[Entry], graft: bytes | None) -> Counting:
    """What a link counts, of the entries it names: all work, and the one graft that counted."""
    work = tuple(entry for entry in entries if entry.manifest.kind == "work")
    return Counting(work, next((entry for entry in entries if entry.id == graft), None))

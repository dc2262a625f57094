"""What a ledger holds and hears: contributions on their way, members' reports reduced to what sealing needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from p2pfusion.wire.coding import Body
from p2pfusion.wire.messages import Contribution, ContributionId, Have


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLine:
    """What sealing needs to know of one member besides me: its last report, reduced to one shard."""

    tip_round: int
    tip_chain: bytes
    floor: int
    digests: dict[int, bytes]
    is_suspect: bool = False


BLOCK_SEGMENTS = 16
"""Segments that lie in one block of memory. 16 MiB come from the system in huge pages, four times faster than 1 MiB
at a time; and no more than that is taken before anything of it is here."""
ALIGNED_BYTES = 64
"""Where a segment begins in its block: a cache line, and any number."""


class Entry:
    """One contribution here or on its way: its manifest and the segments that have arrived.

    A segment is never copied on its way in: it may be a view of memory that others lie in, too, or of a file.
    """

    __slots__ = ("_blocks", "_have", "_on_disk", "held_bytes", "id", "manifest", "missing", "segments")

    def __init__(self, id_: ContributionId, manifest: Contribution) -> None:
        self.id = id_
        self.manifest = manifest
        self.segments: list[Body | None] = [None] * len(manifest.segments)
        self.missing = len(self.segments)
        self.held_bytes = 0
        """Payload in memory: what was put, less what was spilled to disk."""
        self._on_disk: dict[int, None] = {}
        self._blocks: dict[int, memoryview] = {}
        self._have: Have | None = None

    @property
    def is_complete(self) -> bool:
        return self.missing == 0

    def room(self, index: int) -> memoryview:
        """Writable memory for one segment on its way, beside its neighbours: always the same, so for one at a time."""
        first = index - index % BLOCK_SEGMENTS
        sizes = [segment.size for segment in self.manifest.segments[first : first + BLOCK_SEGMENTS]]
        starts = [-size // ALIGNED_BYTES * -ALIGNED_BYTES for size in sizes]  # rounded up
        if first not in self._blocks:
            self._blocks[first] = np.empty(sum(starts), np.uint8).data
        start = sum(starts[: index - first])
        return self._blocks[first][start : start + sizes[index - first]]

    def in_memory(self) -> tuple[tuple[int, Body], ...]:
        """The segments that take memory, by index."""
        return tuple(
            (index, segment)
            for index, segment in enumerate(self.segments)
            if segment is not None and index not in self._on_disk
        )

    def spilled(self, index: int, kept: memoryview) -> bool:
        """A segment is on disk now, `kept` reads it from there; False when it was already. For the ledger alone."""
        if index in self._on_disk or self.segments[index] is None:
            return False
        self._on_disk[index] = None
        self.segments[index] = kept
        self.held_bytes -= kept.nbytes
        return True

    def put(self, index: int, data: Body) -> bool:
        """Keep one segment, which must not change any more; True when it was the last one missing.

        To be called by the ledger alone.
        """
        if self.segments[index] is not None:
            return False
        self.segments[index] = data
        self.held_bytes += len(data)
        self.missing -= 1
        if self.missing == 0:
            self._blocks.clear()  # the segments' views keep what they lie in
        return self.missing == 0

    def bitmap(self) -> bytes:
        """Bit `i` (least significant first) tells whether segment `i` is here."""
        bits = bytearray((len(self.segments) + 7) // 8)
        for index, segment in enumerate(self.segments):
            if segment is not None:
                bits[index // 8] |= 1 << (index % 8)
        return bytes(bits)

    def have(self) -> Have:
        """What I tell others of it; made once when nothing is missing any more, for then everybody is told it."""
        if self._have is not None:
            return self._have
        have = Have(self.id, self.bitmap())
        if self.is_complete:
            self._have = have
        return have


@dataclass(frozen=True, slots=True)
class Counting:
    """What counts in one round: work in fold order, and at most one graft, which the fold adds after the mean."""

    work: tuple[Entry, ...]
    graft: Entry | None = None


def in_fold_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Ascending (peer, kind, id): the one order in which a round is folded, on every machine."""
    return tuple(sorted(entries, key=lambda e: (e.manifest.peer, e.manifest.kind, e.id)))

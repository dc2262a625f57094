"""What a ledger holds and hears: contributions on their way, members' reports reduced to what sealing needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2pfusion.wire.messages import Contribution, ContributionId, Have


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLine:
    """What sealing needs to know of one member besides me: its last report, reduced to one shard."""

    tip_round: int
    tip_chain: bytes
    floor: int
    digests: dict[int, bytes]
    is_suspect: bool = False


class Entry:
    """One contribution here or on its way: its manifest and the segments that have arrived."""

    __slots__ = ("_have", "id", "manifest", "missing", "segments")

    def __init__(self, id_: ContributionId, manifest: Contribution) -> None:
        self.id = id_
        self.manifest = manifest
        self.segments: list[bytes | memoryview | None] = [None] * len(manifest.segments)
        self.missing = len(self.segments)
        self._have: Have | None = None

    @property
    def is_complete(self) -> bool:
        return self.missing == 0

    @property
    def held_bytes(self) -> int:
        """Payload in memory; what was spilled to disk is a view, not bytes."""
        return sum(len(segment) for segment in self.segments if isinstance(segment, bytes))

    def put(self, index: int, data: bytes) -> bool:
        """Keep one segment; True when it was the last one missing. To be called by the ledger alone."""
        if self.segments[index] is not None:
            return False
        self.segments[index] = data
        self.missing -= 1
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

"""Sealed models at round numbers: everybody keeps the same two, so a late joiner pulls one from all holders at once.

A sealed model is never changed in place, so keeping one costs a reference and its hashes. Pure; whoever calls
`take` does so in the executor, because hashing a large model takes a while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from blake3 import blake3

from p2pfusion.algorithms.base import Vector
from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.seams import Body
from p2pfusion.swarm.grafts import ID_BYTES, Grafted, Grafts, ids_in
from p2pfusion.wire.messages import Counted, Link, SegmentInfo, Snapshot

SNAPSHOTS_KEPT_MAX = 2
"""The two newest: contributions sealed since the older one are kept too, so that a switch can go back there."""
READ_S = 60.0
"""How long a snapshot stays after somebody last asked for a part of it."""
READ_KEPT_MAX = 2
"""Snapshots kept for readers at most: each is a whole model."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A sealed model with its manifest; `model` is flat float32, `covered` the ids its chain's grafts stand for."""

    manifest: Snapshot
    model: Vector
    covered: tuple[bytes, ...] = ()

    def segment(self, index: int) -> Body | None:
        """One segment: little-endian float32 of the model, not copied, or ids behind it; None beyond the last."""
        behind = index - (len(self.manifest.segments) - len(self.covered))
        if behind >= 0:
            return self.covered[behind] if behind < len(self.covered) else None
        start = index * SEGMENT_BYTES_MAX
        return _bytes_of(self.model)[start : start + SEGMENT_BYTES_MAX]


def take(run_id: bytes, link: Link, model: Vector) -> Kept:
    """Hash a sealed model into a snapshot."""
    data = _bytes_of(model)
    pieces = [data[i : i + SEGMENT_BYTES_MAX] for i in range(0, len(data), SEGMENT_BYTES_MAX)]
    segments = tuple(SegmentInfo(blake3(piece).digest(), len(piece)) for piece in pieces)
    manifest = Snapshot(run_id=run_id, round=link.round, chain=link.chain, weight=link.weight, segments=segments)
    return Kept(manifest, model)


def counting(kept: Kept, grafts: Grafts) -> Kept:
    """The same snapshot with what its chain had counted of grafts by then."""
    data = b"".join(id_ for one in grafts.counted for id_ in sorted(one.ids))
    covered = tuple(data[i : i + SEGMENT_BYTES_MAX] for i in range(0, len(data), SEGMENT_BYTES_MAX))
    records = tuple(
        Counted(round=one.round, fork_chain=one.key[0], lost_chain=one.key[1], covers=len(one.ids))
        for one in grafts.counted
    )
    listed = tuple(SegmentInfo(blake3(piece).digest(), len(piece)) for piece in covered)
    manifest = replace(
        kept.manifest,
        segments=kept.manifest.segments + listed,
        grafts_total=grafts.total,
        grafts=records,
    )
    return Kept(manifest, kept.model, covered)


def grafts_of(manifest: Snapshot, data: bytes) -> Grafts:
    """The same back, from a manifest and the bytes of the segments behind its model's."""
    counted, start = [], 0
    for record in manifest.grafts:
        stop = start + record.covers * ID_BYTES
        key, ids = (record.fork_chain, record.lost_chain), frozenset(ids_in(data[start:stop]))
        counted.append(Grafted(round=record.round, key=key, ids=ids))
        start = stop
    return Grafts(counted, manifest.grafts_total)


def hash_of(model: Vector) -> bytes:
    """BLAKE3 of a model's little-endian float32 bytes."""
    return blake3(_bytes_of(model)).digest()


class Snapshots:
    """The newest few, by round, and those that a joiner is reading (PROTOCOL.md 8)."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}
        self._read_s: dict[int, float] = {}

    def keep(self, snapshot: Kept, now_s: float) -> None:
        """Add one; of the older ones at most `READ_KEPT_MAX` stay, those read within `READ_S`."""
        self._kept[snapshot.manifest.round] = snapshot
        older = sorted(self._kept)[:-SNAPSHOTS_KEPT_MAX]
        read = [r for r in older if r in self._read_s and now_s - self._read_s[r] < READ_S][-READ_KEPT_MAX:]
        for round_ in older:
            if round_ not in read:
                self._drop(round_)

    def _drop(self, round_: int) -> None:
        del self._kept[round_]
        self._read_s.pop(round_, None)

    def by_chain(self, chain: bytes) -> Kept | None:
        return next((s for s in self._kept.values() if s.manifest.chain == chain), None)

    def read(self, chain: bytes, now_s: float) -> Kept | None:
        """The same for a joiner: what is being read stays, and with it every payload sealed after it."""
        found = self.by_chain(chain)
        if found is not None:
            self._read_s[found.manifest.round] = now_s
        return found

    def at_or_before(self, round_: int) -> Kept | None:
        """The newest one not above a round: where a switch starts from."""
        rounds = [r for r in self._kept if r <= round_]
        return self._kept[max(rounds)] if rounds else None

    def drop_above(self, round_: int) -> None:
        """My chain changed above this round."""
        for above in [r for r in self._kept if r > round_]:
            self._drop(above)

    @property
    def oldest_round(self) -> int:
        return min(self._kept)


def _bytes_of(model: Vector) -> memoryview:
    return np.ascontiguousarray(model, dtype="<f4").data.cast("B")

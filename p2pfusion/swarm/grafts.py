"""Grafts: how the work of a losing side enters the winner's chain, once and at its share (PROTOCOL.md 5).

`Grafts` is what one chain has counted so far; `Losses` is what this node left behind in switches and still owes a graft
for, and when to publish one. Both are plain bookkeeping about ids, chains and weights: the models whose difference a
graft carries are the node's affair, and so is the clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2pfusion.config import COVERED_IDS_MAX, GRAFTS_KEPT_MAX, SEGMENT_BYTES_MAX
from p2pfusion.swarm.entries import Entry
from p2pfusion.wire.messages import ContributionId, Graft, GraftKey

ID_BYTES = 32
LOSSES_MAX = 4
"""Losing sides a node owes a graft for; each keeps a model. Three partitions deep is rare, and others remember too."""


def cover_sizes(covers: int) -> tuple[int, ...]:
    """Bytes of the segments that list so many ids: full ones, then the rest."""
    whole, rest = divmod(covers * ID_BYTES, SEGMENT_BYTES_MAX)
    return (SEGMENT_BYTES_MAX,) * whole + ((rest,) if rest else ())


def cover_segments(ids: Iterable[ContributionId]) -> tuple[bytes, ...]:
    """These ids, sorted, as the last segments of a graft's manifest or a snapshot's."""
    data = b"".join(sorted(ids))
    return tuple(data[i : i + SEGMENT_BYTES_MAX] for i in range(0, len(data), SEGMENT_BYTES_MAX))


def ids_in(data: bytes) -> tuple[ContributionId, ...]:
    """The ids that such segments, joined, list."""
    return tuple(data[i : i + ID_BYTES] for i in range(0, len(data), ID_BYTES))


def covered_by(entry: Entry) -> tuple[ContributionId, ...]:
    """The ids a complete graft stands for."""
    graft = entry.manifest.graft
    if graft is None or not graft.covers:
        return ()
    pieces = entry.segments[-len(cover_sizes(graft.covers)) :]
    return ids_in(b"".join(piece for piece in pieces if piece is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grafted:
    """A graft that a chain has counted: in which round, which fork it healed, what it stands for."""

    round: int
    key: GraftKey
    ids: frozenset[ContributionId]


class Grafts:
    """What one chain has counted, oldest first; bounded by `GRAFTS_KEPT_MAX` and `COVERED_IDS_MAX`.

    What is forgotten depends on the chain alone, so all who hold a chain remember the same.
    """

    def __init__(self, counted: Iterable[Grafted] = (), total: int = 0) -> None:
        self.counted: list[Grafted] = list(counted)
        self.total = max(total, len(self.counted))
        """How many there were since genesis, forgotten ones included."""

    def __len__(self) -> int:
        return self.total

    def __contains__(self, key: GraftKey) -> bool:
        return any(one.key == key for one in self.counted)

    def covers(self, id_: ContributionId) -> bool:
        """Whether one of them stands for this contribution."""
        return any(id_ in one.ids for one in self.counted)

    def ids(self) -> frozenset[ContributionId]:
        """All that they stand for."""
        return frozenset().union(*(one.ids for one in self.counted))

    def append(self, grafted: Grafted) -> None:
        self.counted.append(grafted)
        self.total += 1
        while len(self.counted) > GRAFTS_KEPT_MAX or sum(len(one.ids) for one in self.counted[:-1]) > COVERED_IDS_MAX:
            del self.counted[0]

    def until(self, round_: int) -> Grafts:
        """A copy as it was when this round was sealed."""
        kept = [one for one in self.counted if one.round <= round_]
        return Grafts(kept, self.total - (len(self.counted) - len(kept)))

    def choose(self, entries: Iterable[Entry], is_mine: Callable[[bytes], bool]) -> Entry | None:
        """The one graft that counts in a round, if any: it knows all counted before, its key is new, and its losing
        chain is not my own (`is_mine`); of several the heaviest, then the longest, then the smallest id.
        """

        def order(candidate: tuple[Graft, Entry]) -> tuple[int, int, ContributionId]:
            graft, entry = candidate
            return -graft.weight_lost, -graft.length, entry.id

        fitting = [
            (graft, entry)
            for entry in entries
            if (graft := entry.manifest.graft) is not None
            and graft.after == self.total
            and graft.key not in self
            and not is_mine(graft.lost_chain)
        ]
        return min(fitting, key=order)[1] if fitting else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A side this node left behind: `weight` is what it gained since the fork, `fork_weight` the chain's there."""

    key: GraftKey
    length: int
    weight: int
    fork_weight: int
    covers: frozenset[ContributionId]


class Losses:
    """Owed grafts, by key; at most `LOSSES_MAX`."""

    def __init__(self) -> None:
        self._owed: dict[GraftKey, Loss] = {}
        self._emit_at_s: dict[GraftKey, float] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def __iter__(self) -> Iterator[Loss]:
        return iter(list(self._owed.values()))

    def __contains__(self, key: GraftKey) -> bool:
        return key in self._owed

    def stand_for(self, id_: ContributionId) -> bool:
        """Whether a graft I still owe will stand for this contribution: then it counts already."""
        return any(id_ in loss.covers for loss in self._owed.values())

    def add(self, loss: Loss) -> Loss | None:
        """Owe one more; beyond the limit the lightest is given up and returned: its authors keep it as residual."""
        self._owed[loss.key] = loss
        if len(self._owed) <= LOSSES_MAX:
            return None
        lightest = min(self._owed.values(), key=lambda owed: (owed.weight, owed.key))
        self.remove(lightest.key)
        return lightest

    def remove(self, key: GraftKey) -> None:
        self._owed.pop(key, None)
        self._emit_at_s.pop(key, None)

    def settle(self, grafts: Grafts, is_mine: Callable[[bytes], bool]) -> None:
        """Forget those that my chain has counted, and those whose side is my own chain again."""
        for loss in [loss for loss in self._owed.values() if loss.key in grafts or is_mine(loss.key[1])]:
            self.remove(loss.key)

    def due(
        self, tip_round: int, has_open_graft: bool, now_s: float, patience_s: float, rng: random.Random
    ) -> Loss | None:
        """The loss to publish a graft for now.

        Not before the winner's tip has passed the losing one, nor while an open graft (`has_open_graft`) comes first;
        then after a random part of one patience, so that as a rule one loser is first and the others see it.
        """
        for key, loss in self._owed.items():
            if tip_round < loss.length or has_open_graft:
                self._emit_at_s.pop(key, None)
            elif key not in self._emit_at_s:
                self._emit_at_s[key] = now_s + rng.random() * patience_s
            elif now_s >= self._emit_at_s[key]:
                del self._emit_at_s[key]
                return loss
        return None


def share_of(loss: Loss, tip_weight: int) -> float:
    """The losing side's share of the weight since the fork, in (0, 1)."""
    return loss.weight / (loss.weight + tip_weight - loss.fork_weight)


def rounds_of(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """A round's contributions: those that are work, and those that are grafts."""
    work = tuple(entry for entry in entries if entry.manifest.graft is None)
    return work, tuple(entry for entry in entries if entry.manifest.graft is not None)

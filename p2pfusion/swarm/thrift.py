"""Which codec my next contribution gets when the user leaves it to the node: `codec = "auto"`.

The richest one of `LADDER` whose bytes fit what a round may carry: a share of what the link was measured to carry, the
user's limit, the user's budget. Everybody sends its work to everybody, so with K who train a round moves K - 1
contributions into each node and as many copies out of it. What is tiny anyway goes as it is.

Whatever is chosen, what it loses stays in the author's residual and leaves with a later contribution.

Pure: times and counts come in. It does not know how bytes are made or moved.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from statistics import median

from p2pfusion.config import NodeConfig
from p2pfusion.wire.compression import segment_sizes

EXACT_BYTES_MAX = 4096
"""A contribution this small goes as float32: its manifest and the call around it cost as much."""
LINK_SHARE = 0.5
"""Of what the link carries in a round: the rest is for gossip, latecomers, and whoever else is on the Wi-Fi."""
LIMIT_SHARE = 0.8
"""Of the user's limit, which also holds manifests and gossip."""
RICHER_SLACK = 1.5
"""A richer codec must fit this many times over, or the choice would go to and fro."""
BUDGET_ROUNDS = 10
"""What was spent too much, or saved, is evened out over about this many rounds."""
TRANSFERS_KEPT_MAX = 64
"""Transfers the link is judged by: the last rounds."""
TRANSFER_BYTES_MIN = 16 << 10
"""A smaller transfer measures the delay, not the link."""
FAST_BYTES_PER_S = 100e6
"""On such a link zstd, at 0.6 GB/s, takes longer than the fifth it saves (bench/codecs.py)."""
ROUNDS_KEPT_MAX = 5
BEYOND_ROUNDS_MIN = 3
"""Rounds before it is said that a budget cannot be kept: the first ones tell little of what is to come."""
BEYOND_SLACK = 1.2
"""What was moved may be this many times the budget before it is said."""
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A codec; for the sparse ones, the share of elements it sends; and whether the lossless last stage may follow."""

    codec: str
    density: float = 1.0
    lossless: bool = True

    def bytes_of(self, elements: int) -> float:
        """About what so many elements take."""
        if self.codec in SPARSE_BYTES:
            return elements * self.density * SPARSE_BYTES[self.codec]
        return float(sum(segment_sizes(self.codec, elements)))


SPARSE_BYTES = {"topk": 1.9, "stc": 1.2}
"""Bytes for each element that is sent, its place included, at 1 % (bench/codecs.py); at 5 % it is less."""
LADDER = (Choice("int8"), Choice("int4"), Choice("topk", 0.05), Choice("stc", 0.05), Choice("stc", 0.01))
"""From the richest to the barest. float32 is not among them: int8 with the residual learns as well (BENCHMARKS.md)."""


class Link:
    """Learns from transfers, which overlap, how many bytes a second come in while any is under way."""

    def __init__(self) -> None:
        self._transfers: deque[tuple[float, float, int]] = deque(maxlen=TRANSFERS_KEPT_MAX)

    def carried(self, from_s: float, to_s: float, size_bytes: int) -> None:
        """A transfer of payload has ended."""
        if size_bytes >= TRANSFER_BYTES_MIN:
            self._transfers.append((from_s, to_s, size_bytes))

    @property
    def bytes_per_s(self) -> float | None:
        """None while nothing of size came."""
        busy_s, end_s = 0.0, float("-inf")
        for from_s, to_s, _ in sorted(self._transfers):
            busy_s += max(to_s - max(from_s, end_s), 0.0)
            end_s = max(end_s, to_s)
        return sum(size for *_, size in self._transfers) / busy_s if busy_s > 0 else None


class Thrift:
    """Chooses for one node."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self.link = Link()
        self._rounds_s: deque[float] = deque(maxlen=ROUNDS_KEPT_MAX)
        self._published_s: float | None = None
        self._begun_s: float | None = None
        self._before_bytes = 0
        """What was moved before the first contribution: the snapshot of a late joiner comes once, not every hour."""
        self._last: Choice | None = None

    def published(self, now_s: float, spent_bytes: int = 0) -> None:
        """A contribution of mine went out: that is how long a round takes. `spent_bytes`: moved by this node so far."""
        if self._published_s is not None:
            self._rounds_s.append(now_s - self._published_s)
        self._published_s = now_s
        if self._begun_s is None:
            self._begun_s, self._before_bytes = now_s, spent_bytes

    def choose(self, elements: int, others: int, spent_bytes: int, now_s: float) -> Choice:
        """For a contribution of so many elements, while `others` train too and this node has moved `spent_bytes`."""
        lossless = (self.link.bytes_per_s or 0.0) < FAST_BYTES_PER_S
        return replace(self._rung(elements, others, spent_bytes, now_s), lossless=lossless)

    def _rung(self, elements: int, others: int, spent_bytes: int, now_s: float) -> Choice:
        if self._config.codec != "auto":
            return Choice(self._config.codec, self._config.codec_density)
        if 4 * elements <= EXACT_BYTES_MAX:
            return Choice("fp32")
        if self._config.budget_bytes_per_h is not None and not self._rounds_s and others:
            return LADDER[-1]  # how long a round takes is not known yet: do not overdraw
        room_bytes = self.room_bytes(others, spent_bytes, now_s)
        steps = len(LADDER) if self._last is None else LADDER.index(self._last)
        for step, choice in enumerate(LADDER):
            slack = RICHER_SLACK if step < steps and self._last is not None else 1.0
            if choice.bytes_of(elements) * slack <= room_bytes:
                break
        self._last = choice
        return choice

    def room_bytes(self, others: int, spent_bytes: int, now_s: float) -> float:
        """How large my contribution may be; infinite while nothing bounds it or is known."""
        if not others or not self._rounds_s:
            return float("inf")
        round_s, rooms = median(self._rounds_s), [float("inf")]
        limit, rate = self._config.limit_bytes_per_s, self.link.bytes_per_s
        if limit is not None:
            rooms.append(LIMIT_SHARE * limit * round_s / others)
        if rate is not None and (limit is None or rate < LINK_SHARE * limit):  # else the limit is what was measured
            rooms.append(LINK_SHARE * rate * round_s / others)
        if (budget := self._config.budget_bytes_per_h) is not None and self._begun_s is not None:
            due_bytes = budget / HOUR_S * (now_s - self._begun_s + BUDGET_ROUNDS * round_s)
            rooms.append(max(due_bytes - spent_bytes, 0.0) / BUDGET_ROUNDS / (2 * others))
        return min(rooms)

    def beyond_budget(self, elements: int, others: int, spent_bytes: int, now_s: float) -> float | None:
        """Bytes an hour that this run moves or must move at least, when that is clearly more than the budget."""
        budget, begun_s = self._config.budget_bytes_per_h, self._begun_s
        if budget is None or begun_s is None or len(self._rounds_s) < BEYOND_ROUNDS_MIN:
            return None
        round_s, is_own = median(self._rounds_s), self._config.codec != "auto"
        own = Choice(self._config.codec, self._config.codec_density)
        least = (own if is_own else LADDER[-1]).bytes_of(elements) * 2 * others / max(round_s, 1e-3) * HOUR_S
        moved = (spent_bytes - self._before_bytes) / (now_s - begun_s + BUDGET_ROUNDS * round_s) * HOUR_S
        most = max(least, moved)
        return most if most > BEYOND_SLACK * budget else None

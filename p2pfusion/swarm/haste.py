"""How much to ask for at once, how long a request may take, and when to ask somebody else beside it. Pure arithmetic.

Requests share a link, so a request is measured against everything that was under way with it: on a slow link or a busy
machine all take longer, and none of them is late. What came in is remembered as a pace, seconds per byte. A request
that was not answered in its time halves what is under way, down to one segment; what comes in lets it grow again.

It knows no peers and no clock: durations and moments are given.
"""

from __future__ import annotations

from collections import deque
from math import inf
from statistics import median

from p2pfusion.config import SEGMENT_BYTES_MAX, GossipConfig

PACES_KEPT_MAX = 64
"""Durations remembered, for the same reason as the waits of `swarm.cadence`."""
HEDGE_MIN_S = 0.2
"""Least time one request is waited for alone: a busy computer answers a small one within it."""
LARGE_BYTES = 64 << 10
"""A body above it takes longer than the call itself: it is measured by its bytes, judged beside the loop, and worth
cutting off when it is not needed any more."""
FIRST_BYTES_PER_S = 2 << 20
"""Believed of a link before anything large came over it: 17 Mbit/s, a poor Wi-Fi."""
SPREADS = 4
"""A request is late when it took the median and so many times the median distance from it longer (`swarm.patience`)."""
LATE_FACTOR = 2.0
"""A large request is not late before it took this many times the median: few samples have no spread, and a second copy
of a mebibyte costs everybody who shares the link."""
REST_S = 1.0
"""A holder that says it is busy is left alone for so long: what servers ask for with `Retry-After`."""
RESTS_MAX = 30
"""Times in a row it may say so before it counts as one that did not deliver: half a minute."""
LIMIT_SHARE = 0.5
"""Share of the time a request has in which the traffic limit alone must let it through: the rest is for the others'."""


class Haste:
    """What one node's fetching has learnt of its links."""

    def __init__(self, gossip: GossipConfig, limit_bytes_per_s: float | None = None) -> None:
        """`limit_bytes_per_s` is what this node lets itself receive."""
        self._gossip = gossip
        self._limit_s_per_byte = 0.0 if limit_bytes_per_s is None else 1 / (LIMIT_SHARE * limit_bytes_per_s)
        self._most_bytes = gossip.fetch_bytes_in_flight_max
        if limit_bytes_per_s is not None:
            whole_s = gossip.deadline_s(SEGMENT_BYTES_MAX)
            self._most_bytes = min(self._most_bytes, int(LIMIT_SHARE * whole_s * limit_bytes_per_s))
        self._window_bytes = float(self._most_bytes)
        self._halved_s = -inf
        self._small_s: deque[float] = deque(maxlen=PACES_KEPT_MAX)
        self._large_s_per_byte: deque[float] = deque(maxlen=PACES_KEPT_MAX)
        self._small_alone_s: float | None = HEDGE_MIN_S
        self._large_late: float | None = 1 / FIRST_BYTES_PER_S
        """What these say; None when another came since. It is asked far more often than one comes."""

    @property
    def segments_max(self) -> int:
        """How many of the largest segments may be under way at once: one at least."""
        return max(1, self._most_bytes // SEGMENT_BYTES_MAX)

    def fits(self, under_way_bytes: int, more_bytes: int) -> bool:
        """Whether so many more bytes may be asked for now; one request always may."""
        return under_way_bytes == 0 or under_way_bytes + more_bytes <= self._window_bytes

    def deadline_s(self, size_bytes: int, load_bytes: int) -> float:
        """How long a request of this size may take, begun with that much under way, itself included."""
        return max(self._gossip.deadline_s(size_bytes), self._gossip.call_deadline_s + self._limited_s(load_bytes))

    def alone_s(self, load_bytes: int) -> float:
        """How long a request is waited for before another is sent beside it."""
        if load_bytes <= LARGE_BYTES:
            if self._small_alone_s is None:
                self._small_alone_s = max(HEDGE_MIN_S, _late(self._small_s))
            return self._small_alone_s
        if self._large_late is None:
            self._large_late = max(_late(self._large_s_per_byte), LATE_FACTOR * median(self._large_s_per_byte))
        return max(HEDGE_MIN_S, self._large_late * load_bytes, self._limited_s(load_bytes))

    def came(self, size_bytes: int, load_bytes: int, took_s: float) -> None:
        """A request was answered."""
        if size_bytes <= LARGE_BYTES:
            self._small_s.append(took_s)
            self._small_alone_s = None
        else:
            self._large_s_per_byte.append(took_s / load_bytes)
            self._large_late = None
        self._window_bytes = min(self._most_bytes, self._window_bytes + size_bytes / 2)

    def exceeded(self, size_bytes: int, began_s: float, now_s: float) -> None:
        """A request, begun at that moment, was not answered within its deadline.

        What was under way together says one thing together: only what began after the last halving halves again.
        """
        if size_bytes > LARGE_BYTES and began_s >= self._halved_s:
            self._window_bytes /= 2
            self._halved_s = now_s

    def _limited_s(self, load_bytes: int) -> float:
        return load_bytes * self._limit_s_per_byte


def _late(durations: deque[float]) -> float:
    middle = median(durations)
    return middle + SPREADS * median(abs(one - middle) for one in durations)

"""When a round is ready, how long to wait for whom, and what a contribution weighs (PROTOCOL.md 3 and 9).

Patience is learnt: the median plus four times the median absolute deviation of the last waits for expected peers'
contributions of the same round. So a fast swarm never waits long for a dead peer, and a slow one stays together.

Pure: `now_s` comes in, answers go out. It knows neither the ledger nor who is alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import ceil
from statistics import median

from p2pfusion.config import WEIGHT_MAX, CadenceConfig
from p2pfusion.wire.messages import PeerId

WAITS_KEPT_MAX = 64
"""Waits remembered: enough for a stable median, few enough to follow a change within some rounds."""
ROUNDS_WATCHED_MAX = 8
"""Own rounds for which a late arrival still teaches patience."""


class Cadence:
    """Learns patience and says when to go on."""

    def __init__(self, config: CadenceConfig) -> None:
        self.config = config
        self._waits_s: deque[float] = deque(maxlen=WAITS_KEPT_MAX)
        self._published_s: dict[int, float] = {}
        self._expected: dict[int, frozenset[PeerId]] = {}

    @property
    def patience_s(self) -> float:
        """How long after my own publication I wait for the others."""
        config = self.config
        if config.patience_s is not None:
            return config.patience_s
        if not self._waits_s:
            return config.patience_first_s
        middle = median(self._waits_s)
        spread = median(abs(wait - middle) for wait in self._waits_s)
        return min(max(middle + 4 * spread, config.patience_min_s), config.patience_max_s)

    def published(self, round_: int, expected: Collection[PeerId], arrived: Collection[PeerId], now_s: float) -> None:
        """I published to `round_` and expect these others there too; those in `arrived` came before me: no wait."""
        self._published_s[round_] = now_s
        self._expected[round_] = frozenset(expected)
        for old in sorted(self._published_s)[:-ROUNDS_WATCHED_MAX]:
            del self._published_s[old], self._expected[old]
        self._waits_s.extend(0.0 for peer in sorted(expected) if peer in arrived)

    def arrived(self, round_: int, peer: PeerId, now_s: float) -> None:
        """A contribution became complete; teaches patience when it was expected."""
        if round_ in self._published_s and peer in self._expected[round_]:
            self._waits_s.append(now_s - self._published_s[round_])

    def is_ready(self, round_: int, arrived: Collection[PeerId], expected: Collection[PeerId], now_s: float) -> bool:
        """Whether the round I published to may be left: quorum of those expected now, or patience ended."""
        if round_ not in self._published_s or now_s - self._published_s[round_] >= self.patience_s:
            return True
        here = sum(peer in arrived for peer in expected)
        return here >= ceil(self.config.quorum * len(expected))

    def ready_at_s(self, round_: int) -> float:
        """When patience for my publication to `round_` ends."""
        return self._published_s.get(round_, 0.0) + self.patience_s


def weight_of(samples: int, staleness: int, config: CadenceConfig) -> int:
    """A contribution's integer weight: round(2^16 * samples^weight_power * decay^max(0, staleness - 1)), in 1..2^32."""
    value = 65536.0 * float(samples) ** config.weight_power * config.decay ** max(0, staleness - 1)
    return int(min(max(round(value), 1), WEIGHT_MAX))

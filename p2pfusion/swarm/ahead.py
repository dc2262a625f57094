"""Whether to train the next round while the last one's contributions still travel.

Waiting for them costs most where the network is slow and nothing where it is fast; training ahead costs freshness
everywhere: what a round learns from is then one round older. So a node that may choose does it only when contributions
take more than a tenth of its training to come here. Who waits because others compute longer gains nothing by it, so
only the way is measured: from a manifest to its last segment.

Pure: moments come in. It does not know what is trained or fetched.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from p2pfusion.config import CadenceConfig
from p2pfusion.wire.messages import ContributionId

SHARE_ON, SHARE_OFF = 0.1, 0.05
"""Of the training time: above the first it is worth it, below the second no more."""
TRAVEL_MIN_S = 0.25
"""Less than this is not worth it either, however short the rounds are."""
KEPT_MAX = 16
"""Ways remembered: some rounds of a small swarm."""
ROUNDS_KEPT_MAX = 5
UNDER_WAY_MAX = 1024
"""Contributions on their way here; of those beyond nobody learns how long they took."""


class Ahead:
    """Measures for one node; `rounds` is how many rounds it trains ahead."""

    def __init__(self, config: CadenceConfig) -> None:
        self._config = config
        self._heard_s: dict[ContributionId, float] = {}
        self._travelled_s: deque[float] = deque(maxlen=KEPT_MAX)
        self._trained_s: deque[float] = deque(maxlen=ROUNDS_KEPT_MAX)
        self._is_on = False

    def heard(self, id_: ContributionId, now_s: float) -> None:
        """The manifest of somebody's contribution came."""
        if len(self._heard_s) >= UNDER_WAY_MAX:
            del self._heard_s[next(iter(self._heard_s))]
        self._heard_s[id_] = now_s

    def complete(self, id_: ContributionId, now_s: float) -> None:
        """All of it is here."""
        if (heard_s := self._heard_s.pop(id_, None)) is not None:
            self._travelled_s.append(now_s - heard_s)

    def trained(self, train_s: float) -> None:
        """A round of mine took so long to train."""
        self._trained_s.append(train_s)

    @property
    def rounds(self) -> int:
        """As configured; else 1 where the way is long. A synchronous round (quorum 1) is never left early."""
        if self._config.ahead_rounds is not None:
            return self._config.ahead_rounds
        if self._config.quorum == 1 or not (self._travelled_s and self._trained_s):
            return 0
        travel_s, train_s = median(self._travelled_s), median(self._trained_s)
        self._is_on = travel_s > max(TRAVEL_MIN_S, (SHARE_OFF if self._is_on else SHARE_ON) * train_s)
        return int(self._is_on)

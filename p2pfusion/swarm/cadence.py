"""When a round is ready, how long to wait for whom, and what a contribution weighs (PROTOCOL.md 3 and 9).

Patience is learnt: the median plus four times the median absolute deviation of the last waits for expected peers'
contributions of the same round. So a fast swarm never waits long for a dead peer, a slow one stays together, and a
slow minority teaches nobody to wait. `pace` turns the same arrivals into local steps.

The semi-asynchronous round is in `CadenceConfig`: go on with `quorum` of the others and a grace, fixed or a share of
what a round takes, or when patience or a deadline ends; who finishes later publishes to the newest round, with a weight
that staleness may lower. What a round takes is learnt from its beginning to its quorum, even when that comes after the
round was left: waits for those who do not come are no part of it, or each would make the next longer.

Pure: `now_s` comes in, answers go out. It knows neither the ledger nor who is alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil

from p2pfusion.config import WEIGHT_MAX, CadenceConfig
from p2pfusion.swarm.pace import Pace
from p2pfusion.swarm.patience import learnt_s
from p2pfusion.wire.messages import PeerId

WAITS_KEPT_MAX = 64
"""Waits remembered: enough for a stable median, few enough to follow a change within some rounds."""
ROUND_NEW = 0.25
"""Share of the newest round in the running mean of what a round takes: half of a change is learnt in three."""
ROUNDS_WATCHED_MAX = 8
"""Own rounds for which a late arrival still teaches patience."""


@dataclass(slots=True)
class _Published:
    """A round of mine: when, how long I would wait at most, for whom, and who came when."""

    at_s: float
    patient_until_s: float
    expected: frozenset[PeerId]
    began_s: float
    came_s: dict[PeerId, float] = field(default_factory=dict)
    """Authors whose work is here, and since when, not before I published; no more than the ledger has of a round."""
    is_learnt: bool = False
    """Its quorum was there: it has taught what a round takes."""


class Cadence:
    """Learns patience and says when to go on; `pace` says with how many steps."""

    def __init__(self, config: CadenceConfig) -> None:
        self.config = config
        self.pace = Pace(config)
        self._waits_s: deque[float] = deque(maxlen=WAITS_KEPT_MAX)
        self._learnt_s: float | None = None
        self._mine: dict[int, _Published] = {}
        self.round_s: float | None = None
        """What a round takes from its beginning to its quorum, a running mean; None: not known."""

    @property
    def patience_s(self) -> float:
        """How long after my own publication I wait for the others."""
        if self._learnt_s is None:
            self._learnt_s = learnt_s(self._waits_s, self.config)
        return self._learnt_s

    def published(
        self,
        round_: int,
        expected: Collection[PeerId],
        arrived: Collection[PeerId],
        now_s: float,
        began_s: float | None = None,
    ) -> None:
        """I published to `round_` and expect these others there too; those in `arrived` came before me: no wait.

        `began_s`: when I began with it; None: now.
        """
        began_s = now_s if began_s is None else began_s
        mine = _Published(now_s, now_s + self.patience_s, frozenset(expected), began_s, dict.fromkeys(arrived, now_s))
        self._mine[round_] = mine
        for old in sorted(self._mine)[:-ROUNDS_WATCHED_MAX]:
            del self._mine[old]
        self._learn([0.0] * sum(peer in arrived for peer in expected))
        self._learn_round(mine, now_s)
        self.pace.published(round_, now_s)

    def arrived(self, round_: int, peer: PeerId, now_s: float, samples: int = 0) -> None:
        """A contribution became complete; teaches patience when it was expected."""
        mine = self._mine.get(round_)
        if mine is not None:
            mine.came_s.setdefault(peer, now_s)
            if peer in mine.expected:
                self._learn([now_s - mine.at_s])
                self._learn_round(mine, now_s)
        self.pace.heard(round_, peer, samples, now_s)

    def _learn(self, waits_s: list[float]) -> None:
        self._waits_s.extend(waits_s)
        self._learnt_s = None

    def _learn_round(self, mine: _Published, now_s: float) -> None:
        """What a round takes, from the one whose quorum, of those expected at first, came just now."""
        if mine.is_learnt or self._quorum_s(mine, mine.came_s, mine.expected) is None:
            return
        took_s = now_s - mine.began_s
        self.round_s = took_s if self.round_s is None else self.round_s + ROUND_NEW * (took_s - self.round_s)
        mine.is_learnt = True

    def is_ready(self, round_: int, arrived: Collection[PeerId], expected: Collection[PeerId], now_s: float) -> bool:
        """Whether the round I published to may be left: quorum of those expected now and grace, or patience ended."""
        return now_s >= self.ready_at_s(round_, arrived, expected)

    def ready_at_s(self, round_: int, arrived: Collection[PeerId], expected: Collection[PeerId]) -> float:
        """When the wait for `round_` ends if nobody else comes, as far as is known now."""
        mine = self._mine.get(round_)
        if mine is None:
            return 0.0
        end_s, quorum_s = self._end_s(mine), self._quorum_s(mine, arrived, expected)
        if quorum_s is None:
            return end_s
        if all(peer in arrived for peer in expected):
            return min(end_s, quorum_s)
        return min(end_s, quorum_s + max(self.config.grace_s, self.config.grace_share * (self.round_s or 0.0)))

    def _quorum_s(self, mine: _Published, arrived: Collection[PeerId], expected: Collection[PeerId]) -> float | None:
        """Since when enough of those expected are there; None: they are not."""
        needed = ceil(self.config.quorum * len(expected))
        came_s = sorted(mine.came_s.get(peer, mine.at_s) for peer in expected if peer in arrived)
        if len(came_s) < needed:
            return None
        return came_s[needed - 1] if needed else mine.at_s

    def _end_s(self, mine: _Published) -> float:
        """Patience as it was when I published, or less if it has become less: nobody can draw out a wait under way."""
        if self.config.deadline_share is not None and self.round_s is not None:
            deadline_s = mine.began_s + self.config.deadline_share * self.round_s
            return min(deadline_s, mine.at_s + self.config.patience_max_s)
        return min(mine.patient_until_s, mine.at_s + self.patience_s)


def weight_of(samples: int, staleness: int, config: CadenceConfig, worth: float = 1.0) -> int:
    """A contribution's integer weight, in 1..2^32; rounded 2^16 for the plain mean of PROTOCOL.md 3.

    Times samples^weight_power, decay^(s - 1) and s^-staleness_power, where s is the staleness, 1 in calm weather, and
    times `worth`, what its author's algorithm says of it.
    """
    counted = max(samples, 1) if config.weight_power < 0 else samples
    value = 65536.0 * float(counted) ** config.weight_power
    value *= worth * config.decay ** max(0, staleness - 1) * max(1, staleness) ** -config.staleness_power
    return int(min(max(round(value), 1), WEIGHT_MAX))

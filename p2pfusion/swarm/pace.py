"""How many local steps my next round takes, so that a round takes everybody about as long (PROTOCOL.md 3).

What others need for a round is read off the arrivals of their contributions: from the moment a peer could begin (its
last contribution, or the quorum of the round it waits for, or the end of its patience) to its next one, scaled to the
most samples it was seen to train. So a peer that takes fewer steps does not pass for a fast one, and nobody can chase
anybody down.
The swarm's round is the *upper* median of that, which a majority keeps up with, me included; or less, where rounds in
fact follow each other faster, but never less than the fastest peer needs: when the fast have left, the others take all
their steps again. What I need is measured: seconds per step, and the rest of my round.

Nothing is cut that is not clearly late, and a cut stands until it is clearly wrong: equal devices train all their
steps, and nobody follows noise up and down.

Pure: `now_s` comes in, a number of steps goes out. It knows neither the ledger nor who is alive nor what a step is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import islice, pairwise
from math import ceil, inf
from statistics import median

from p2pfusion.config import PEERS_MAX, CadenceConfig
from p2pfusion.swarm.patience import learnt_s
from p2pfusion.wire.messages import PeerId

ROUNDS_KEPT_MAX = 16
"""Rounds remembered, the newest: a peer that takes part in every third still shows five of its own."""
TOOK_MAX = 5
"""Rounds of a peer, and of the swarm, that are looked at: one lost packet is outvoted, a change is seen in three."""
WITNESSES_MAX = 16
"""Contributions of a round by which a peer's patience is guessed; more would cost a swarm of 100 its time."""
OWN_KEPT_MAX = 3
"""Own rounds remembered: a device that gets faster or slower is believed at the second."""
SLACK = 1.3
"""Up to this much above the swarm's round is not late, and a plan this near to the best one stays."""
SLACK_BACK = 1.1
"""Who was cut takes all steps again only when they nearly fit: between the two nothing changes."""
LATE_MIN_S = 0.05
"""Less than this is not late either: arrivals on a Wi-Fi scatter as much."""


Arrival = tuple[float, int]
"""When a contribution was complete here, and its samples."""


class Pace:
    """Learns what a round takes the others and me, and says how many steps fit."""

    def __init__(self, config: CadenceConfig) -> None:
        self._config = config
        self._others: tuple[PeerId, ...] = ()
        self._ahead_rounds = 0
        self._arrivals: dict[int, dict[PeerId | None, Arrival]] = {}
        """By round and author, as they came; None is me."""
        self._samples_max: dict[PeerId, int] = {}
        self._step_s: deque[float] = deque(maxlen=OWN_KEPT_MAX)
        self._rest_s: deque[float] = deque(maxlen=OWN_KEPT_MAX)
        self._planned: int | None = None
        """None: all."""

    # -- what happens -----------------------------------------------------------------------------------------------

    def expect(self, others: Collection[PeerId], ahead_rounds: int = 0) -> None:
        """Who trains besides me now: nobody else counts, and whoever is not even in the rounds kept is forgotten.

        `ahead_rounds` is how many rounds I train ahead; so do they, for they have the same network.
        """
        self._ahead_rounds = ahead_rounds
        self._others = tuple(sorted(others))
        seen = {peer for arrivals in self._arrivals.values() for peer in arrivals}
        self._samples_max = {p: most for p, most in self._samples_max.items() if p in seen or p in self._others}

    def heard(self, round_: int, peer: PeerId, samples: int, now_s: float) -> None:
        """A peer's contribution became complete; it may be one that is not known to train yet."""
        self._note(round_, peer, (now_s, max(samples, 1)))
        if peer in self._samples_max or len(self._samples_max) < PEERS_MAX:
            self._samples_max[peer] = max(self._samples_max.get(peer, 1), samples)

    def published(self, round_: int, now_s: float) -> None:
        """I contributed to `round_`."""
        self._note(round_, None, (now_s, 1))

    def trained(self, steps: int, train_s: float, rest_s: float) -> None:
        """A round of mine: steps taken, seconds they took, seconds of the round besides them."""
        self._step_s.append(train_s / steps)
        self._rest_s.append(rest_s)

    def _note(self, round_: int, author: PeerId | None, arrival: Arrival) -> None:
        arrivals = self._arrivals.setdefault(round_, {})
        if len(arrivals) <= PEERS_MAX:
            arrivals.setdefault(author, arrival)
        if len(self._arrivals) > ROUNDS_KEPT_MAX:
            del self._arrivals[min(self._arrivals)]

    # -- what others need -------------------------------------------------------------------------------------------

    def round_s(self, *, guess_patience: bool = True) -> float | None:
        """What a round is to take, beginning to arrival here; None while that is not known.

        Without guessing anybody's patience it is cheap, and may be too little.
        """
        begun = sorted((round_, min(at_s for at_s, _ in arrivals.values())) for round_, arrivals in self._seen())
        begun = begun[-TOOK_MAX - 1 :]
        if not self._others or len(begun) < 2:
            return None
        full_s = sorted(self._full_s(peer, guess_patience) for peer in self._others)
        (first, from_s), (last, to_s) = begun[0], begun[-1]
        gap_s = max(to_s - from_s, 0.0) / (last - first)
        round_s = min(full_s[len(full_s) // 2], max(full_s[0], gap_s))
        return round_s if round_s < inf else None

    def _seen(self) -> list[tuple[int, dict[PeerId | None, Arrival]]]:
        return sorted(self._arrivals.items())

    def _full_s(self, peer: PeerId, guess_patience: bool) -> float:
        """Seconds a peer needs for a round with all its samples; infinite while it was not seen to finish one."""
        mine = [(round_, *arrivals[peer]) for round_, arrivals in self._seen() if peer in arrivals][-TOOK_MAX - 1 :]
        if len(mine) < 2:
            return inf
        patience_s = self._patience_s(peer) if guess_patience else inf
        sample_s = []
        for (round_, from_s, _), (_, to_s, samples) in pairwise(mine):
            quorum_s = self._quorum_s(round_ - self._ahead_rounds)
            waited_s = min(max(quorum_s - from_s, 0.0), patience_s) if quorum_s < to_s else 0.0
            sample_s.append(max(to_s - from_s - waited_s, 0.0) / samples)
        return median(sample_s) * self._samples_max.get(peer, 1)

    def _quorum_s(self, round_: int) -> float:
        """When the quorum of a round was here; infinite if it is not; long ago for a round that is forgotten."""
        if round_ not in self._arrivals:
            return -inf
        needed = ceil(self._config.quorum * (len(self._others) + 1))
        times_s = sorted(at_s for at_s, _ in self._arrivals[round_].values())
        return -inf if needed == 0 else times_s[needed - 1] if needed <= len(times_s) else inf

    def _patience_s(self, peer: PeerId) -> float:
        """What a peer has learnt of the same arrivals, if it learns as I do."""
        waits_s = [
            max(at_s - arrivals[peer][0], 0.0)
            for arrivals in self._arrivals.values()
            if peer in arrivals
            for author, (at_s, _) in islice(arrivals.items(), WITNESSES_MAX)
            if author != peer
        ]
        return learnt_s(waits_s, self._config)

    # -- what follows for me ----------------------------------------------------------------------------------------

    def steps(self, wanted: int) -> int:
        """Steps for my next round, 1 to `wanted`; the last plan for as long as it fits."""
        if not self._config.adapt_steps or self._is_in_time(wanted, self._fit(guess_patience=False)):
            self._planned = None
            return wanted
        fit = self._fit(guess_patience=True)
        if self._is_in_time(wanted, fit):
            self._planned = None
            return wanted
        if self._planned is None or not fit / SLACK <= self._planned <= max(fit * SLACK, 1):
            self._planned = max(1, int(fit))
        return min(self._planned, wanted)

    def _fit(self, *, guess_patience: bool) -> float:
        """Steps that would take me exactly the swarm's round."""
        if not self._step_s or median(self._step_s) <= 0:
            return inf
        round_s = self.round_s(guess_patience=guess_patience)
        return inf if round_s is None else max(round_s - median(self._rest_s), 0.0) / median(self._step_s)

    def _is_in_time(self, wanted: int, fit: float) -> bool:
        slack = SLACK if self._planned is None else SLACK_BACK
        return wanted <= fit * slack or (wanted - fit) * median(self._step_s) <= LATE_MIN_S

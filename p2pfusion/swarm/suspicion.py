"""How long a suspect has to refute, and what is told about it: Lifeguard's shrinking timer and bounded rumours.

A suspicion that nobody shares lasts `suspicion_max_s`; each independent accuser shortens it, logarithmically, towards
`suspicion_min_s` (Lifeguard, arXiv 1707.00788, section IV.B; memberlist's suspicion.go). Where nobody could confirm,
among two, it lasts longest: a single accuser never kills fast.

Pure: `now_s` comes in. It knows neither members nor the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, log, log10

from p2pfusion.config import GossipConfig
from p2pfusion.wire.messages import PeerId, Rumour

RUMOURS_WAITING_MAX = 1024
"""Rumours still to be told (memberlist's and serf's figure); the one told most often goes first."""
KNOWN_TO_MAX = 64
"""Peers remembered to have told a rumour; more would have to be told it in vain."""
RETRANSMIT_FACTOR = 4.0
"""A rumour is told ceil(this * log10(members + 1)) times by each who hears it (SWIM's lambda; memberlist's default)."""


def suspicion_s(confirmations: int, expected: int, least_s: float, most_s: float) -> float:
    """How long a suspicion lasts that so many others than the first accuser share, of so many expected."""
    if expected < 1:
        return most_s
    share = log(min(confirmations, expected) + 1) / log(expected + 1)
    return max(least_s, most_s - (most_s - least_s) * share)


@dataclass(slots=True)
class Suspicion:
    """One running suspicion: against which incarnation, since when, shared by whom (at most `expected` + 1)."""

    incarnation: int
    since_s: float
    accusers: dict[PeerId, None]
    expected: int
    is_sentenced: bool = False
    """Somebody's own clock has run out already: the suspect has the least time here, not none."""

    def confirm(self, accuser: PeerId) -> bool:
        """True when this is one more, and worth passing on."""
        if accuser in self.accusers or len(self.accusers) > self.expected:
            return False
        self.accusers[accuser] = None
        return True

    def ends_s(self, gossip: GossipConfig) -> float:
        """The moment of death, unless refuted."""
        least_s, most_s = gossip.suspicion_min_s, gossip.suspicion_max_s
        if self.is_sentenced:
            return self.since_s + least_s
        return self.since_s + suspicion_s(len(self.accusers) - 1, self.expected, least_s, most_s)


@dataclass(slots=True)
class _Spread:
    """How often a rumour was told, and who has it: those told, and those who told it."""

    times: int = 0
    known: dict[PeerId, None] = field(default_factory=dict)


class Rumours:
    """News on its way out, each told a bounded number of times. At most `RUMOURS_WAITING_MAX`."""

    def __init__(self) -> None:
        self._waiting: dict[Rumour, _Spread] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_untold(self) -> bool:
        """Whether any has not been told even once."""
        return any(spread.times == 0 for spread in self._waiting.values())

    def add(self, rumour: Rumour) -> None:
        """Tell this from the start, even if it was told before."""
        if rumour not in self._waiting and len(self._waiting) >= RUMOURS_WAITING_MAX:
            del self._waiting[max(self._waiting, key=self._times)]
        self._waiting[rumour] = _Spread()

    def known_to(self, rumour: Rumour, peer: PeerId) -> None:
        """This peer told it: there is no need to tell it back."""
        spread = self._waiting.get(rumour)
        if spread is not None and len(spread.known) < KNOWN_TO_MAX:
            spread.known[peer] = None

    def drop(self, peer: PeerId) -> None:
        """What was said about this peer is no longer so."""
        for rumour in [rumour for rumour in self._waiting if rumour.peer == peer]:
            del self._waiting[rumour]

    def take(self, peer: PeerId, members: int, most: int) -> tuple[Rumour, ...]:
        """The next to tell this peer, those told least often first; each is counted as told once."""
        limit = ceil(RETRANSMIT_FACTOR * log10(members + 1))
        new = [rumour for rumour, spread in self._waiting.items() if peer not in spread.known]
        chosen = sorted(new, key=self._times)[:most]  # stable: of equals the older first
        for rumour in chosen:
            spread = self._waiting[rumour]
            spread.times += 1
            spread.known[peer] = None
            if spread.times >= limit or len(spread.known) >= members - 1:
                del self._waiting[rumour]
        return tuple(chosen)

    def _times(self, rumour: Rumour) -> int:
        return self._waiting[rumour].times

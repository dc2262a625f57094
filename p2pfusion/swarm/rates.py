"""What share of an axis each peer trains, learnt from the slices it declares.

Nobody tells its rate: a contribution's sub-model shows it (`core.schemes.rate_of`). It shapes the gaps between
neighbours' windows and nothing else, so being a round behind, or wrong, costs overlap only. Whoever was not heard of
yet counts as I do.

One number a peer. It knows no blueprint and no clock; who died it is told.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pfusion.config import PEERS_MAX
from p2pfusion.wire.messages import PeerId


class Rates:
    """The rate each peer's newest contribution showed. At most `PEERS_MAX`; the longest silent is forgotten first."""

    def __init__(self) -> None:
        self._shown: dict[PeerId, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._shown)

    def heard(self, peer: PeerId, round_: int, rate: float) -> None:
        """A contribution of that peer to that round is complete; older ones than the last change nothing."""
        known = self._shown.get(peer)
        if known is not None and round_ < known[0]:
            return
        self._shown[peer] = round_, rate
        if len(self._shown) > PEERS_MAX:
            del self._shown[min(self._shown, key=lambda peer: (self._shown[peer][0], peer))]

    def forget(self, peer: PeerId) -> None:
        """It is dead, or has left."""
        self._shown.pop(peer, None)

    def among(self, trainers: Sequence[PeerId], me: PeerId, mine: float) -> tuple[float, ...]:
        """The rate of each of these peers, in this order: mine for me and for those not heard of yet."""
        return tuple(mine if peer == me or peer not in self._shown else self._shown[peer][1] for peer in trainers)

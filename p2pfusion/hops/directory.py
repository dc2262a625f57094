"""Which devices there are, what each offers and holds: from what they say of themselves, relayed by anyone.

A device's newest offer wins, by `(incarnation, beat)`; it beats as long as it lives, so whoever was not heard of for a
while is gone. Nothing here is agreed upon: two devices may see different swarms for a moment, and what they decide from
it must be harmless then.

Pure: `now_s` comes in. Knows no network, no chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from p2pfusion.wire.hops import DEVICES_MAX, Offer


@dataclass(slots=True)
class _Known:
    """The newest offer, and when it was first heard."""

    offer: Offer
    heard_s: float


class Directory:
    """All devices but me."""

    def __init__(self, me: bytes, run: bytes, silent_s: float) -> None:
        """`silent_s`: after so long without a new beat a device counts as gone."""
        self._me, self._run, self._silent_s = me, run, silent_s
        self._known: dict[bytes, _Known] = {}
        self.changed_s = 0.0
        """When somebody last came, or said something new."""
        self.stranger: str | None = None
        """Somebody of this swarm who trains another network, or this one dealt or started otherwise."""

    def hear(self, offers: Iterable[Offer], now_s: float) -> bool:
        """Take what is newer; True when something other than a beat changed."""
        has_changed = False
        for offer in offers:
            if offer.device == self._me:
                continue
            if offer.run != self._run:
                self.stranger = offer.name
                continue
            known = self._known.get(offer.device)
            if known is None:
                if len(self._known) >= DEVICES_MAX - 1 and not self._forget_one(now_s):
                    continue
                self._known[offer.device] = _Known(offer, now_s)
                has_changed |= not offer.is_leaving
            elif (offer.incarnation, offer.beat) > (known.offer.incarnation, known.offer.beat):
                has_changed |= _said(offer) != _said(known.offer) or not self._is_here(known, now_s)
                self._known[offer.device] = _Known(offer, now_s)
        if has_changed:
            self.changed_s = now_s
        return has_changed

    def here(self, now_s: float) -> tuple[Offer, ...]:
        """Offers of those who are here, ascending by device."""
        return self.heard(now_s, self._silent_s)

    def heard(self, now_s: float, within_s: float) -> tuple[Offer, ...]:
        """Offers of those who did not leave and were heard of in the last so many seconds, ascending by device."""
        return tuple(known.offer for _, known in sorted(self._known.items()) if _is_heard(known, now_s, within_s))

    def left(self) -> tuple[Offer, ...]:
        """The last words of those who left, ascending by device."""
        return tuple(known.offer for _, known in sorted(self._known.items()) if known.offer.is_leaving)

    def addresses(self) -> list[str]:
        """One of everybody I have heard of and who did not leave, gone ones too: they may come back."""
        return [known.offer.addresses[0] for _, known in sorted(self._known.items()) if not known.offer.is_leaving]

    def lose(self, device: bytes) -> None:
        """It does not answer: it is gone until it beats again."""
        if (known := self._known.get(device)) is not None:
            known.heard_s = -math.inf

    def _is_here(self, known: _Known, now_s: float) -> bool:
        return _is_heard(known, now_s, self._silent_s)

    def _forget_one(self, now_s: float) -> bool:
        """Make room: whoever is gone longest."""
        gone = [(known.heard_s, device) for device, known in self._known.items() if not self._is_here(known, now_s)]
        if gone:
            del self._known[min(gone)[1]]
        return bool(gone)


def _is_heard(known: _Known, now_s: float, within_s: float) -> bool:
    return not known.offer.is_leaving and now_s - known.heard_s < within_s


def _said(offer: Offer) -> tuple[object, ...]:
    """What others act upon."""
    shards = tuple(one.shard for one in offer.held)
    what = offer.is_owner, offer.is_relay, offer.is_leaving, offer.memory_bytes
    return offer.addresses, *what, shards, offer.chain, offer.lanes

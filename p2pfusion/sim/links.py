"""One direction between two hosts: the numbers that describe it, and when a packet put on it arrives.

A packet leaves when everything before it has left, at `bandwidth_bytes_per_s`, and arrives `latency_s` plus jitter
later, never before the packet that left before it: first in, first out. On a link that reorders, some packets escape
that rule, and on one that duplicates, some arrive twice. This module draws nothing and asks no clock; moments and
chance are given to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from p2pfusion.errors import ConfigError

HEADER_BYTES = 256
"""Charged to the link for each packet besides its body: about what an HTTP request or reply head takes."""

SMALL_BYTES = 16 << 10
"""Of a body that hardly waits at a busy access: connections share it fairly, and this one is soon through."""

Fate = Literal["sent", "arrived", "lost", "late", "cut", "held"]
"""`lost` by chance or on a clogged link, `late`: not sent in full when the caller gave up, `cut` by a crash, a lid or a
partition, `held` at a wall until it falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkModel:
    """One direction between two hosts. Jitter is uniform in [0, jitter_s); the defaults are a calm 100 Mbit/s LAN.

    `access_bytes_per_s` is what a host's own access (its Wi-Fi) carries each way, all its links together (None: all).
    `loss`, `duplication` and `reordering` are shares of the packets, 0 to 1. One that is reordered arrives up to
    `reordering_s` later, others passing it; the second copy of one that is duplicated likewise.
    """

    latency_s: float = 0.002
    jitter_s: float = 0.001
    loss: float = 0.0
    bandwidth_bytes_per_s: float = 12_500_000.0
    access_bytes_per_s: float | None = None
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_s: float = 0.05

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "access_bytes_per_s" and value is None:
                continue
            if not value >= 0 or (item.name in ("bandwidth_bytes_per_s", "access_bytes_per_s") and value == 0):
                raise ConfigError(f"LinkModel.{item.name} = {value!r}: must be 0 or above, bandwidth above 0")
        for name in ("loss", "duplication", "reordering"):
            if getattr(self, name) > 1:
                raise ConfigError(f"LinkModel.{name} = {getattr(self, name)!r}: must be 0 to 1")

    @property
    def is_odd(self) -> bool:
        """Whether packets may come twice or out of their order."""
        return self.duplication > 0 or self.reordering > 0


@dataclass(frozen=True, slots=True)
class Packet:
    """What a trace sees. `size_bytes` counts the body alone, as nodes do."""

    kind: Literal["request", "reply", "refusal"]
    source: int
    target: int
    path: str
    size_bytes: int


Trace = Callable[[float, Fate, Packet], None]
"""Called with the virtual time, what became of the packet, and the packet: as it leaves and again as it arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one host put on its links (lost or not) and got from them; bytes of bodies."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int


class Link:
    """Until when one direction is busy, and when its last packet arrives."""

    __slots__ = ("arrived_s", "free_s")

    def __init__(self) -> None:
        self.free_s = 0.0
        self.arrived_s = 0.0

    def transmit(self, now_s: float, duration_s: float, give_up_s: float) -> float | None:
        """When the last byte leaves, or None if the caller gives up before: the rest is then not sent."""
        start_s = max(now_s, self.free_s)
        end_s = start_s + duration_s
        self.free_s = min(end_s, max(start_s, give_up_s))
        return end_s if end_s <= give_up_s else None

    def arrival(self, moment_s: float) -> float:
        """When a packet that would arrive then does arrive: not before the one that left before it."""
        self.arrived_s = max(self.arrived_s, moment_s)
        return self.arrived_s


class Access(Link):
    """What all links of one host share, in one direction: in turn, but who has little to send waits for nobody."""

    __slots__ = ()

    def transmit(self, now_s: float, duration_s: float, give_up_s: float, *, is_small: bool = False) -> float | None:
        """See `Link.transmit`; a small one takes its time from those who wait."""
        if not is_small:
            return super().transmit(now_s, duration_s, give_up_s)
        self.free_s = max(self.free_s, now_s) + duration_s
        return now_s + duration_s if now_s + duration_s <= give_up_s else None

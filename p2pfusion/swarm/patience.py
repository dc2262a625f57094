"""How long to wait for others, learnt from how long they let one wait (PROTOCOL.md 9).

A function of its own, because a node applies it to itself (`cadence`) and to what it sees of others (`pace`).
"""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

from p2pfusion.config import CadenceConfig


def learnt_s(waits_s: Collection[float], config: CadenceConfig) -> float:
    """The median wait and four times the median absolute deviation, within the configured limits; seconds."""
    if config.patience_s is not None:
        return config.patience_s
    if not waits_s:
        return config.patience_first_s
    middle_s = median(waits_s)
    spread_s = median(abs(wait_s - middle_s) for wait_s in waits_s)
    return min(max(middle_s + 4 * spread_s, config.patience_min_s), config.patience_max_s)

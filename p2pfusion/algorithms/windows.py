"""What can be chosen of the algorithms that train windows of one network: MSfusion's double shift, HeteroFL's rates.

`--algorithm msfusion:overlap=sigmoid:horizon=60:phase=slip`, `--algorithm heterofl:rates=dynamic`. Contributions
declare their slice, so devices that chose differently still train one model. Knows no node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfusion.core import schemes
from p2pfusion.core.schemes import GapPolicy, Phase, Scheme
from p2pfusion.errors import UsageError

CONSTANT_OVERLAP = 0.25
"""What the schedules have on average, from their begin to their horizon."""
HORIZON_MIN = 2
"""Rounds that a schedule with two ends takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Of the double shift. `overlap`: how it changes, within `horizon` rounds; the others: `schemes.double_shift`."""

    overlap: Literal["cosine", "sigmoid", "constant"] = "cosine"
    horizon: int = schemes.HORIZON_ROUNDS
    phase: Phase = "aligned"
    gaps: GapPolicy = "overlap"

    def __post_init__(self) -> None:
        if self.horizon < HORIZON_MIN:
            raise UsageError(f"horizon={self.horizon}: an overlap changes in at least {HORIZON_MIN} rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Of windows that all start alike. `rates`: a device's own in every round, or drawn anew of those up to it."""

    rates: Literal["fixed", "dynamic"] = "fixed"


def shifted(choice: Shift) -> Scheme:
    """The double shift that was chosen."""
    schedule = {
        "cosine": schemes.cosine(rounds=choice.horizon),
        "sigmoid": schemes.sigmoid(rounds=choice.horizon),
        "constant": schemes.constant(CONSTANT_OVERLAP),
    }[choice.overlap]
    return schemes.double_shift(schedule, gaps=choice.gaps, phase=choice.phase)


def drawn(scheme: Scheme, choice: Draw) -> Scheme:
    """That scheme, at the rates that were chosen."""
    return schemes.dynamic(scheme) if choice.rates == "dynamic" else scheme

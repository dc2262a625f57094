"""Algorithms by name: data, one row each. No other module compares algorithm names.

`Seat.rates` carries the slice rates, so a preset is a split scheme and how the rate is used. Sources: MSfusion
(arXiv 2407.03622), HeteroFL (ICLR 2021), FedRolex (NeurIPS 2022), Federated Dropout; PAPERS.md says what is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.core import schemes
from p2pfusion.core.task import Prepared
from p2pfusion.errors import UsageError


@dataclass(frozen=True, slots=True)
class Preset:
    """One row: the scheme, and a line for people."""

    scheme: Callable[[], schemes.Scheme]
    text: str


PRESETS: Mapping[str, Preset] = {
    "msfusion": Preset(schemes.double_shift, "double-shifting slices (MSfusion)"),
    "heterofl": Preset(schemes.static, "always the first channels (HeteroFL)"),
    "fedrolex": Preset(schemes.rolling, "one window for all that rolls (FedRolex)"),
    "random_dropout": Preset(schemes.random_dropout, "fresh random channels (Federated Dropout)"),
    "full": Preset(schemes.full, "everybody trains the whole model (FedAvg without a server)"),
}


def algorithm(name: str, prepared: Prepared, *, seed: int = 0) -> Sliced:
    """The algorithm of that name for a prepared task. Raises `UsageError` naming the known ones."""
    if name not in PRESETS:
        raise UsageError(f"unknown algorithm {name!r}: choose one of {', '.join(PRESETS)}")
    return Sliced(prepared, PRESETS[name].scheme(), seed=seed)

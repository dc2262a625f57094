"""The rows: Co-S2P as its preset has it, what differs from it in one thing, and what it is compared with.

All train the same network with exits, and all train every exit they hold, so that every exit can be compared; only
Co-S2P lets the deepest teach. Baselines are synchronous, as in their papers, and slice the axes inside the network:
with exits its stream is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bench.co_s2p.cells import AS_LONG
from p2pfusion.algorithms.presets import PRESETS, SEMI_ASYNCHRONOUS, Preset, Terms, live
from p2pfusion.algorithms.sliced import Way
from p2pfusion.config import CadenceConfig
from p2pfusion.core import schemes
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.depth import at_exits, shallow
from p2pfusion.core.drift import Drift
from p2pfusion.core.schemes import Scheme
from p2pfusion.core.transfer import Transfer

SMALL = 0.25
"""What the smallest device can train."""
SYNCHRONOUS = CadenceConfig(quorum=1.0, patience_s=100_000.0, adapt_steps=False, round_min_s=0.0, ahead_rounds=0)
SEMI = replace(SEMI_ASYNCHRONOUS, round_min_s=0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """A preset, when its rounds are ready, and the rate of everybody where it is not the devices' own."""

    preset: Preset
    cadence: CadenceConfig = SYNCHRONOUS
    rate: float | None = None


def _drawn(blueprint: Blueprint, terms: Terms) -> Way:
    """Depth as ever, widths drawn once for all rounds without looking at any data."""
    drawn = schemes.random_dropout()
    kept: dict[float, object] = {}

    def once(model: Blueprint, seat: schemes.Seat, rng: schemes.random.Random) -> schemes.SubModel:
        rate = seat.rates[seat.rank]
        return kept.setdefault(rate, drawn(model, seat, rng))  # type: ignore[return-value]

    return Way(scheme=shallow(once), objective=Transfer(), widths=at_exits(blueprint), weighing=Drift())


def _cut(scheme: Callable[[], Scheme]) -> Preset:
    def way(blueprint: Blueprint, terms: Terms) -> Way:
        return Way(scheme=scheme(), objective=Transfer(gamma=0.0), widths=at_exits(blueprint))

    return Preset(text="", way=way)


ROWS: Mapping[str, Row] = {
    "Co-S2P": Row(PRESETS["co_s2p"], SEMI),
    AS_LONG: Row(PRESETS["co_s2p"], SEMI),
    "synchronous": Row(PRESETS["co_s2p"]),
    "without transfer": Row(live("co_s2p:transfer=off"), SEMI),
    "random masks": Row(Preset(text="", way=_drawn), SEMI),
    "swarm's head teaches": Row(live("co_s2p:transfer=swarm"), SEMI),
    "learned masks": Row(live("co_s2p:units=masks"), SEMI),
    "rolling freeze": Row(live("co_s2p:rolling_freeze=1"), SEMI),
    "counted evenly": Row(live("co_s2p:weights=even"), SEMI),
    "plain sum": Row(live("co_s2p:sum=plain"), SEMI),
    "MSfusion": Row(_cut(schemes.double_shift)),
    "FedRolex": Row(_cut(schemes.rolling)),
    "HeteroFL": Row(_cut(schemes.static)),
    "full, synchronous": Row(_cut(schemes.full), rate=1.0),
    "everybody small": Row(
        replace(_cut(schemes.full), model=lambda blueprint, terms: blueprint.narrow(SMALL)), rate=1.0
    ),
}

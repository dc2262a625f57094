"""The rows of the tables: presets by name, and what is compared with them but is no product's default.

Ablations of MSfusion are rows here, not presets: they differ from it in one thing each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from p2pfusion.algorithms.presets import PRESETS, Preset, members, msfusion, plain
from p2pfusion.core.schemes import Scheme, constant, double_shift


@dataclass(frozen=True, slots=True)
class Row:
    """A preset, and whether one node has everybody's data and steps."""

    preset: Preset
    is_pooled: bool = False


def _constant() -> Scheme:
    """As much overlap in every round as the schedule has on average over its 200 rounds."""
    return double_shift(constant(0.25))


def _slip() -> Scheme:
    return double_shift(phase="slip")


MSFUSION = PRESETS["msfusion"]
ROWS: Mapping[str, Row] = {
    **{name: Row(preset) for name, preset in PRESETS.items()},
    "four members": Row(members(4)),
    "centralised": Row(PRESETS["full"], is_pooled=True),
    "no contrast": Row(PRESETS["double_shift"]),
    "constant overlap": Row(replace(MSFUSION, way=msfusion(_constant))),
    "neither": Row(replace(MSFUSION, way=plain(_constant), model=None)),
    "slip": Row(replace(MSFUSION, way=msfusion(_slip))),
}

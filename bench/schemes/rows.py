"""The rows of the tables: presets by name, and what is compared with them but is no product's default.

Ablations of MSfusion are rows here, not presets: they differ from it in one thing each. So are candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

from bench.schemes.candidates import Carried, Taught, WholeForward, grown, permuted, strangers_at_zero
from bench.schemes.cells import ABLATION_ROUNDS
from p2pfusion.algorithms.presets import PRESETS, Preset, live, members, plain
from p2pfusion.algorithms.sliced import Way
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.objectives import Objective
from p2pfusion.core.schemes import Scheme, double_shift
from p2pfusion.core.submodel import Vector
from p2pfusion.core.training import Optimizer


@dataclass(frozen=True, slots=True)
class Row:
    """A preset, and whether one node has everybody's data and steps.

    `start`: of blueprint, the slices' rate and the first values, other first values. `optimizer`: of a node's
    objective, what makes its optimizers of parameters, lr and momentum, where they are not `Sgd`.
    """

    preset: Preset
    is_pooled: bool = False
    start: Callable[[Blueprint, float, Vector], Vector] | None = None
    optimizer: Callable[[Objective], Callable[..., Optimizer]] | None = None


def _slices(scheme: Callable[[], Scheme]) -> Row:
    return Row(replace(DOUBLE_SHIFT, way=plain(scheme)))


def _minimising(objective: type[Objective]) -> Row:
    return Row(replace(DOUBLE_SHIFT, way=lambda blueprint, terms: Way(scheme=double_shift(), objective=objective())))


DOUBLE_SHIFT = PRESETS["double_shift"]
ROWS: Mapping[str, Row] = {
    **{name: Row(preset) for name, preset in PRESETS.items()},
    "four members": Row(members(4)),
    "centralised": Row(PRESETS["full"], is_pooled=True),
    "no contrast": Row(DOUBLE_SHIFT),
    "constant overlap": Row(live("msfusion:overlap=constant")),
    "overlap to the end": Row(live(f"msfusion:horizon={ABLATION_ROUNDS}")),
    "neither": Row(live("double_shift:overlap=constant")),
    "slip": Row(live("msfusion:phase=slip")),
    "heterofl, dynamic": Row(live("heterofl:rates=dynamic")),
    "fedrolex, dynamic": Row(live("fedrolex:rates=dynamic")),
    "grown": _slices(grown),
    "dealt anew each round": _slices(lambda: permuted(1)),
    "dealt anew each 5 rounds": _slices(lambda: permuted(5)),
    "strangers at zero": Row(DOUBLE_SHIFT, start=strangers_at_zero),
    "taught by the head": _minimising(Taught),
    "whole forward": _minimising(WholeForward),
    "momentum carried": replace(_minimising(Carried), optimizer=attrgetter("optimizer")),
}

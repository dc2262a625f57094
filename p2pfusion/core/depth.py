"""Slices that are shallow as well as narrow: the beginning of a network with exits, cut by another scheme.

Source: Co-S2P, PAPERS.md 2.2 and 2.3: a device of rate r keeps the first floor(r * L) layers and the exits that fit,
and of each the share r of its width; it pays for its rate twice. Knows no training.
"""

from __future__ import annotations

import random

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.exits import network, within
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel


def shallow(width: Scheme) -> Scheme:
    """The beginning that a seat's rate allows, as narrow as `width` cuts it. Only for blueprints with exits."""

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        return beginning(blueprint, seat.rates[seat.rank], width(blueprint, seat, rng))

    return scheme


def beginning(blueprint: Blueprint, rate: float, cut: SubModel | None = None) -> SubModel:
    """The first layers with the exits that fit, with the widths of a cut of the whole network; None: all of them."""
    blocks = network(blueprint.exits, blueprint.blocks, within(blueprint.exits, rate))
    used = axes_of(blueprint, blocks)
    kept = () if cut is None else tuple((name, ranges) for name, ranges in cut.kept if name in used)
    return SubModel(blocks, kept)


def axes_of(blueprint: Blueprint, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the axes that parameters of these blocks have, in the blueprint's order."""
    held = frozenset(blocks)
    used = {dim.axis for parameter in blueprint.parameters if parameter.block in held for dim in parameter.dims}
    return tuple(axis.name for axis in blueprint.axes if axis.name in used)


def at_exits(blueprint: Blueprint) -> dict[str, SubModel]:
    """The networks that end at each exit, in their whole width, by `exit_name`, the shallowest first."""
    return {
        exit_name(number): SubModel(network(blueprint.exits, blueprint.blocks, (one,)))
        for number, one in enumerate(blueprint.exits, 1)
    }


def exit_name(number: int) -> str:
    """`exit 1` for the shallowest."""
    return f"exit {number}"

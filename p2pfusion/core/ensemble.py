"""Several small networks side by side, trained by turns: a model that no member's owner could train alone.

`ensemble` makes of one blueprint another whose model is `count` copies of it, each with its own start, and whose output
is the mean of theirs. A member's blocks are a network by themselves, so a device that can train one member trains that
one, exactly as if it were alone, and nothing ever depends on weights that were not trained together. `rotating` deals
the members to the seats, anew each round, so that every member sees everybody's data.

Ensembles of small networks are old; that turns are taken by round, so that all devices' data reach every member, is our
choice. Independent subnet training (Yuan et al., arXiv 1910.02120) deals disjoint parts of one layer instead. Knows no
values and no peers' names.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from p2pfusion.core.blueprint import Blueprint, ModuleSpec, Parameter
from p2pfusion.core.depth import axes_of
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel

if TYPE_CHECKING:
    from torch import nn


def ensemble(blueprint: Blueprint, count: int) -> Blueprint:
    """`count` networks like this one, whose outputs are averaged; they share the axes. Raises `ValueError` below 2.

    Of a network with exits only what its end depends on: nothing would train the other heads.
    """
    if count < 2:
        raise ValueError(f"count = {count}: an ensemble has at least 2 members")
    own = blueprint.answering(blueprint.whole()).blocks
    items = [item for item in blueprint.parameters if item.block in own]
    blocks = tuple(tuple(_block(member, block) for block in own) for member in range(count))
    parameters = tuple(_parameter(member, item) for member in range(count) for item in items)
    axes = tuple(blueprint.axis(name) for name in axes_of(blueprint, own))

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.core.averaging import Averaged

        held = frozenset(spec.blocks)
        inner = replace(spec, blocks=own)
        return Averaged({member: blueprint.factory(inner) for member in range(count) if blocks[member][0] in held})

    return Blueprint(tuple(block for member in blocks for block in member), axes, parameters, factory, members=blocks)


def rotating(member_rate: float) -> Scheme:
    """As many members as a seat has the arithmetic for, others in every round. Only for what `ensemble` makes.

    A member costs a device of rate r the share (member_rate / r)^2 of its arithmetic, for the work of a layer grows
    with inputs times outputs. Seats are shuffled by the round's number, the same for everybody, and begin at one member
    after the other: among equal devices every member has equally many trainers to within one, and over rounds each
    meets everybody. Others' rates are not asked for, since nobody declares them.
    """

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        count = len(blueprint.members)
        order, deal = list(range(seat.peers)), random.Random(f"p2pfusion members {seat.round}")
        deal.shuffle(order)
        first = deal.randrange(count) + order.index(seat.rank)
        mine = members_of(seat.rates[seat.rank], member_rate, count)
        chosen = [blueprint.members[(first + number) % count] for number in range(mine)]
        return SubModel.of(blueprint, {}, [block for member in chosen for block in member])

    return scheme


def members_of(rate: float, member_rate: float, count: int) -> int:
    """How many of `count` members a device of this rate trains in a round: at least one."""
    return max(1, min(count, int((rate / member_rate) ** 2 + 1e-9)))


def _block(member: int, block: str) -> str:
    return f"{member}.{block}"


def _parameter(member: int, parameter: Parameter) -> Parameter:
    return replace(parameter, name=f"members.{member}.{parameter.name}", block=_block(member, parameter.block))

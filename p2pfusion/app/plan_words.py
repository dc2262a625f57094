"""A forecast as a person reads it: a line each for owners, relays, batch, round and what limits them. Pure text."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfusion.app.placing import seconds
from p2pfusion.app.planned import Planned, PlannedStage
from p2pfusion.app.words import data_size, enumeration

NEARLY = 1.001
"""Times that differ by less are equal for people."""


def words_of(planned: Planned) -> list[str]:
    """One line per fact, in the order of the chain."""
    owners = "1 owner" if planned.owners == 1 else f"{planned.owners} owners"
    cut = f", each in {planned.micro_batches} pieces" if planned.micro_batches > 1 else ""
    fitting = (
        "" if planned.mode == "full" else "; as in the paper: outputs and parameters only, no links between relays"
    )
    return [
        f" model  {len(planned.blocks)} blocks, batches of {planned.batch}; {planned.origin}{fitting}",
        f" owner  {_span(planned.first)} and {_span(planned.last)}: {seconds(planned.owner_forward_s)} forward, "
        f"{seconds(planned.owner_backward_s)} back{_link(planned.owner_link_s)}; {data_size(planned.owner_bytes)}",
        *(f" relay  {_stage(stage)}" for stage in planned.stages),
        *([f" idle   {enumeration(planned.idle)}: no batch would be faster with more relays"] if planned.idle else []),
        f" batch  {seconds(planned.batch_s)} each, {_pace(planned)}; the first takes {seconds(planned.first_batch_s)}",
        f" owners {_owners(planned)}",
        f" round  {planned.batches} {'batch' if planned.batches == 1 else 'batches'} of {owners}{cut}: "
        f"{seconds(planned.round_s)}, averaging not counted",
        *([f" one    {_one(planned)}"] if len(planned.stages) + len(planned.idle) > 1 else []),
        *([f" beside {_beside(planned)}"] if len(planned.stages) + len(planned.idle) > 1 else []),
    ]


def _stage(stage: PlannedStage) -> str:
    limit = "" if stage.memory_limit_bytes is None else f" of {data_size(stage.memory_limit_bytes)}"
    return (
        f"{stage.relay}: {_span(stage.blocks)}: {seconds(stage.forward_s)} forward, {seconds(stage.backward_s)} back"
        f"{_link(stage.link_s)}; {data_size(stage.memory_bytes)}{limit}"
    )


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _link(link_s: float) -> str:
    return f", {seconds(link_s)} of link" if link_s > 0 else ""


def _pace(planned: Planned) -> str:
    """Who or what the chain waits for."""
    if planned.batch_s > planned.full_s * NEARLY:
        return f"as fast as the owners are; a full chain would take {seconds(planned.full_s)}"
    ahead = max(planned.stages, key=lambda stage: max(stage.forward_s, _counted(planned, stage)))
    back = max(planned.stages, key=lambda stage: max(stage.backward_s, _counted(planned, stage)))
    parts = [_waits(planned, ahead, ahead.forward_s, "forward"), _waits(planned, back, back.backward_s, "back")]
    text = f"as fast as {enumeration(list(dict.fromkeys(parts)))}"
    if planned.full_s > planned.full_without_limits_s * NEARLY:
        text += f"; memory is short: with more it would be {seconds(planned.full_without_limits_s)}"
    return text


def _waits(planned: Planned, stage: PlannedStage, work_s: float, way: str) -> str:
    return f"the link of {stage.relay}" if _counted(planned, stage) > work_s else f"{stage.relay} {way}"


def _counted(planned: Planned, stage: PlannedStage) -> float:
    """Its link, where links count."""
    return stage.link_s if planned.mode == "full" else 0.0


def _owners(planned: Planned) -> str:
    need, room = planned.fill_owners, planned.owners_max
    if planned.owners >= need:
        return f"{need} keep the chain full; there are {planned.owners}"
    if room >= need:
        return f"{need} would keep the chain full, and find room; there are {planned.owners}"
    return f"{need} would keep the chain full; there are {planned.owners}, and room for {room}"


def _one(planned: Planned) -> str:
    one = planned.one_hop
    fits = "" if one.fits else ", which it does not have"
    return f"hop instead, all on {one.relay}: {seconds(one.round_s)} a round, {data_size(one.memory_bytes)}{fits}"


def _beside(planned: Planned) -> str:
    """The same devices without hops."""
    beside = planned.side_by_side
    if beside is None:
        return "each other, every relay with all blocks between for some owners: no room"
    owners = ", ".join(f"{name} for {count}" for name, count in beside.owners.items())
    return f"each other, every relay with all blocks between ({owners}): {seconds(beside.round_s)} a round"

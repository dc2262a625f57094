"""`p2pfusion plan`: who would hold which blocks of a model that is trained across a chain of peers.

The blocks are measured on this computer, or a profile is read that was measured elsewhere; relays are as they were
described. Nothing touches a network. What is found is a forecast: seconds and bytes of the split that is fastest, what
limits it, and what the same round would take on one relay alone. `plan_words` has it for people.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from p2pfusion import __version__
from p2pfusion.app.output import object_text
from p2pfusion.app.plan_words import words_of
from p2pfusion.app.planned import OneHop, Planned, PlannedStage, SideBySide
from p2pfusion.app.relays import parse_device, read_devices
from p2pfusion.core.estimating import chain_of, check_owner, one_hop, owner_bytes, side_by_side, side_by_side_s
from p2pfusion.core.planning import OWNERS_MAX, Order, Plan, Relay, owners_max, plan
from p2pfusion.core.playing import round_s
from p2pfusion.core.profiles import TEXT_BYTES_MAX, Profile, from_json, to_json
from p2pfusion.errors import StoreError, TaskError, UsageError

MEASURED_S = 3.0
"""For all blocks together: nobody minds it before a run, and it is enough for some repetitions of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What `plan` was called with."""

    task: str | None
    relay: tuple[str, ...]
    relays: Path | None
    owners: int
    owner: str
    first: int
    last: int
    batches: int | None
    micro_batches: int
    everybody: bool
    paper: bool
    profile: Path | None
    save: Path | None
    seed: int
    json: bool
    quiet: bool
    verbose: bool


def run_plan(options: PlanOptions) -> int:
    """Print the forecast; returns 0. Raises `TaskError` when nothing fits or the model cannot be cut, `UsageError`."""
    if options.task is None and options.profile is None:
        raise UsageError("plan needs a TASK.py to measure, or --profile FILE")
    if options.save is not None and options.profile is not None:
        raise UsageError("--save writes what was measured; with --profile nothing is")
    if not options.json and not options.quiet:
        sys.stdout.write(f"p2pfusion {__version__}: plan {options.task or options.profile}\n")
        sys.stdout.flush()
    planned = forecast(options)
    if options.json:
        sys.stdout.write(object_text("plan", planned) + "\n")
    elif not options.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in words_of(planned)))
    return 0


def forecast(options: PlanOptions) -> Planned:
    """Measure or read, and plan. Raises `TaskError`, `UsageError`, `TrainingError`, `StoreError`."""
    relays, owner = _named(options), _device("--owner", options.owner)
    profile, steps = _profile(options)
    order = Order(
        profile=profile,
        relays=relays,
        owners=options.owners,
        first=options.first,
        last=options.last,
        mode="paper" if options.paper else "full",
        everybody=options.everybody,
    )
    check_owner(order, owner)
    return planned_of(order, plan(order), owner, options.batches or steps, options.micro_batches)


def planned_of(order: Order, found: Plan, owner: Relay, batches: int, micro_batches: int = 1) -> Planned:
    """The forecast of a split, with `batches` of every owner in a round, each cut into so many pieces."""
    times = chain_of(order, found.stages, owner)
    own, names = times.owners[0], order.profile.names
    free = replace(order, relays=tuple(replace(relay, memory_bytes=None) for relay in order.relays))
    used = [stage.relay for stage in found.stages]
    return Planned(
        origin=order.profile.origin,
        batch=order.profile.batch,
        blocks=list(names),
        mode=order.mode,
        owners=order.owners,
        batches=batches,
        first=list(names[: order.first]),
        last=list(names[len(names) - order.last :]),
        owner_forward_s=own.first_forward_s + own.last_forward_s,
        owner_backward_s=own.first_backward_s + own.last_backward_s,
        owner_link_s=2 * (own.to_chain_s + own.from_chain_s),
        owner_bytes=owner_bytes(order),
        stages=[
            PlannedStage(
                relay=order.relays[stage.relay].name,
                blocks=list(names[stage.start : stage.stop]),
                forward_s=one.forward_s,
                backward_s=one.backward_s,
                link_s=max(one.in_s, one.out_s),
                memory_bytes=order.memory_bytes(stage.start, stage.stop),
                memory_limit_bytes=order.relays[stage.relay].memory_bytes,
            )
            for stage, one in zip(found.stages, times.relays, strict=True)
        ],
        idle=[relay.name for number, relay in enumerate(order.relays) if number not in used],
        full_s=times.full_s,
        full_without_limits_s=plan(free).full_s,
        batch_s=times.batch_s,
        first_batch_s=times.loop_s,
        fill_owners=times.fill_owners,
        round_s=round_s(times, batches, micro_batches),
        micro_batches=micro_batches,
        owners_max=owners_max(replace(order, owners=min(OWNERS_MAX, max(order.owners, times.fill_owners)))),
        one_hop=_one_hop(order, owner, batches),
        side_by_side=_side_by_side(order, owner, batches),
    )


def _one_hop(order: Order, owner: Relay, batches: int) -> OneHop:
    stage = one_hop(order)
    relay, times = order.relays[stage.relay], chain_of(order, [stage], owner)
    need = order.memory_bytes(stage.start, stage.stop)
    fits = relay.memory_bytes is None or need <= relay.memory_bytes
    whole_s = round_s(times, batches)
    return OneHop(relay=relay.name, memory_bytes=need, fits=fits, batch_s=times.batch_s, round_s=whole_s)


def _side_by_side(order: Order, owner: Relay, batches: int) -> SideBySide | None:
    counts = side_by_side(order)
    if counts is None:
        return None
    by_name = {relay.name: count for relay, count in zip(order.relays, counts, strict=True) if count}
    return SideBySide(owners=by_name, round_s=side_by_side_s(order, counts, owner, batches))


def _named(options: PlanOptions) -> tuple[Relay, ...]:
    """All relays that were given, each with a name of its own."""
    listed = [_device("--relay", text) for text in options.relay]
    given = [*listed, *(read_devices(options.relays) if options.relays is not None else ())]
    if not given:
        raise UsageError("plan needs relays: give --relay 2x,4GB,100Mbit/s once for each, or --relays FILE.toml")
    named = [replace(relay, name=relay.name or f"relay{number}") for number, relay in enumerate(given, 1)]
    twice = [relay.name for place, relay in enumerate(named) if relay.name in [other.name for other in named[:place]]]
    if twice:
        raise TaskError(f"plan: two relays are named {twice[0]!r}; give each a name of its own")
    return tuple(named)


def _device(option: str, text: str) -> Relay:
    try:
        return parse_device(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


# -- the profile ------------------------------------------------------------------------------------------------------


def _profile(options: PlanOptions) -> tuple[Profile, int]:
    """The profile, and how many batches a round has."""
    if options.task is None:
        assert options.profile is not None
        return read_profile(options.profile), 1
    # Here, since a plan from a profile alone needs no torch.
    from p2pfusion.app.tasks import find_task
    from p2pfusion.core.task import prepare

    prepared = prepare(find_task(options.task, options.seed), options.seed)
    if options.profile is not None:
        profile = read_profile(options.profile)
        _check_blocks(profile.names, prepared.blueprint.blocks)
        return profile, prepared.steps_per_round
    from p2pfusion.core.measuring import measure
    from p2pfusion.core.stages import check_chain

    batch = next(prepared.train.once())
    check_chain(prepared.blueprint, prepared.genesis, batch[0])
    began = perf_counter()
    profile = measure(
        prepared.blueprint,
        prepared.genesis,
        batch,
        prepared.recipe,
        seconds=MEASURED_S,
        clock=perf_counter,
        origin=f"measured on one thread of {platform.machine() or 'a computer'}",
    )
    profile = replace(profile, origin=f"{profile.origin}, in {perf_counter() - began:.1f} s")
    if options.save is not None:
        _write(options.save, to_json(profile))
    return profile, prepared.steps_per_round


def read_profile(file: Path) -> Profile:
    """A profile from a file. Raises `TaskError` with the field that is wrong."""
    try:
        with file.open("rb") as stream:
            text = stream.read(TEXT_BYTES_MAX + 1).decode()
    except (OSError, ValueError) as error:
        raise TaskError(f"{file}: cannot be read: {error}") from error
    try:
        return from_json(text)
    except TaskError as error:
        raise TaskError(f"{file}: {error}") from error


def _check_blocks(profiled: Sequence[str], have: Sequence[str]) -> None:
    if tuple(profiled) != tuple(have):
        raise TaskError(
            f"profile: it is of {len(profiled)} blocks {profiled[0]} to {profiled[-1]}, the model has {len(have)}, "
            f"{have[0]} to {have[-1]}; measure this model, with --save to keep the profile"
        )


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error}") from error

"""`p2pfusion join --algorithm mp_sl`: from options to a device of a chain, and what a person is told of it.

The network is trained in pieces: an owner of data holds its ends, relays what is between. How, `hops` knows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from p2pfusion.app.join_options import JoinOptions, numeric_address, part_of
from p2pfusion.app.session import Following, Session, follow
from p2pfusion.app.states import chosen, forget, resumption
from p2pfusion.app.tasks import find_task
from p2pfusion.app.values import Until
from p2pfusion.app.words import data_size
from p2pfusion.config import CadenceConfig
from p2pfusion.errors import UsageError
from p2pfusion.net.chained import Piecewise, chained_device, piecewise

if TYPE_CHECKING:
    from p2pfusion.app.live import View
    from p2pfusion.app.output import DoneLine
    from p2pfusion.hops.device import Device

_HINT = (
    "nobody else found yet: a chain needs an owner of data and a relay; start `p2pfusion join --algorithm mp_sl --role"
    " relay` on another computer of this network, or give its address here with --peer HOST:PORT"
)


def chained(options: JoinOptions, view: View) -> Piecewise:
    """Measure the task's blocks and deal them to shards. Raises `TaskError`, `UsageError`."""
    unknown = {
        "--device": options.device not in ("auto", "cpu"),
        "--metrics": options.metrics is not None,
        "--outer-momentum": options.momentum > 0,
    }
    for option, is_given in unknown.items():
        if is_given:
            raise UsageError(f"{option} is not there for a model in pieces; leave it out")
    if options.until is not None and options.until.accuracy is not None:
        raise UsageError("--until accuracy: a chain ends by rounds; give --until rounds=N")
    pieces = piecewise(find_task(options.task, options.seed), options.seed, part_of(options), options.role)
    split = pieces.split
    count = split.shards.count - 1
    view.note(
        f"{len(split.blueprint.blocks)} blocks: an owner holds {', '.join(split.shards.blocks(0))}, relays the others"
        f" in {count} {'shard' if count == 1 else 'shards'}; for each owner those take"
        f" {data_size(split.memory_bytes(1, count, 1))}"
    )
    return pieces


async def join_chain(options: JoinOptions, pieces: Piecewise, view: View) -> DoneLine | None:
    """Join, train or relay, leave. Raises `P2PFusionError`."""
    with chosen(options.swarm, options.name, options.state) as (name, folder):
        if options.fresh:
            forget(folder)
        goal = options.until or Until()
        view.note(f"you are {name}, {_ROLES[options.role]}; state is kept in {folder}; Ctrl-C leaves")
        session = Session(name, pieces.split.blueprint, view, _HINT)

        @asynccontextmanager
        async def device() -> AsyncIterator[Following]:
            async with chained_device(
                pieces,
                swarm=options.swarm,
                name=name,
                role=options.role,
                memory_bytes=options.memory,
                listen=numeric_address(options.listen, "--listen"),
                state=folder,
                seed=options.seed,
                hop_codec=options.hop_codec,
                micro_batches=options.micro_batches,
                keeps_all=options.keeps_all,
                codec=options.codec,
                codec_density=options.density,
                budget_bytes_per_h=options.budget,
                min_peers=options.min_peers,
                wait_s=options.wait,
                until_rounds=goal.rounds,
                timeout_s=options.timeout,
                peers=tuple(numeric_address(address, "--peer") for address in options.peers),
                gossip=options.gossip,
                cadence=CadenceConfig(adapt_steps=False),
                limit_bytes_per_s=options.limit_rate,
            ) as joined:
                if (words := await _resumed(joined, goal)) is not None:
                    view.note(words)
                yield joined

        return await follow(device(), session, leave_on_eof=options.leave_on_eof)


async def _resumed(device: Device, goal: Until) -> str | None:
    """What an owner goes on from, once it knows; relays go on from what their owners do."""
    ends = device.holding.nodes.get(0)
    if ends is None:
        return None
    from p2pfusion.hops.device import LIFE, LOOK_S

    while ends.error is None and not any(one.shard == 0 for one in device.holding.held()):
        await device.site.bell(LIFE).wait(LOOK_S)
    return resumption(ends.resumed_round, ends.state.run_id, {}, goal)


_ROLES = {"owner": "an owner of data", "relay": "a relay", "both": "an owner of data and a relay"}

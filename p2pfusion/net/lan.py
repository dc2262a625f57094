"""`lan_node`: a node on this computer's LAN, wired to real doors. The one-call way to embed p2pfusion.

It only chooses and connects: HTTP, mDNS, executor threads, a state folder. What the node does is `node`'s affair.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfusion.config import ALGORITHM_DEFAULT, COMMON_RATE_DEFAULT, NodeConfig, RunConfig
from p2pfusion.errors import UsageError
from p2pfusion.net.addresses import listening
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
from p2pfusion.net.settling import Rate, Settled, settle
from p2pfusion.node import Node
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.memory import MemoryStore

if TYPE_CHECKING:
    from p2pfusion.core.task import Prepared, Task
    from p2pfusion.seams import Store


@asynccontextmanager
async def lan_node(  # noqa: PLR0913 - the embedding facade: every argument has a default, and all are by name
    task: Task | Prepared,
    *,
    swarm: str = "p2pfusion",
    name: str = "node",
    slice: Rate = 0.5,
    algorithm: str = ALGORITHM_DEFAULT,
    common: float = COMMON_RATE_DEFAULT,
    outer_momentum: float = 0.0,
    part: tuple[int, int] | None = None,
    listen: str = "0.0.0.0:0",
    state: Path | str | None = None,
    seed: int = 0,
    device: str | Settled = "auto",
    **config: Any,
) -> AsyncIterator[Node]:
    """Join the swarm of that name on this LAN, or start it; leaving the block leaves the swarm.

    Args:
        task: what to train; everybody needs the same model and `seed`.
        slice: share of each sliced axis this node trains, in (0, 1]; "auto": as much as this device trains in a few
            seconds a round and has memory for, measured for half a second (`net.choosing`).
        algorithm: how slices are chosen, a name of `algorithms.presets`.
        common: the width that every device of the run can train, in (0, 1]; where the algorithm builds small networks
            it must be the same for everybody.
        outer_momentum: how much of the model's last movement every round repeats, at least 0 and below 1.
        part: (i, n): train on part i (from 0) of n of the task's data; None: on all of it.
        listen: `ip:port`; port 0 picks a free one. A loopback address keeps discovery on loopback too.
        state: folder for checkpoints; None keeps everything in memory.
        device: "cpu", "cuda" or "mps"; "auto": whichever trains this task faster. What `settle` found settles both,
            device and slice.
        config: fields of `NodeConfig`, such as `min_peers`, `until_rounds` or `peers`; without `cadence` it is what
            the algorithm's row recommends.

    Raises:
        TaskError, UsageError, PortError, StoreError: before anything was sent.
    """
    from p2pfusion.algorithms.presets import Terms, cadence_of, check_live
    from p2pfusion.algorithms.presets import algorithm as algorithm_of
    from p2pfusion.core.task import Task, prepare

    check_live(algorithm)
    terms = Terms(common_rate=common, outer_momentum=outer_momentum)
    if slice != "auto" and (isinstance(slice, str) or not 0 < slice <= 1):
        raise UsageError(f"slice = {slice!r}: must be above 0 and at most 1, or 'auto'")
    host, _ = listening(listen)
    prepared = prepare(task, seed, part) if isinstance(task, Task) else task
    settled = (
        device
        if isinstance(device, Settled)
        else await settle(prepared, algorithm, device=device, rate=slice, terms=terms)
    )
    prepared = replace(prepared, place=settled.place)
    with _store(state) as store:
        recommended = {"cadence": cadence_of(algorithm)}
        settings = NodeConfig(run=RunConfig(swarm=swarm, seed=seed), name=name, **{**recommended, **config})
        node = Node(
            settings,
            algorithm_of(algorithm, prepared, seed=secrets.randbits(32), terms=terms),
            transport=HttpTransport(listen, limit_bytes_per_s=settings.limit_bytes_per_s),
            discovery=MdnsDiscovery([str(host)] if host.is_loopback else None),
            compute=ThreadCompute(),
            store=store,
            rng=random.Random(secrets.randbits(128)),
            rate=settled.rate,
        )
        async with node:
            yield node


def _store(folder: Path | str | None) -> AbstractContextManager[Store]:
    if folder is None:
        return nullcontext(MemoryStore())
    return FolderStore(Path(folder))

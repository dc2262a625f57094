"""`lan_node`: a node on this computer's LAN, wired to real doors. The one-call way to embed p2pfusion.

It only chooses and connects: HTTP, mDNS, executor threads, a state folder. What the node does is `node`'s affair.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfusion.config import NodeConfig, RunConfig
from p2pfusion.errors import UsageError
from p2pfusion.net.addresses import listening
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
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
    slice: float = 0.5,
    algorithm: str = "msfusion",
    part: tuple[int, int] | None = None,
    listen: str = "0.0.0.0:0",
    state: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    **config: Any,
) -> AsyncIterator[Node]:
    """Join the swarm of that name on this LAN, or start it; leaving the block leaves the swarm.

    Args:
        task: what to train; everybody needs the same model and `seed`.
        slice: share of each sliced axis this node trains, in (0, 1].
        part: (i, n): train on part i (from 0) of n of the task's data; None: on all of it.
        listen: `ip:port`; port 0 picks a free one. A loopback address keeps discovery on loopback too.
        state: folder for checkpoints; None keeps everything in memory.
        config: fields of `NodeConfig`, such as `min_peers`, `until_rounds` or `peers`.

    Raises:
        TaskError, UsageError, PortError, StoreError: before anything was sent.
    """
    from p2pfusion.algorithms.presets import algorithm as algorithm_of
    from p2pfusion.core.task import Task, prepare

    if not 0 < slice <= 1:
        raise UsageError(f"slice = {slice}: must be above 0 and at most 1")
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r}: this version trains on the CPU; use --device cpu")
    host, _ = listening(listen)
    prepared = prepare(task, seed, part) if isinstance(task, Task) else task
    with _store(state) as store:
        settings = NodeConfig(run=RunConfig(swarm=swarm, seed=seed), name=name, **config)
        node = Node(
            settings,
            algorithm_of(algorithm, prepared, seed=secrets.randbits(32)),
            transport=HttpTransport(listen, limit_bytes_per_s=settings.limit_bytes_per_s),
            discovery=MdnsDiscovery([str(host)] if host.is_loopback else None),
            compute=ThreadCompute(),
            store=store,
            rng=random.Random(secrets.randbits(128)),
            rate=slice,
        )
        async with node:
            yield node


def _store(folder: Path | str | None) -> AbstractContextManager[Store]:
    if folder is None:
        return nullcontext(MemoryStore())
    return FolderStore(Path(folder))

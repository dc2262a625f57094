"""`chained_device`: a device of a chain on this computer's LAN, wired to real doors. The one-call way to embed MP-SL.

It only chooses, measures and connects; what the device does is `hops`' affair.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from p2pfusion.config import MICRO_BATCHES_MAX, NodeConfig, RunConfig
from p2pfusion.errors import UsageError
from p2pfusion.hops.device import Device, Owning
from p2pfusion.hops.site import DeviceConfig, DeviceDoors
from p2pfusion.hops.split import Split
from p2pfusion.net.addresses import listening
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.mdns import MdnsDiscovery
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.memory import MemoryStore
from p2pfusion.store.shards import shard_folder

if TYPE_CHECKING:
    from p2pfusion.core.data import Data
    from p2pfusion.core.task import Prepared, Task
    from p2pfusion.core.training import Recipe
    from p2pfusion.seams import Store

ChainRole = Literal["owner", "relay", "both"]
MEASURED_S = 1.0
"""For all blocks together, before a device says how fast it is."""
RELAYING_SHARE = 0.5
"""Of the memory that is free when it starts, what a relay gives unless somebody says how much."""

FREE_BYTES_DEFAULT = 1 << 30
"""Where a system does not say what is free."""


@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """A task for a model in pieces: what all devices know alike, and what this one brings."""

    split: Split
    train: Data
    validation: Data | None
    steps: int

    @property
    def batch_us(self) -> int:
        """What all middle blocks take here for one batch, microseconds."""
        last = self.split.shards.count - 1
        return max(1, round(1e6 * (self.split.forward_s(1, last) + self.split.backward_s(1, last))))


def piecewise(task: Task, seed: int, part: tuple[int, int] | None = None, role: ChainRole = "relay") -> Piecewise:
    """Find what every block takes, one at a time in memory, and deal them to shards. Raises `TaskError`.

    An owner has no use for its own speed with what others hold: it counts instead of measuring.
    """
    from p2pfusion.core.counting import count
    from p2pfusion.core.genesis import drawn
    from p2pfusion.core.measuring import measure
    from p2pfusion.core.shards import deal
    from p2pfusion.core.stages import ties
    from p2pfusion.core.task import sketch

    prepared, batch = sketch(task, seed, part)
    blueprint = prepared.blueprint
    by_name = {parameter.name: parameter for parameter in blueprint.parameters}
    if role == "owner":
        profile = count(blueprint, batch, prepared.recipe, perf_counter)
    else:
        profile = measure(
            blueprint,
            lambda name: drawn(blueprint, by_name[name], seed),
            batch,
            prepared.recipe,
            seconds=MEASURED_S,
            clock=perf_counter,
            origin="measured here",
        )
    shards = deal(blueprint, ties=ties(blueprint))
    split = Split(blueprint=blueprint, shards=shards, profile=profile, recipe=_recipes(prepared), seed=seed)
    return Piecewise(split=split, train=prepared.train, validation=prepared.validation, steps=prepared.steps_per_round)


def _recipes(prepared: Prepared) -> Callable[[int], Recipe]:
    def recipe(round_: int) -> Recipe:
        return replace(prepared.recipe, lr_factor=prepared.lr_factor(round_), round=round_)

    return recipe


@asynccontextmanager
async def chained_device(  # noqa: PLR0913 - the embedding facade: every argument has a default, and all are by name
    task: Task | Piecewise,
    *,
    swarm: str = "p2pfusion",
    name: str = "device",
    role: ChainRole = "owner",
    memory_bytes: int | None = None,
    part: tuple[int, int] | None = None,
    listen: str = "0.0.0.0:0",
    state: Path | str | None = None,
    seed: int = 0,
    hop_codec: str = "bf16",
    micro_batches: int = 1,
    keeps_all: bool = False,
    **config: Any,
) -> AsyncIterator[Device]:
    """Join the chain of that swarm on this LAN, or start it; leaving the block leaves it.

    Args:
        task: what to train; everybody needs the same model and `seed`. A relay reads one batch of its data, for sizes.
        role: an owner trains on its own data and holds the first and the last block; a relay holds what is between.
        memory_bytes: what a relay gives to that at most; None: half of what is free.
        part: (i, n): an owner's part i (from 0) of n of the task's data; None: all of it.
        listen, state, config: as `net.lan.lan_node`'s.
        hop_codec: of activations and gradients, a name of `wire.tensors.CODECS`.
        micro_batches: into how many an owner cuts each batch, 1 to 16: more fill a chain where owners are few.
        keeps_all: hold every shard's ledger too, so that the whole model is in `state` in the end.

    Raises:
        TaskError, UsageError, PortError, StoreError: before anything was sent.
    """
    from p2pfusion.core.place import CPU
    from p2pfusion.core.task import Task
    from p2pfusion.net.device import free_bytes, give_back_large_blocks

    if role not in ("owner", "relay", "both"):
        raise UsageError(f"role = {role!r}: must be owner, relay or both")
    if not 1 <= micro_batches <= MICRO_BATCHES_MAX:
        raise UsageError(f"micro_batches = {micro_batches}: must be 1 to {MICRO_BATCHES_MAX}")
    host, _ = listening(listen)
    give_back_large_blocks()
    pieces = piecewise(task, seed, part, role) if isinstance(task, Task) else task
    given = memory_bytes or int(RELAYING_SHARE * (free_bytes(CPU) or FREE_BYTES_DEFAULT))
    settings = NodeConfig(run=RunConfig(swarm=swarm, seed=seed), name=name, **config)
    with ExitStack() as stores:
        device = Device(
            DeviceConfig(
                node=settings,
                memory_bytes=0 if role == "owner" else given,
                batch_us=pieces.batch_us,
                codec=hop_codec,
                resumed=_saved(state, pieces.split.shards.count),
                micro_batches=micro_batches,
                keeps_all=keeps_all,
            ),
            replace(pieces.split, swarm=swarm),
            DeviceDoors(
                transport=HttpTransport(listen, limit_bytes_per_s=settings.limit_bytes_per_s),
                discovery=MdnsDiscovery([str(host)] if host.is_loopback else None),
                compute=ThreadCompute(),
                store=_stores(state, pieces.split.shards.count, stores),
                rng=random.Random(secrets.randbits(128)),
            ),
            None if role == "relay" else _owning(pieces, settings),
        )
        async with device:
            yield device


def _owning(pieces: Piecewise, settings: NodeConfig) -> Owning:
    return Owning(
        batches=pieces.train.batches(random.Random(secrets.randbits(32))),
        steps=pieces.steps,
        validation=pieces.validation,
        rounds=settings.until_rounds,
        evaluate_every=settings.evaluate_every_rounds,
    )


def _saved(folder: Path | str | None, count: int) -> tuple[int, ...]:
    """Middle shards that the state folder has."""
    if folder is None:
        return ()
    return tuple(shard for shard in range(1, count) if shard_folder(Path(folder), shard, count).is_dir())


def _stores(folder: Path | str | None, count: int, opened: ExitStack) -> Callable[[int], Store]:
    """Shard -> where it is kept, in a folder of its own; the folder around them is this device's alone."""
    if folder is None:
        return lambda shard: MemoryStore()
    found: dict[int, Store] = {}
    opened.enter_context(FolderStore(folder))

    def store(shard: int) -> Store:
        if shard not in found:  # a shard may be let go and taken again
            found[shard] = opened.enter_context(FolderStore(shard_folder(Path(folder), shard, count)))
        return found[shard]

    return store

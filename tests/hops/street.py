"""A few devices of a chain over the simulated network, in virtual time: real training of a small network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import torch

from p2pfusion.algorithms.base import RoundReport
from p2pfusion.config import CadenceConfig, NodeConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import as_data
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.core.shards import deal
from p2pfusion.core.submodel import SubModel, Vector, layout
from p2pfusion.core.training import Recipe, Sgd
from p2pfusion.hops.device import Device, Owning
from p2pfusion.hops.site import DeviceConfig, DeviceDoors
from p2pfusion.hops.split import Split
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.memory import MemoryStore
from p2pfusion.zoo.blueprints import mlp
from tests.node.parts import until as moment

LAN = LinkModel(latency_s=0.002, jitter_s=0.001)
BLOCK_S = 0.01
"""Virtual seconds of a block forward; twice that backward."""


def split_of(
    network: Blueprint | None = None, *, hidden: tuple[int, ...] = (16, 16, 16, 16), lr: float = 0.1,
    shards_max: int = 8,
) -> Split:  # fmt: skip
    network = network or mlp(8, hidden, 4)
    costs = tuple(
        BlockCost(name=name, forward_s=BLOCK_S, backward_s=1.5 * BLOCK_S, optimiser_s=0.5 * BLOCK_S,
                  output_bytes=4 * 16 * 8, kept_bytes=4 * 16 * 8, parameter_bytes=1000, gradient_bytes=1000,
                  optimiser_bytes=1000)
        for name in network.blocks
    )  # fmt: skip

    def recipe(round_: int) -> Recipe:
        return Recipe(
            loss=cross_entropy, optimizer=lambda tensors: Sgd(tensors, lr=lr, momentum=0.9), steps=1, round=round_
        )

    profile = Profile(batch=8, origin="typed in", blocks=costs)
    return Split(blueprint=network, shards=deal(network, shards_max=shards_max), profile=profile, recipe=recipe)


def samples(number: int, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(number)
    x = rng.standard_normal((count, 8)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(x[:, :4].argmax(1))


@dataclass
class Street:
    """Owners on hosts 1 to n, relays behind them; every device finds the others by discovery."""

    split: Split
    seed: int = 1
    link: LinkModel = LAN
    source: Callable[[int], tuple[torch.Tensor, torch.Tensor]] = samples
    """An owner's data by its number."""
    devices: dict[int, Device] = field(default_factory=dict)
    reports: dict[int, list[RoundReport]] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    leaving: dict[int, asyncio.Event] = field(default_factory=dict)
    discoveries: dict[int, SimDiscovery] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    stores: dict[int, dict[int, MemoryStore]] = field(default_factory=dict)
    """By host and shard: what a device that starts again finds."""

    async def __aenter__(self) -> Self:
        self.network = Network(random.Random(self.seed), self.link)
        self.registry = Registry()
        await self.network.__aenter__()
        self.group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.tasks.values():
            task.cancel()
        await self.group.__aexit__(kind, error, trace)
        await self.network.__aexit__(kind, error, trace)

    def start(
        self, host: int, *, rounds: int | None = None, steps: int = 4, relay_bytes: int = 0, speed: float = 1.0,
        owns: bool = True, data: int | None = None, patience_s: float | None = None, timeout_s: float | None = None,
        until_rounds: int | None = None, lanes: int | None = None, micro_batches: int = 1, keeps_all: bool = False,
    ) -> Device:  # fmt: skip
        starts = self.starts[host] = self.starts.get(host, 0) + 1  # who starts again is another device
        rng = random.Random(f"{self.seed} {host}" + f" {starts}" * (starts > 1))
        found = self.discoveries[host] = SimDiscovery(self.registry)
        stores = self.stores.setdefault(host, {})
        doors = DeviceDoors(
            transport=SimTransport(self.network, host),
            discovery=found,
            compute=SimCompute(speed=speed),
            store=lambda shard: stores.setdefault(shard, MemoryStore()),
            rng=rng,
        )
        cadence = CadenceConfig(round_min_s=0.0, patience_s=patience_s)
        node = NodeConfig(
            name=f"device-{host}", cadence=cadence, codec="fp32", timeout_s=timeout_s, until_rounds=until_rounds
        )
        config = DeviceConfig(
            node=node, memory_bytes=relay_bytes, batch_us=round(1e6 * self.middle_s / speed),
            lanes=lanes, micro_batches=micro_batches, keeps_all=keeps_all,
            resumed=tuple(shard for shard in sorted(stores) if shard) if relay_bytes else (),
        )  # fmt: skip
        owning = None
        if owns:
            batches = as_data(self.source(data or host), 8, "train").batches(random.Random(host))
            validation = as_data(self.source(99), 64, "validation")
            owning = Owning(batches=batches, steps=steps, rounds=rounds, validation=validation)
        device = self.devices[host] = Device(config, self.split, doors, owning)
        self.network.host(host)
        self.network.revive(host)
        self.tasks[host] = self.group.create_task(self._live(host, device))
        return device

    @property
    def middle_s(self) -> float:
        last = self.split.shards.count - 1
        return self.split.forward_s(1, last) + self.split.backward_s(1, last)

    async def _live(self, host: int, device: Device) -> None:
        leaving = self.leaving[host] = asyncio.Event()
        async with device:
            if device.owner is None:
                await leaving.wait()
                return
            reports = self.reports[host] = []
            async for report in device.rounds():
                reports.append(report)  # noqa: PERF401 - read while it grows

    def crash(self, host: int) -> None:
        """The plug is pulled."""
        self.network.crash(host)
        self.discoveries[host].crash()
        self.tasks[host].cancel()

    async def leave(self, host: int) -> None:
        """A relay goes, and says so."""
        self.leaving[host].set()
        await self.tasks[host]

    def tips(self) -> dict[int, int]:
        """The newest sealed round of every shard that anybody holds."""
        found: dict[int, int] = {}
        for host, device in self.devices.items():
            if not self.tasks[host].done() or device.owner is not None:
                for shard, node in device.holding.nodes.items():
                    found[shard] = max(found.get(shard, 0), node.state.ledger.tip.round)
        return found

    def model(self) -> Vector:
        """The sealed model of the whole network, put together from whoever holds each shard and is furthest."""
        whole = np.zeros(self.split.blueprint.size, np.float32)
        for shard in range(self.split.shards.count):
            nodes = [one.holding.nodes[shard] for one in self.devices.values() if shard in one.holding.nodes]
            best = max(nodes, key=lambda node: node.state.ledger.tip.round)
            sub_model = SubModel(self.split.shards.blocks(shard))
            for name, (span, _) in layout(self.split.blueprint, sub_model).items():
                whole[self.split.blueprint.parameter_slices[name]] = best.model()[span]
        return whole

    async def until(self, done: Callable[[], bool], limit_s: float = 300.0) -> None:
        async with asyncio.timeout(limit_s):
            while not done():
                await moment(asyncio.get_running_loop().time() + 0.05)

    async def owners_done(self, limit_s: float = 300.0) -> None:
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(self.tasks[h] for h, d in self.devices.items() if d.config.memory_bytes == 0))

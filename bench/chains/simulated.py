"""Chains of many owners in virtual time: `python -m bench.chains.simulated`. Forecast of a round, and what it took.

The same devices, gossip and ledgers as everywhere, the toy's costs, links without delay; training is real but small.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from bench.chains.run import RESULTS, forecast_s, toy_split
from bench.chains.stuff import STUFF
from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.core.data import as_data
from p2pfusion.hops.device import Device, Owning
from p2pfusion.hops.site import DeviceConfig, DeviceDoors
from p2pfusion.hops.split import Split
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.memory import MemoryStore

LINK = LinkModel(latency_s=0.0001, jitter_s=0.0)
ROUNDS = 2
"""The first takes the time that syncing takes; the second is measured."""


async def _swarm(split: Split, owners: int, relays: int, steps: int) -> list[float]:
    """Seconds of every owner's last round, from its first batch to its last."""
    network, registry, devices = Network(random.Random(1), LINK), Registry(), []
    cadence = CadenceConfig(adapt_steps=False, quorum=1.0, patience_s=1e5, round_min_s=0.0, ahead_rounds=0)
    data = as_data(STUFF["toy"]().train, 8, "train")
    async with network, asyncio.TaskGroup() as group:
        for host in range(1, owners + relays + 1):
            is_owner = host <= owners
            node = NodeConfig(name=f"device-{host}", min_peers=owners, until_rounds=ROUNDS, cadence=cadence,
                              gossip=GossipConfig(quiet_s=1.0), codec="fp32")  # fmt: skip
            doors = DeviceDoors(
                transport=SimTransport(network, host), discovery=SimDiscovery(registry), compute=SimCompute(),
                store=lambda shard: MemoryStore(), rng=random.Random(host),
            )  # fmt: skip
            owning = Owning(batches=data.batches(random.Random(host)), steps=steps, rounds=ROUNDS) if is_owner else None
            config = DeviceConfig(node=node, memory_bytes=0 if is_owner else 1 << 40)
            devices.append(Device(config, split, doors, owning))
            group.create_task(_live(devices[-1]))
    return [device.owner.figures.measured_s * steps for device in devices if device.owner is not None]


async def _live(device: Device) -> None:
    async with device:
        async for _ in device.rounds():
            pass


def measured(split: Split, owners: int, relays: int, steps: int) -> dict[str, Any]:
    """One line of results."""
    took_s = max(run(lambda: _swarm(split, owners, relays, steps), until_s=1e6))
    said_s = forecast_s(split, owners, relays, steps)
    return {"bench": "simulated", "owners": owners, "parts": relays + 2, "measured_s": round(took_s, 3),
            "forecast_s": round(said_s, 3), "error": round(said_s / took_s - 1, 4)}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """K owners and P parts."""
    torch.set_num_threads(1)
    counts = [int(word) for word in (sys.argv[1:] if arguments is None else arguments)] or [2, 4, 6, 10, 20, 30]
    split = toy_split()
    errors = []
    for relays in (1, 2, 3):
        for owners in counts:
            line = measured(split, owners, relays, 20)
            errors.append(abs(line["error"]))
            with RESULTS.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    print(f"mean absolute error {100 * fmean(errors):.2f} %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

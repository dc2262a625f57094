"""Chains in virtual time: `python -m bench.chains.simulated`: forecast and time.

With `--beside`: one long chain, one relay with everything for some of the owners each, and what is chosen. With
`--micro`: batches in one piece and in several. The same devices, gossip and ledgers as everywhere, the toy's costs,
links without delay; training is real but small.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from bench.chains.run import RESULTS, forecast_s, offers, toy_split
from bench.chains.stuff import STUFF
from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.core.data import as_data
from p2pfusion.hops.device import Device, Owning
from p2pfusion.hops.lanes import Lanes
from p2pfusion.hops.site import DeviceConfig, DeviceDoors
from p2pfusion.hops.split import Split
from p2pfusion.sim.doors import Registry, SimCompute, SimDiscovery
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import LinkModel, Network, SimTransport
from p2pfusion.store.memory import MemoryStore

LINK = LinkModel(latency_s=0.0001, jitter_s=0.0)
ROUNDS = 2
"""The first takes the time that syncing takes; the second is measured."""
STEPS = 20
EVEN, MIXED = (1.0, 1.0, 1.0), (1.0, 0.5, 0.25)
"""Speeds of three relays."""


async def _swarm(
    split: Split,
    owners: int,
    speeds: Sequence[float],
    lanes: int | None = None,
    micro_batches: int = 1,
    steps: int = STEPS,
) -> tuple[list[float], Lanes]:
    """Seconds of every owner's last round, from its first batch to its last; and which chains there were."""
    network, registry, devices = Network(random.Random(1), LINK), Registry(), []
    cadence = CadenceConfig(adapt_steps=False, quorum=1.0, patience_s=1e5, round_min_s=0.0, ahead_rounds=0)
    data = as_data(STUFF["toy"]().train, 8, "train")
    async with network, asyncio.TaskGroup() as group:
        for host, speed in enumerate([1.0] * owners + list(speeds), 1):
            is_owner = host <= owners
            node = NodeConfig(name=f"device-{host}", min_peers=owners, until_rounds=ROUNDS, cadence=cadence,
                              gossip=GossipConfig(quiet_s=1.0), codec="fp32")  # fmt: skip
            doors = DeviceDoors(
                transport=SimTransport(network, host), discovery=SimDiscovery(registry),
                compute=SimCompute(speed=speed), store=lambda shard: MemoryStore(), rng=random.Random(host),
            )  # fmt: skip
            owning = Owning(batches=data.batches(random.Random(host)), steps=steps, rounds=ROUNDS) if is_owner else None
            batch_us = offers(split, 1, speed)[0].batch_us
            config = DeviceConfig(node=node, memory_bytes=0 if is_owner else 1 << 40, batch_us=batch_us, lanes=lanes,
                                  micro_batches=micro_batches)  # fmt: skip
            devices.append(Device(config, split, doors, owning))
            group.create_task(_live(devices[-1]))
    own = [device.owner for device in devices if device.owner is not None]
    planned = next(one.linking.planned for one in own if one.linking.planned)
    return [one.figures.measured_s * steps for one in own], planned


async def _live(device: Device) -> None:
    async with device:
        async for _ in device.rounds():
            pass


def measured(split: Split, owners: int, relays: int, micro_batches: int = 1, steps: int = STEPS) -> dict[str, Any]:
    """One line of results."""
    took_s = max(run(lambda: _swarm(split, owners, (1.0,) * relays, 1, micro_batches, steps), until_s=1e6)[0])
    said_s = forecast_s(split, owners, relays, steps, micro_batches)
    return {"bench": "simulated", "owners": owners, "parts": relays + 2, "micro_batches": micro_batches,
            "steps": steps, "measured_s": round(took_s, 3), "forecast_s": round(said_s, 3),
            "error": round(said_s / took_s - 1, 4)}  # fmt: skip


def beside(split: Split, owners: int, speeds: Sequence[float], lanes: int | None) -> dict[str, Any]:
    """The same devices in so many chains: seconds of a round, and copies at the relays, in middle networks."""
    took_s, found = run(lambda: _swarm(split, owners, speeds, lanes), until_s=1e6)
    middle = split.shards.count - 1
    copies = [len(lane.owners) * (hop.last - hop.first + 1) / middle for lane in found for hop in lane.hops]
    return {"bench": "beside", "owners": owners, "speeds": list(speeds), "asked": lanes, "lanes": len(found),
            "measured_s": round(max(took_s), 3), "copies_most": round(max(copies), 2),
            "stages": [[[hop.first, hop.last] for hop in lane.hops] for lane in found]}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """K owners and P parts."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m bench.chains.simulated", description=__doc__)
    parser.add_argument("owners", nargs="*", type=int)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--micro", action="store_true")
    parser.add_argument("--relays", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args(arguments)
    split = toy_split()
    if given.beside:
        lines = (
            beside(split, owners, speeds, lanes)
            for speeds in (EVEN, MIXED) for owners in given.owners or (3, 6, 12) for lanes in (1, len(speeds), None)
        )  # fmt: skip
    elif given.micro:
        lines = (measured(split, owners, 3, parts) for owners in given.owners or (1, 2, 4) for parts in (1, 2, 4, 8))
    else:
        lines = (
            measured(split, owners, relays, steps=given.steps)
            for relays in given.relays for owners in given.owners or (2, 4, 6, 10, 20, 30)
        )  # fmt: skip
    errors = []
    for line in lines:
        errors.append(abs(line.get("error", 0.0)))
        with RESULTS.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    print(f"mean absolute error {100 * fmean(errors):.2f} %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""One process of a run: an owner or a relay, over real HTTP on loopback. Prints what it measured as one line of JSON.

`python -m bench.chains.device SPEC`, SPEC being JSON; `run` starts them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.chains.stuff import STUFF, pieces
from bench.slice_cost import peak_bytes
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.config import CadenceConfig, GossipConfig, NodeConfig
from p2pfusion.core.task import prepare
from p2pfusion.hops.device import Device, Owning
from p2pfusion.hops.site import DeviceConfig, DeviceDoors
from p2pfusion.net.compute import ThreadCompute
from p2pfusion.net.device import give_back_large_blocks
from p2pfusion.net.http import HttpTransport
from p2pfusion.net.lan import lan_node
from p2pfusion.seams import Store
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.memory import MemoryStore

T = TypeVar("T")
ANNOUNCED = "at "


class Throttled:
    """`seams.Compute` of a device that takes exactly as long as its plan says: work, then wait for the rest."""

    def __init__(self, speed: float) -> None:
        self._inner, self._speed = ThreadCompute(), speed
        self._lanes = {lane: asyncio.Lock() for lane in ("train", "fold", "gate")}

    async def run(self, work: Callable[[], T], *, cost_s: float = 0.0, lane: str = "train") -> T:
        """See `seams.Compute.run`."""
        loop = asyncio.get_running_loop()
        async with self._lanes[lane]:
            until_s = loop.time() + cost_s / self._speed
            result = await self._inner.run(work, lane=lane)
            if (left_s := until_s - loop.time()) > 0:
                await asyncio.sleep(left_s)
            return result

    async def close(self) -> None:
        """See `seams.Compute.close`."""
        await self._inner.close()


class Nobody:
    """`seams.Discovery` where addresses are given."""

    async def announce(self, tag: str, addresses: Any) -> None:
        """Nobody listens."""

    async def found(self, tag: str) -> Any:
        """Nobody comes."""
        await asyncio.Event().wait()
        yield ()

    async def close(self) -> None:
        """Nothing is open."""


def _stores(folder: str | None) -> Callable[[int], Store]:
    """On disk, as `join` keeps them, or in memory."""
    found: dict[int, Store] = {}

    def store(shard: int) -> Store:
        if shard not in found:
            found[shard] = MemoryStore() if folder is None else FolderStore(Path(folder) / f"{shard}")
        return found[shard]

    return store


async def live(spec: dict[str, Any]) -> dict[str, Any]:
    """The whole life of the device."""
    owns, seed = spec["role"] == "owner", spec["seed"]
    what = pieces(spec["what"], (spec["part"] if owns else 0, spec["owners"]), seed, spec["role"])
    node = NodeConfig(
        name=spec["name"], min_peers=spec["owners"], until_rounds=spec["rounds"], peers=tuple(spec["peers"]),
        cadence=CadenceConfig(adapt_steps=False, quorum=1.0, patience_s=600.0, round_min_s=0.0, ahead_rounds=0),
        gossip=GossipConfig(quiet_s=1.0), codec=spec["ledger_codec"],
    )  # fmt: skip
    config = DeviceConfig(node=node, memory_bytes=0 if owns else spec["memory_bytes"], codec=spec["codec"],
                          batch_us=round(what.batch_us / spec["speed"]), lanes=spec["lanes"],
                          micro_batches=spec["micro_batches"])  # fmt: skip
    doors = DeviceDoors(
        transport=HttpTransport(spec["listen"]), discovery=Nobody(), store=_stores(spec["folder"]),
        compute=Throttled(spec["speed"]) if spec["is_throttled"] else ThreadCompute(), rng=random.Random(spec["name"]),
    )  # fmt: skip
    owning = None
    if owns:
        batches = what.train.batches(random.Random(spec["part"]))
        validation = what.validation if spec["measures"] else None
        owning = Owning(batches=batches, steps=what.steps, validation=validation, rounds=spec["rounds"],
                        evaluate_every=10**6)  # fmt: skip
    times_s: list[float] = []
    async with Device(config, what.split, doors, owning) as device:
        print(ANNOUNCED + device.site.addresses[0], file=sys.stderr, flush=True)
        async for report in device.rounds():
            if device.owner is not None:
                times_s.append(device.owner.figures.measured_s * what.steps)
            print(f"{spec['name']} round {report.round}: {report.loss:.3f}", file=sys.stderr, flush=True)
        peak = peak_bytes()
        held = [*device.holding.nodes]
        relay, owner = device.relay, device.owner
        assert device.done is not None
        score = owner.figures.score if owner is not None else None
        return {
            **spec, "done": asdict(device.done), "times_s": times_s, "peak_bytes": peak, "held": held,
            "loss": score.loss if score is not None else None,
            "blocks": sum(len(what.split.shards.blocks(shard)) for shard in held),
            "figures": asdict(relay.figures) if relay is not None else None,
            "owner": asdict(owner.figures) if owner is not None else None,
            "chain": [(hop.first, hop.last) for hop in owner.linking.chain] if owner is not None else None,
            "steps": what.steps,
        }  # fmt: skip


async def sliced(spec: dict[str, Any]) -> dict[str, Any]:
    """The same device as a node of a swarm that trains slices, or all of the network."""
    stuff, seed = STUFF[spec["what"]](), spec["seed"]
    prepared = prepare(stuff.task(stuff.parts(spec["owners"], seed)[spec["part"]]), seed)
    cadence = CadenceConfig(adapt_steps=False, quorum=1.0, patience_s=600.0, round_min_s=0.0, ahead_rounds=0)
    async with lan_node(
        prepared, name=spec["name"], slice=spec["rate"], algorithm=spec["role"], listen=spec["listen"], seed=seed,
        device="cpu", min_peers=spec["owners"], until_rounds=spec["rounds"], peers=tuple(spec["peers"]),
        cadence=cadence, gossip=GossipConfig(quiet_s=1.0), codec=spec["ledger_codec"], evaluate_every_rounds=10**6,
    ) as node:  # fmt: skip
        print(ANNOUNCED + node.addresses[0], file=sys.stderr, flush=True)
        times_s = [sum(report.seconds.values()) async for report in node.rounds()]
        peak = peak_bytes()
        assert node.done is not None
        assert isinstance(node.state.algorithm, Sliced)
        (score,) = node.state.algorithm.scores(node.model()).values()
        return {**spec, "done": asdict(node.done), "times_s": times_s, "peak_bytes": peak, "loss": score.loss}


def main() -> int:
    """Live as the specification says."""
    torch.set_num_threads(1)
    give_back_large_blocks()
    spec = json.loads(sys.argv[1])
    life = live if spec["role"] in ("owner", "relay") else sliced
    print(json.dumps(asyncio.run(life(spec))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`Split`: what every device of a run knows alike of the network that is trained in pieces, and how it is trained.

Nothing in it is as large as the network: blocks are built, and their first values drawn, only where they are held.
Knows no devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from blake3 import blake3

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.genesis import genesis
from p2pfusion.core.profiles import LEDGER_VECTORS, BlockCost, Profile
from p2pfusion.core.shards import Shards, part
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.training import Recipe
from p2pfusion.wire.hops import RUN_BYTES


@dataclass(frozen=True, kw_only=True)
class Split:
    """The network, its shards, what its blocks take on the profile's device, how a round trains, genesis' seed."""

    blueprint: Blueprint
    shards: Shards
    profile: Profile
    recipe: Callable[[int], Recipe]
    """Round -> as `training.train` takes it."""
    seed: int = 0
    swarm: str = "p2pfusion"

    @cached_property
    def tag(self) -> bytes:
        """16 bytes that devices of one run share: swarm, network, shards and seed."""
        said = f"p2pfusion chain {self.seed} {self.swarm}".encode()
        return blake3(said + self.shards.tag(self.blueprint)).digest(length=RUN_BYTES)

    @cached_property
    def steps(self) -> Profile:
        """The profile with a row for each shard, the owner's first and last blocks being a row each: for planning."""
        middle = [(f"shard {number}", one) for number, one in enumerate(self.shards.middle, 1)]
        rows = [("first", self.shards.first), *middle, ("last", self.shards.last)]
        by_name = {block.name: block for block in self.profile.blocks}
        return replace(self.profile, blocks=tuple(_sum(name, [by_name[b] for b in blocks]) for name, blocks in rows))

    def blueprint_of(self, shard: int) -> Blueprint:
        """Of the shard alone, as its ledger knows it."""
        return part(self.blueprint, self.shards.blocks(shard))

    def genesis_of(self, shard: int) -> Vector:
        """The shard's first values, flat float32."""
        return genesis(self.blueprint_of(shard), self.seed)

    def sizes(self, first: int, last: int) -> Iterator[tuple[int, slice]]:
        """Of the stage of these shards: each shard with its place in the stage's flat vector."""
        start = 0
        for shard in range(first, last + 1):
            size = SubModel(self.shards.blocks(shard)).size(self.blueprint)
            yield shard, slice(start, start + size)
            start += size

    def memory_bytes(self, first: int, last: int, copies: int) -> int:
        """What a relay needs for so many copies of that stage, and for the ledgers of its shards."""
        return self.steps.memory_bytes(first, last + 1, copies)

    def ledger_bytes(self, shard: int) -> int:
        """What holding a shard takes without copies, as a backup: `LEDGER_VECTORS` as long as the shard."""
        return 4 * LEDGER_VECTORS * SubModel(self.shards.blocks(shard)).size(self.blueprint)

    def forward_s(self, first: int, last: int) -> float:
        """Seconds of one batch forward in these rows of `steps` on the profile's device."""
        return self.steps.forward_s(first, last + 1)

    def step_s(self, first: int, last: int) -> float:
        """Of that the optimiser's step."""
        return self.steps.optimiser_s(first, last + 1)

    @property
    def owner_s(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Seconds forward and backward of an owner's first and of its last stage."""
        last = self.shards.count
        return (self.forward_s(0, 0), self.backward_s(0, 0)), (self.forward_s(last, last), self.backward_s(last, last))

    def backward_s(self, first: int, last: int) -> float:
        """The same backward, the optimiser's step included."""
        return self.steps.backward_s(first, last + 1)


def _sum(name: str, blocks: list[BlockCost]) -> BlockCost:
    """Consecutive blocks as one row."""
    total = {
        field: sum(getattr(block, field) for block in blocks)
        for field in BlockCost.__dataclass_fields__
        if field not in ("name", "output_bytes")
    }
    return BlockCost(name=name, output_bytes=blocks[-1].output_bytes, **total)

"""How a network's blocks are dealt to shards, each of which has a ledger of its own that only its holders keep.

Shard 0 is what every owner of data holds: the first blocks and the last, so that neither inputs nor labels leave it.
The blocks between are dealt to shards 1 and up in consecutive groups, as even in parameters as can be: a relay's stage
is a run of shards, and cuts may move between shards while the ledgers stay. Everybody must deal alike: the dealing
follows from the blueprint and a few numbers, and `Shards.tag` proves it.

A shard alone is described by a blueprint of its own (`part`), which has values, slices and a genesis but no network.

Knows blueprints; no torch, no devices, no ledgers. Which blocks share parameters it is told (`stages.ties`), for that
only the built network shows. Source: PAPERS.md 3.1 (parts of a model), ours: shards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NoReturn

from blake3 import blake3

from p2pfusion.config import SHARDS_MAX
from p2pfusion.core.blueprint import Blueprint, Dim, Init, ModuleSpec
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import TaskError

DEALT_MAX = 8
"""Shards beside the owners', unless somebody asks for more or fewer: as many relays may follow each other, and each
shard costs its holders the gossip of one more ledger."""
TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Shards:
    """Blocks by shard, in the blueprint's order. `first` and `last` are shard 0, `middle[i]` is shard i + 1."""

    first: tuple[str, ...]
    middle: tuple[tuple[str, ...], ...]
    last: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many shards there are, the owners' included."""
        return 1 + len(self.middle)

    def blocks(self, shard: int) -> tuple[str, ...]:
        """The blocks of one shard. Raises `ValueError` for one that there is not."""
        return self.run(shard, shard) if shard else self.first + self.last

    def run(self, first: int, last: int) -> tuple[str, ...]:
        """The blocks of a stage of the shards `first` to `last`, both included; the owners' is in no stage.

        Raises `ValueError` for shards that there are not.
        """
        if not 1 <= first <= last < self.count:
            raise ValueError(f"shards {first} to {last}: must be ascending and within 1 to {self.count - 1}")
        return tuple(block for group in self.middle[first - 1 : last] for block in group)

    def tag(self, blueprint: Blueprint) -> bytes:
        """16 bytes that are equal for equal networks, dealt alike."""
        dealt = json.dumps([self.first, self.middle, self.last], separators=(",", ":"), ensure_ascii=True)
        return blake3(b"p2pfusion shards " + blueprint.fingerprint() + dealt.encode()).digest(length=TAG_BYTES)


def deal(
    blueprint: Blueprint,
    first: int = 1,
    last: int = 1,
    shards_max: int = DEALT_MAX,
    *,
    ties: Sequence[Collection[str]] = (),
) -> Shards:
    """Owners keep `first` leading and `last` trailing blocks; the others make at most `shards_max` shards beside them.

    As many shards as that allows, each with a parameter at least; of all ways to cut, the one whose largest shard is
    smallest, then the most even one. `ties`: groups of blocks that must not be parted (`stages.ties`). Raises
    `TaskError` for numbers or ties that leave nothing to deal.
    """
    if not 1 <= shards_max < SHARDS_MAX:
        raise TaskError(f"shards: {shards_max} beside the owners'; must be 1 to {SHARDS_MAX - 1}")
    if first < 1 or last < 1:
        raise TaskError("shards: owners keep at least the first block and the last, or inputs or labels would leave")
    blocks = blueprint.blocks
    if first + last >= len(blocks):
        raise TaskError(
            f"shards: owners keep {first} + {last} of {len(blocks)} blocks, which leaves none to deal; let them keep "
            f"fewer, or cut the model into more blocks"
        )
    middle, sizes = blocks[first:-last], _sizes(blueprint)
    ends = blocks[:first], blocks[-last:]
    for held, whose in ((ends[0] + ends[1], "the blocks that owners keep"), (middle, "the blocks between the ends")):
        if not any(sizes[block] for block in held):
            raise TaskError(f"shards: {whose} have no parameters of their own; let owners keep other blocks")
    units = _units(middle, sizes, ties)
    cuts = _cuts([sum(sizes[block] for block in unit) for unit in units], min(shards_max, len(units)))
    dealt = tuple(tuple(block for unit in units[a:b] for block in unit) for a, b in pairwise([0, *cuts]))
    return Shards(ends[0], dealt, ends[1])


def part(blueprint: Blueprint, blocks: Collection[str]) -> Blueprint:
    """Some blocks of a network as a blueprint of their own: for a ledger, which needs values and no network.

    Its vectors are those of `SubModel(blocks)` of the whole, and so is its genesis: what an axis that it has not any
    more counted for is a number now. Raises `ValueError` for unknown blocks or none, `TaskError` where they have no
    parameters, and whenever somebody builds it.
    """
    held = SubModel.of(blueprint, {}, blocks).blocks
    parameters = [parameter for parameter in blueprint.parameters if parameter.block in held]
    used = frozenset(dim.axis for parameter in parameters for dim in parameter.dims)
    axes = tuple(axis for axis in blueprint.axes if axis.name in used)

    def alone(dim: Dim) -> Dim:
        return dim if dim.axis in used else Dim(None, blueprint.extent(dim))

    def started(init: Init) -> Init:
        return init if init.fan_in is None else replace(init, fan_in=tuple(alone(dim) for dim in init.fan_in))

    kept = tuple(replace(parameter, init=started(parameter.init)) for parameter in parameters)
    return Blueprint(held, axes, kept, _no_network)


def _no_network(spec: ModuleSpec) -> NoReturn:
    raise TaskError("a shard is no network of its own; cut its stages from the blueprint of the whole model")


def _sizes(blueprint: Blueprint) -> dict[str, int]:
    """Scalars by block."""
    sizes = dict.fromkeys(blueprint.blocks, 0)
    for parameter in blueprint.parameters:
        sizes[parameter.block] += math.prod(blueprint.shape(parameter))
    return sizes


def _units(middle: Sequence[str], sizes: dict[str, int], ties: Sequence[Collection[str]]) -> list[list[str]]:
    """Runs of blocks that stay together: what is tied with all between, and what has no parameters with a neighbour."""
    place = {block: number for number, block in enumerate(middle)}
    joined: set[int] = set()
    for together in ties:
        inside = [place[block] for block in together if block in place]
        if inside and len(inside) < len(together):
            raise TaskError(
                f"shards: the blocks {' and '.join(together)} share a parameter, and the owners' ends would part them; "
                f"let owners keep them all, as their first and last blocks, or none, or untie them"
            )
        if inside:
            joined.update(range(min(inside) + 1, max(inside) + 1))
    units: list[list[str]] = []
    for number, block in enumerate(middle):
        if units and (number in joined or not sizes[block] or not any(sizes[other] for other in units[-1])):
            units[-1].append(block)
        else:
            units.append([block])
    return units


def _cuts(sizes: Sequence[int], groups: int) -> tuple[int, ...]:
    """Behind which places to cut, the end included, into just so many groups: see `deal`."""
    until = [0, *accumulate(sizes)]
    largest = _least_largest(sizes, groups)
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(groups):
        following: dict[int, tuple[int, tuple[int, ...]]] = {}
        for start, (squares, cuts) in best.items():
            for stop in range(start + 1, len(until)):
                size = until[stop] - until[start]
                if size > largest:
                    break
                reached = squares + size * size, (*cuts, stop)
                if stop not in following or reached < following[stop]:
                    following[stop] = reached
        best = following
    return best[len(sizes)][1]


def _least_largest(sizes: Sequence[int], groups: int) -> int:
    """How small the largest of so many groups can be."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _groups_needed(sizes, middle) <= groups:
            high = middle
        else:
            low = middle + 1
    return low


def _groups_needed(sizes: Sequence[int], largest: int) -> int:
    """Into how few groups no larger than this the sizes go; none of them is larger itself."""
    groups, filled = 1, 0
    for size in sizes:
        if filled + size > largest:
            groups, filled = groups + 1, 0
        filled += size
    return groups

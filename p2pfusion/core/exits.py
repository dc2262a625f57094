"""Places where a network can answer before its end, and which blocks make a network that ends at one of them.

The blocks of a network with exits are its *trunk*, in order, the *heads*, each behind a beginning of the trunk, and
perhaps others that belong to none of them, such as a projection. Whoever holds the trunk up to some depth, some of the
heads up to there and all of the others, holds a network (PAPERS.md 2.2). Plain data; it knows no values and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2pfusion.errors import TaskError


@dataclass(frozen=True, slots=True)
class Exit:
    """A place where the network can answer: its head's block, and the blocks before it that the head needs, in order.

    The last `depth` of those are layers, what comes before them is where the network begins.

    The module that is built offers `answers(x)`, a tuple with what each of its exits says, the shallowest first; its
    `forward` is the deepest one's.
    """

    head: str
    trunk: tuple[str, ...]
    depth: int

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers before it, in order."""
        return self.trunk[len(self.trunk) - self.depth :]


Exits = tuple[Exit, ...]
"""The shallowest first."""
HEAD = "head"
"""Block of the head at the network's end; the others are `exit1`, `exit2` and so on."""


def depths(layers: int, exits: int) -> tuple[int, ...]:
    """How many of the layers stand before each exit: floor(layers * j / exits), PAPERS.md 2.2 with four of them.

    Raises `ValueError` unless every exit has a layer of its own.
    """
    if not 1 <= exits <= layers:
        raise ValueError(f"exits = {exits}: must be 1 to {layers}, the number of layers")
    return tuple(layers * number // exits for number in range(1, exits + 1))


def heads_behind(layers: int, exits: int) -> dict[str, int]:
    """Block of each exit's head -> how many layers stand before it, the end last; `exits` 0: the end only.

    Raises `ValueError` for more exits than layers.
    """
    *early, last = depths(layers, exits) if exits else (layers,)
    return {**{f"exit{number}": depth for number, depth in enumerate(early, 1)}, HEAD: last}


def ends_of(entry: str, layers: Sequence[str], exits: int) -> Exits:
    """What a blueprint declares of a network of `entry`, layers and `heads_behind`; nothing where `exits` is 0."""
    trunk = (entry, *layers)
    behind = heads_behind(len(layers), exits) if exits else {}
    return tuple(Exit(head, trunk[: depth + 1], depth) for head, depth in behind.items())


def within(exits: Exits, rate: float) -> Exits:
    """Those that the first floor(rate * layers) layers reach, and the shallowest in any case (PAPERS.md 2.2).

    Layers behind the deepest of them would be trained by nothing: nobody holds them.
    """
    layers = int(rate * exits[-1].depth + 1e-9)
    return tuple(one for one in exits if one.depth <= layers) or exits[:1]


def held_by(exits: Exits, blocks: Sequence[str]) -> Exits:
    """Those whose heads are among the blocks."""
    return tuple(one for one in exits if one.head in blocks)


def network(exits: Exits, blocks: Sequence[str], wanted: Exits) -> tuple[str, ...]:
    """Of all `blocks` of a model with these exits, those of the network that answers at the wanted ones; () for none.

    The deepest one's trunk, the heads, and whatever belongs to no exit.
    """
    if not wanted:
        return ()
    optional = {block for one in exits for block in (one.head, *one.trunk)}
    chosen = {*wanted[-1].trunk, *(one.head for one in wanted)}
    return tuple(block for block in blocks if block in chosen or block not in optional)


def check(exits: Exits, blocks: Sequence[str]) -> None:
    """Raises `TaskError` where the exits contradict each other or the blocks."""
    before: tuple[str, ...] = ()
    heads = [one.head for one in exits]
    for one in exits:
        unknown = [block for block in (one.head, *one.trunk) if block not in blocks]
        if unknown or heads.count(one.head) > 1 or one.head in exits[-1].trunk:
            raise TaskError(f"blueprint: exit {one.head!r} needs a head of its own, and blocks of the network")
        if not 0 < one.depth <= len(one.trunk) or one.trunk[: len(before)] != before:
            raise TaskError(f"blueprint: the trunk of exit {one.head!r} must begin with that of the exit before it")
        before = one.trunk

"""Co-S2P's row, and what of it can be chosen: `--algorithm co_s2p:transfer=swarm:rolling_freeze=1`.

The paper (PAPERS.md 2) has a server; ours is the same mechanism over the ledger. The fold knows nothing of what is
chosen here, so devices that chose differently still train one model. Knows no node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfusion.algorithms.sliced import Way
from p2pfusion.core import schemes
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.depth import at_exits, shallow
from p2pfusion.core.drift import Drift
from p2pfusion.core.tailored import HOW, How, Tailored
from p2pfusion.core.transfer import GAMMA, Transfer
from p2pfusion.errors import TaskError

Teaching = Literal["own", "swarm", "off"]
Weights = Literal["drift", "even"]
Sum = Literal["mean", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What of Co-S2P a device does, as the default or otherwise.

    `units`: what says which it keeps (PAPERS.md 2.3). `transfer`: what its exits learn from, the deepest that it holds,
    the swarm's head where it holds no deep block, or nothing (2.4). `rolling_freeze`: layers trained in a round, 0: all
    of them (2.2). `weights`: what a contribution is worth (2.5). `sum`: with `plain` it counts with zero for what
    it did not train, and sends the whole model's length; if all choose it, that is the released code's sum (2.5).
    """

    units: How = HOW
    transfer: Teaching = "own"
    rolling_freeze: int = 0
    weights: Weights = "drift"
    sum: Sum = "mean"


def way(blueprint: Blueprint, choice: Choice) -> Way:
    """How a node works that chose so. Raises `TaskError` for a network that can answer at its end only."""
    _check_exits(blueprint)
    transfer = Transfer(
        gamma=0.0 if choice.transfer == "off" else GAMMA,
        window=choice.rolling_freeze or None,
        teacher="swarm" if choice.transfer == "swarm" else "own",
    )
    tailored = Tailored(choice.units, transfer)
    return Way(
        scheme=tailored,
        objective=tailored,
        widths=at_exits(blueprint),
        weighing=Drift() if choice.weights == "drift" else None,
        is_expanded=choice.sum == "plain",
        later=shallow(schemes.static()),  # as many units; which, the device's data say
    )


def _check_exits(blueprint: Blueprint) -> None:
    if len(blueprint.exits) < 2:
        raise TaskError(
            "co_s2p: this network can answer at its end only; make it with exits, such as p2pfusion.zoo.transformers."
            "vit(..., exits=4), and give the task that Blueprint, not a module built of it; or choose another "
            "algorithm, such as --algorithm members"
        )

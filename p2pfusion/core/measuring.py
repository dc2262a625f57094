"""A profile of this device: every block of a blueprint run by itself, forward, backward and one optimiser step.

One block at a time is in memory, with the activation that reaches it, so a device can measure a network that it could
not train. Times are medians of a few repetitions within a given number of seconds; bytes are counted, not estimated.

The clock is given, since core reads none. Knows neither relays nor plans. Source: PAPERS.md 3.2 and 3.4 (what a
planner needs), ours: how it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch
from p2pfusion.core.footprint import kept_by
from p2pfusion.core.gradients import backward
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.core.stages import Drawn, StageNetwork, one_by_one
from p2pfusion.core.submodel import Vector
from p2pfusion.core.training import Recipe
from p2pfusion.errors import LocalError, TrainingError

REPEATS_MAX = 100
"""Of one block, behind the one that warms up: more would not move the median of what takes a tenth of a millisecond."""
GRADIENT = 1e-3
"""What stands for the gradient of an output: small enough for any step, and no denormal, which would be slow."""


@dataclass(slots=True)
class _Trial:
    """One block under measurement: its network, what comes in, and the seconds it took so far."""

    module: nn.Module
    optimizer: Any
    recipe: Recipe
    x: torch.Tensor
    y: torch.Tensor | None
    """The labels, at the last block, whose backward pass begins at the loss."""
    clock: Callable[[], float]

    def forward(self) -> torch.Tensor:
        """The block's output, or at the last block the loss."""
        with self.recipe.place.casting():
            output: torch.Tensor = self.module(self.x)
            return output if self.y is None else self.recipe.loss(output, self.y)

    def times(self) -> tuple[float, float, float]:
        """Seconds of one forward pass, backward pass and step."""
        began = self.clock()
        output = self.forward()
        ahead = self.clock()
        if output.requires_grad:
            backward(output, torch.full_like(output, 1.0 if self.y is not None else GRADIENT))
        back = self.clock()
        if self.optimizer is not None:
            self.recipe.step(self.optimizer, self.module.parameters())
        return ahead - began, back - ahead, self.clock() - back


def measure(
    blueprint: Blueprint,
    values: Vector | Drawn,
    batch: Batch,
    recipe: Recipe,
    *,
    seconds: float,
    clock: Callable[[], float],
    origin: str,
) -> Profile:
    """Measure for about so many seconds, and at least two repetitions of every block.

    `values`: the whole model's, flat float32, or parameter by parameter; they stay as they are. On the CPU, where a
    clock sees when work is done. Raises `TaskError` for a network that cannot be cut, `TrainingError` for one that
    fails.
    """
    x, y = batch
    costs: list[BlockCost] = []
    each_s = seconds / len(blueprint.blocks)
    with recipe.place.seeded(0):
        for module in one_by_one(blueprint, values):
            (name,) = module.blocks
            given = (x, y if name == blueprint.blocks[-1] else None)
            try:
                cost, x = _measured(blueprint, module, given, recipe, each_s, clock)
            except LocalError:
                raise
            except Exception as error:
                raise TrainingError(f"{name}: {type(error).__name__}: {error}") from error
            costs.append(cost)
            del module  # before the next one is made
    return Profile(batch=len(y), origin=origin, blocks=tuple(costs))


def _measured(
    blueprint: Blueprint,
    module: StageNetwork,
    batch: tuple[torch.Tensor, torch.Tensor | None],
    recipe: Recipe,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[BlockCost, torch.Tensor]:
    """What the block takes, and its output for the next one."""
    (name,) = module.blocks
    own = {item.name: item for item in blueprint.parameters if item.block == name}
    # What another block lends it (tied embeddings) is that block's to train and to count.
    mine = [tensor for given, tensor in zip(module.names, module.parameters(), strict=True) if given in own]
    trained = [tensor for tensor in mine if tensor.requires_grad]
    x, y = batch
    inside = x.detach().requires_grad_(x.is_floating_point())
    optimizer = recipe.optimizer(trained) if trained else None
    trial = _Trial(module, optimizer, recipe, inside, y, clock)
    with torch.no_grad():
        output = module(x)
    _, kept = kept_by(trial.forward, module)
    until, taken = clock() + seconds, [trial.times()]
    while len(taken) < 2 or (len(taken) <= REPEATS_MAX and clock() < until):
        taken.append(trial.times())
    # Nanoseconds, so that a file stays readable.
    forward_s, backward_s, optimiser_s = (round(median(column), 9) for column in zip(*taken[1:], strict=True))
    cost = BlockCost(
        name=name,
        forward_s=forward_s,
        backward_s=backward_s,
        optimiser_s=optimiser_s,
        output_bytes=output.nbytes,
        kept_bytes=sum(kept),
        parameter_bytes=sum(tensor.nbytes for tensor in mine),
        gradient_bytes=sum(tensor.nbytes for tensor in trained),
        optimiser_bytes=state_bytes(getattr(optimizer, "state", {}).values()),
    )
    return cost, output


def state_bytes(states: Iterable[Any]) -> int:
    """Of all tensors an optimiser keeps, one mapping per parameter."""
    found: Sequence[Any] = [item for state in states for item in state.values()]
    return sum(item.nbytes for item in found if isinstance(item, torch.Tensor))

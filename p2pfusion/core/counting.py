"""A profile without a network in memory: what every block takes, found by its forward pass with weights of nothing.

Weights are zeros that nobody wrote, which an operating system gives no memory; neither gradients nor an optimiser's
state are made. What a block keeps for its backward pass is counted with few samples, of which the number of the batch
follows; seconds are those of forward passes and of reading the weights, which here are one page that stays at hand, a
backward pass taking twice as long. So those who only plan need no more than a block's activations. Torch's own way, its
meta device, would load its compiler: 90 MB (torch 2.13).

Knows neither relays nor plans. Source: PAPERS.md 3.2 (what a planner needs), ours: counting it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch
from p2pfusion.core.footprint import kept_by
from p2pfusion.core.measuring import state_bytes
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.core.stages import StageNetwork, one_by_one
from p2pfusion.core.submodel import Vector, layout
from p2pfusion.core.training import Recipe
from p2pfusion.errors import LocalError, TaskError

PASSES = 3
"""Forward passes that are timed; the fastest counts, for the first only warms up."""
BACKWARD_PASSES = 2.0
"""What a backward pass takes, in forward ones: every product is made once for inputs and once for weights."""
BYTES_PER_S = 1e10
"""A processor's memory; an optimiser's step does little else than read and write."""
STEP_PASSES = 5
"""Of a parameter's bytes in one optimiser step: gradient, state and values read, state and values written."""
SAMPLES = (2, 4)
"""Of which what a batch keeps is continued, as a line: normalisation needs more than one."""
STATE_SCALARS = 1024
"""Of the parameter that shows what an optimiser keeps of a scalar."""
DECIMALS = 9
"""Of seconds: nanoseconds, so that a file stays readable."""


def count(blueprint: Blueprint, batch: Batch, recipe: Recipe, clock: Callable[[], float]) -> Profile:
    """Every block for a batch of these sizes, on the CPU. Raises `TaskError` for what cannot be cut, or not be run."""
    x, y = batch
    state, places = _state_bytes_per_byte(recipe), layout(blueprint, blueprint.whole())

    def nothing(name: str) -> Vector:
        return np.zeros(math.prod(places[name][1]), np.float32)

    costs = []
    with recipe.place.seeded(0):
        for module in one_by_one(blueprint, nothing):
            (name,) = module.blocks
            try:
                cost, x = _counted(blueprint, module, (x, y), recipe, state, clock)
            except LocalError:
                raise
            except Exception as error:
                raise TaskError(f"model: {name} cannot be run: {type(error).__name__}: {error}") from error
            costs.append(cost)
            del module  # before the next one is made
    return Profile(batch=len(y), origin="counted", blocks=tuple(costs))


def _counted(
    blueprint: Blueprint,
    module: StageNetwork,
    batch: Batch,
    recipe: Recipe,
    state: float,
    clock: Callable[[], float],
) -> tuple[BlockCost, torch.Tensor]:
    (name,) = module.blocks
    x, y = batch
    own = {item.name for item in blueprint.parameters if item.block == name}
    mine = [tensor for given, tensor in zip(module.names, module.parameters(), strict=True) if given in own]
    gradient_bytes = sum(tensor.nbytes for tensor in mine if tensor.requires_grad)
    is_last = name == blueprint.blocks[-1]
    seconds = []
    with torch.no_grad():
        for _ in range(PASSES):
            began = clock()
            output = module(x)
            if is_last:
                recipe.loss(output, y)
            seconds.append(clock() - began)
    forward_s = min(seconds) + sum(tensor.nbytes for tensor in mine) / BYTES_PER_S
    cost = BlockCost(
        name=name,
        forward_s=round(forward_s, DECIMALS),
        backward_s=round(BACKWARD_PASSES * forward_s, DECIMALS),
        optimiser_s=round(STEP_PASSES * gradient_bytes / BYTES_PER_S, DECIMALS),
        output_bytes=output.nbytes,
        kept_bytes=_kept_bytes(module, x, (lambda said, many: recipe.loss(said, y[:many])) if is_last else None),
        parameter_bytes=sum(tensor.nbytes for tensor in mine),
        gradient_bytes=gradient_bytes,
        optimiser_bytes=round(state * gradient_bytes),
    )
    return cost, output


def _kept_bytes(module: StageNetwork, x: torch.Tensor, loss: Callable[[torch.Tensor, int], torch.Tensor] | None) -> int:
    """What autograd keeps of the whole batch, besides parameters; at the last block with the loss."""

    def kept(samples: int) -> int:
        inside = x[:samples].clone().requires_grad_(x.is_floating_point())

        def forward() -> torch.Tensor:
            output: torch.Tensor = module(inside)
            return output if loss is None else loss(output, samples)

        return sum(kept_by(forward, module)[1])

    few, more = SAMPLES
    if len(x) <= more:
        return kept(len(x))
    first, second = kept(few), kept(more)
    return first + (second - first) * (len(x) - few) // (more - few)


def _state_bytes_per_byte(recipe: Recipe) -> float:
    """What the recipe's optimiser keeps of a byte of a vector after a step; less of a matrix where it factors them."""
    parameter = nn.Parameter(torch.zeros(STATE_SCALARS))
    parameter.grad = torch.zeros(STATE_SCALARS)
    try:
        optimizer = recipe.optimizer([parameter])
        optimizer.step()
    except Exception as error:
        raise TaskError(f"optimizer: {type(error).__name__}: {error}") from error
    return state_bytes(getattr(optimizer, "state", {}).values()) // STATE_SCALARS / parameter.element_size()

"""A profile without a network in memory: operations and bytes of every block, counted on torch's meta device.

Shapes without values flow through the blocks as real batches would. Bytes are those that `measuring` finds, but for
attention, whose way on a processor keeps a sixth less; seconds are operations at a nominal speed and bytes at a nominal
bandwidth, good for comparing blocks with each other, not for a clock. The same network gives the same profile on every
device, so those who only plan need no memory for it but what torch loads for the meta
device (some 80 MB and three seconds, torch 2.13).

Knows neither relays nor plans. Source: PAPERS.md 3.2 (what a planner needs), ours: counting it.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch
from p2pfusion.core.footprint import kept_by
from p2pfusion.core.measuring import state_bytes
from p2pfusion.core.profiles import BlockCost, Profile
from p2pfusion.core.stages import StageNetwork, outlines
from p2pfusion.core.training import Recipe
from p2pfusion.errors import LocalError, TaskError

FLOPS_PER_S = 2e10
"""A core of a laptop with matrices of some size."""
BYTES_PER_S = 1e10
"""Its memory: what has no multiplications takes its time too."""
STEP_PASSES = 5
"""Of a parameter's bytes in one optimiser step: gradient, state and values read, state and values written."""
DECIMALS = 9
"""Of seconds: nanoseconds, so that a file stays readable."""


def count(blueprint: Blueprint, batch: Batch, recipe: Recipe) -> Profile:
    """Every block for a batch of these sizes. Raises `TaskError` for what cannot be cut, or not be counted."""
    x, y = batch[0].to("meta"), batch[1].to("meta")
    costs = []
    for module in outlines(blueprint):
        (name,) = module.blocks
        try:
            cost, x = _counted(blueprint, module, x, y if name == blueprint.blocks[-1] else None, recipe)
        except LocalError:
            raise
        except Exception as error:
            raise TaskError(
                f"model: {name} cannot be counted without values ({type(error).__name__}: {error}); its forward pass "
                "must not depend on them"
            ) from error
        costs.append(cost)
    return Profile(batch=len(y), origin="counted", blocks=tuple(costs))


def _counted(
    blueprint: Blueprint, module: StageNetwork, x: torch.Tensor, y: torch.Tensor | None, recipe: Recipe
) -> tuple[BlockCost, torch.Tensor]:
    (name,) = module.blocks
    own = {item.name for item in blueprint.parameters if item.block == name}
    mine = [tensor for given, tensor in zip(module.names, module.parameters(), strict=True) if given in own]
    trained = [tensor for tensor in mine if tensor.requires_grad]
    inside = x.detach().requires_grad_(x.is_floating_point())

    outputs: list[torch.Tensor] = []

    def forward() -> torch.Tensor:
        outputs.append(module(inside))
        return outputs[0] if y is None else recipe.loss(outputs[0], y)

    with FlopCounterMode(display=False) as ahead:
        value, kept = kept_by(forward, module)
    output = outputs[0]
    with FlopCounterMode(display=False) as back:
        if value.requires_grad:
            torch.autograd.backward(value, torch.empty_like(value))
    optimizer = recipe.optimizer(trained) if trained else None
    if optimizer is not None:
        optimizer.step()
    parameter_bytes, through_bytes = sum(tensor.nbytes for tensor in mine), x.nbytes + output.nbytes + sum(kept)
    cost = BlockCost(
        name=name,
        forward_s=_seconds(ahead.get_total_flops(), through_bytes),
        backward_s=_seconds(back.get_total_flops(), 2 * through_bytes),
        optimiser_s=_seconds(0, STEP_PASSES * parameter_bytes),
        output_bytes=output.nbytes,
        kept_bytes=sum(kept),
        parameter_bytes=parameter_bytes,
        gradient_bytes=sum(tensor.nbytes for tensor in trained),
        optimiser_bytes=state_bytes(getattr(optimizer, "state", {}).values()),
    )
    return cost, output.detach()


def _seconds(flops: int, size_bytes: int) -> float:
    return round(flops / FLOPS_PER_S + size_bytes / BYTES_PER_S, DECIMALS)

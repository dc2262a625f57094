"""A projection head beside any network: one linear map of its representation to a space that no slice cuts.

What two slices make of a sample cannot be compared unit by unit, for they keep different units. Their projections can:
the head's outputs are whole in every slice, its inputs follow the slice (PAPERS.md 1.6). It is a block and a parameter
of the model like any other, is folded like them, and does not change what the network answers.

It knows no objective; `core.contrastive` is the one that uses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint, Dim, Init, ModuleSpec, Parameter
from p2pfusion.core.layers import empty_layer
from p2pfusion.errors import TaskError

PROJECTION = "projection"
"""Name of the block and of the module."""
SIZE = 128
"""Outputs of the head. MOON takes 256 behind a hidden layer; half of that costs a thin slice less (PAPERS.md 1.6)."""


def with_projection(blueprint: Blueprint, size: int = SIZE) -> Blueprint:
    """The same network with `projection.weight` (size, features) at its end, which reads what its output layer reads.

    A linear map without bias: cosines between projections then do not depend on how features are scaled. It starts as
    a Linear does. Raises `TaskError` for a network whose output layer is unknown, is no matrix, or that has a
    projection already, and for several networks side by side; `ValueError` for `size` below 1.
    """
    if size < 1:
        raise ValueError(f"size = {size}: must be at least 1")
    if blueprint.members:
        raise TaskError("no projection for several networks side by side: use an algorithm without contrast")
    features = _features(blueprint)
    weight = Parameter(f"{PROJECTION}.weight", PROJECTION, (Dim(None, size), features), Init((features,)))
    inner = blueprint.factory

    def factory(spec: ModuleSpec) -> nn.Module:
        kept = features.size if features.axis is None else spec.widths[features.axis] * features.size
        blocks = tuple(block for block in spec.blocks if block != PROJECTION)
        return Projected(inner(replace(spec, blocks=blocks)), empty_layer(nn.Linear, kept, size, bias=False))

    blocks, parameters = (*blueprint.blocks, PROJECTION), (*blueprint.parameters, weight)
    return replace(blueprint, blocks=blocks, parameters=parameters, factory=factory)


class Projected(nn.Module):
    """A module with one more child, which its own forward never sees.

    It shares everything the other one holds, under the same names; so not even an `nn.Sequential`, which runs all its
    children, runs this one.
    """

    def __init__(self, inner: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self._parameters, self._buffers = inner._parameters, inner._buffers
        self._modules = {**inner._modules, PROJECTION: projection}
        self._inner = (inner,)  # in a tuple nn.Module does not see that it is a module, and makes it no child

    @property
    def inner(self) -> nn.Module:
        """The module that it stands beside."""
        return self._inner[0]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the other one answers."""
        return self._inner[0](*inputs, **named)

    def train(self, mode: bool = True) -> Self:
        """As ever; the other one follows."""
        self._inner[0].training = mode
        return super().train(mode)


def representation(module: nn.Module, output_layer: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the network's output for a batch, the projection (batch, size) of what its output layer read meanwhile).

    Features (batch, ..., width) are averaged over what stands between, tokens for instance. Raises `TaskError` when the
    output layer was not called.
    """
    read: list[torch.Tensor] = []
    layer = module.get_submodule(output_layer)
    handle = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        output = module(x)
    finally:
        handle.remove()
    if not read:
        raise TaskError(f"the network does not call {output_layer!r}: name its real output layer in the blueprint")
    features = read[-1]
    if features.dim() > 2:
        features = features.flatten(1, -2).mean(1)
    projected: torch.Tensor = module.get_submodule(PROJECTION)(features)
    return output, projected


def _features(blueprint: Blueprint) -> Dim:
    """The dimension that the output layer reads."""
    if blueprint.output_layer is None:
        raise TaskError(
            "no projection: the network's output layer is not known; a Blueprint can name it, for an nn.Module "
            "choose --algorithm double_shift, nested or members"
        )
    if PROJECTION in blueprint.blocks:
        raise TaskError(f"no projection: the network has a block {PROJECTION!r} already; rename it")
    dims = {parameter.name: parameter.dims for parameter in blueprint.parameters}
    name = f"{blueprint.output_layer}.weight"
    found = dims.get(name) or dims.get(_tied(blueprint, blueprint.output_layer), ())
    if len(found) != 2:
        raise TaskError(f"no projection: {name!r} is no matrix of the network; give the blueprint its output layer")
    return found[1]


def _tied(blueprint: Blueprint, output_layer: str) -> str:
    """Name under which the output layer's weight is declared, where it is another layer's too: the embedding's, say."""
    module = blueprint.build(blueprint.whole())
    try:
        weight = module.get_submodule(output_layer).weight
    except AttributeError:
        return ""
    return next((name for name, tensor in module.named_parameters() if tensor is weight), "")

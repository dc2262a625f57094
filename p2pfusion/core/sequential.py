"""`blueprint_of`: an ordinary `nn.Sequential` described, so that its owner declares no axis by hand.

One example batch walks through the layers. With it goes a `Flow`: which dimension is sliced, along which axis, and how
many entries one index spans (behind a flatten: height x width). Every inner Linear or Conv opens an axis for its
outputs; the first layer's inputs and the last layer's outputs are never sliced. A GroupNorm of G > 1 groups makes its
axis move in whole groups, so a slice normalises exactly the groups the full network has.

What cannot be sliced honestly is refused by name, with reason and fix, before anything touches the network. This module
knows layers; it knows no values, rates or peers.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import nn

from p2pfusion.core.blueprint import Axis, Blueprint, Factory, ModuleSpec
from p2pfusion.core.layers import Draft, Flow, describe, is_known
from p2pfusion.core.refusals import check_layers
from p2pfusion.core.scaler import Scaler
from p2pfusion.errors import TaskError


def blueprint_of(model: nn.Sequential, example: torch.Tensor) -> Blueprint:
    """Describe `model`; `example` is a batch of its inputs (any batch size, values do not matter).

    Raises `TaskError` for layers that cannot be sliced, with name, reason and fix.
    """
    check_layers(model)
    leaves = list(_leaves(model, ""))
    _check_leaves(leaves)
    draft = Draft(last=[path for path, layer in leaves if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)][-1])
    flow = Flow(tuple(example.shape))
    x = example
    for path, layer in leaves:
        x = _run(path, layer, x)
        flow = replace(describe(draft, path, layer, flow), shape=tuple(x.shape))
    axes = tuple(Axis(name, size, unit) for name, (size, unit) in draft.units.items())
    return Blueprint(
        tuple(draft.blocks), axes, tuple(draft.parameters), _factory(model, draft), output_layer=draft.last
    )


def _factory(model: nn.Sequential, draft: Draft) -> Factory:
    template = _skeleton(model)
    trains = {name: tensor.requires_grad for name, tensor in model.named_parameters()}

    def rebuild(branch: Mapping[str, Any], prefix: str, spec: ModuleSpec) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for key, inner in branch.items():
            path = f"{prefix}{key}"
            if inner is not None:
                layers[key] = rebuild(inner, f"{path}.", spec)
                continue
            if path in draft.scaled:
                axis = draft.scaled[path]
                _insert(layers, f"{key}_scaler", Scaler(spec.rate(axis)))
            layers[key] = draft.makers[path](spec.widths)
        return nn.Sequential(layers)

    def factory(spec: ModuleSpec) -> nn.Module:
        module = rebuild(template, "", spec)
        for name, tensor in module.named_parameters():
            tensor.requires_grad_(trains[name])
        return module

    return factory


def _insert(layers: OrderedDict[str, nn.Module], key: str, scaler: Scaler) -> None:
    """Put the Scaler last, but before a ReLU that is last: relu(x / r) = relu(x) / r to the last bit, and the other
    order makes backpropagation keep both results, half as much again for a convolutional slice.
    """
    if layers and isinstance(next(reversed(layers.values())), nn.ReLU):
        name, relu = layers.popitem()
        layers[key] = scaler
        layers[name] = relu
    else:
        layers[key] = scaler


def _skeleton(model: nn.Sequential) -> dict[str, Any]:
    """Names only, so that the factory does not keep the owner's weights alive."""
    return {key: _skeleton(child) if is_sequential(child) else None for key, child in _children(model)}


def _leaves(model: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for key, child in _children(model):
        if is_sequential(child):
            yield from _leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child


def _children(model: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """Every place, also where one activation stands in two of them; `named_children` would name it once."""
    return [(key, child) for key, child in model._modules.items() if child is not None]


def is_sequential(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it runs its children one after the other and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _run(path: str, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The full layer's output, for its shape; on a copy, so that the owner's module stays as it is."""
    try:
        with torch.no_grad():
            return torch.as_tensor(copy.deepcopy(layer).eval()(x))
    except Exception as error:
        raise TaskError(
            f"{path}: {type(layer).__name__} cannot take an input of shape {tuple(x.shape)}: {error}"
        ) from error


def _check_leaves(leaves: list[tuple[str, nn.Module]]) -> None:
    seen: dict[int, str] = {}
    for path, layer in leaves:
        kind = type(layer).__name__
        if not is_known(layer):
            raise TaskError(
                f"{path}: {kind} cannot be sliced automatically, because its axes are not known; "
                f"build it from Linear, Conv1d/2d, GroupNorm, LayerNorm, pooling, Flatten and activations, "
                f"or give the task a Blueprint"
            )
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise TaskError(
                f"{path}: {kind} carries hooks, which a slice would lose; remove them (weight_norm adds one)"
            )
        for tensor in layer.parameters():
            if id(tensor) in seen:
                raise TaskError(f"{path}: shares its parameters with {seen[id(tensor)]}; give it its own")
            seen[id(tensor)] = path
    if not any(isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) for _, layer in leaves):
        raise TaskError("model: there is no Linear or Conv layer to train")

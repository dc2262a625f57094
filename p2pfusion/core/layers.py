"""Layer by layer: which axis goes in, which comes out, and how the narrow layer is made.

`sequential` walks a model and calls `describe` for each layer with the `Flow` that reaches it. With the flow goes which
dimension is sliced, along which axis, and how many entries one index spans (behind a flatten: height x width). A rule
adds its layer's parameters to the `Draft`, leaves a maker for the narrow layer, and says what flows on; or it raises
`TaskError` with the layer's name, the reason and the fix.

Knows single layers only, neither the model's order nor values nor rates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from p2pfusion.core.blueprint import Dim, Init, Parameter
from p2pfusion.errors import TaskError

Widths = Mapping[str, int]
Maker = Callable[[Widths], nn.Module]

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip
_POOLING = {
    nn.AvgPool1d: 1, nn.MaxPool1d: 1, nn.AdaptiveAvgPool1d: 1, nn.AdaptiveMaxPool1d: 1,
    nn.AvgPool2d: 2, nn.MaxPool2d: 2, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveMaxPool2d: 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flow:
    """What comes out of a layer: the full shape with its batch, and the sliced dimension, if any."""

    shape: tuple[int, ...]
    axis: str | None = None
    place: int = 0
    span: int = 1

    def dim(self, place: int) -> Dim:
        """The declaration of that dimension."""
        sliced = self.axis is not None and place == self.place
        return Dim(self.axis, self.span) if sliced else Dim(None, self.shape[place])


@dataclass(slots=True)
class Draft:
    """The blueprint while it grows."""

    last: str
    units: dict[str, list[int]] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    makers: dict[str, Maker] = field(default_factory=dict)
    scaled: dict[str, str] = field(default_factory=dict)

    def declare(
        self, path: str, layer: nn.Module, dims: Mapping[str, tuple[Dim, ...]], inits: Mapping[str, Init]
    ) -> None:
        """Add the layer's parameters, in the layer's own order, to the current block."""
        if not self.blocks:
            self.blocks.append(path)
        for name, _ in layer.named_parameters():
            self.parameters.append(Parameter(f"{path}.{name}", self.blocks[-1], dims[name], inits[name]))


def describe(draft: Draft, path: str, layer: nn.Module, flow: Flow) -> Flow:
    """Add one layer to the draft; returns what flows on, still with the shape that came in. Raises `TaskError`."""
    return _RULES[type(layer)](draft, path, layer, flow)


def empty_layer(kind: type[nn.Module], *sizes: int, **options: Any) -> nn.Module:
    """A layer without initial values: genesis or a slice fills it, and torch's global generator stays untouched.

    For layers that have parameters only, no buffers.
    """
    if kind is nn.Embedding:  # its normal_ on a meta tensor imports torch's compiler (3 s of every start)
        table: nn.Module = nn.Embedding.from_pretrained(torch.empty(sizes), freeze=False, **options)  # type: ignore[no-untyped-call]
        return table
    made = kind(*sizes, device="meta", **options)
    for name, value in list(made.named_parameters(recurse=False)):
        # Not torch's skip_init: its empty_like of a meta tensor imports sympy (0.4 s of every start).
        setattr(made, name, nn.Parameter(torch.empty(value.shape, dtype=value.dtype)))
    return made


def is_known(layer: nn.Module) -> bool:
    """Whether there is a rule for exactly this type of layer."""
    return type(layer) in _RULES


def _linear(draft: Draft, path: str, layer: nn.Linear, flow: Flow) -> Flow:
    place = len(flow.shape) - 1
    if flow.axis is not None and flow.place != place:
        raise TaskError(
            f"{path}: Linear acts on another dimension than the sliced channels; put nn.Flatten() before it"
        )
    bias = layer.bias is not None
    out = _open_axis(draft, path, layer, flow, layer.out_features)
    into = flow.dim(place)
    _declare_weights(draft, path, layer, (out, into), (into,))
    draft.makers[path] = lambda widths: empty_layer(nn.Linear, _width(into, widths), _width(out, widths), bias=bias)
    return Flow(flow.shape, out.axis, place)


def _conv(draft: Draft, path: str, layer: nn.Conv1d | nn.Conv2d, flow: Flow) -> Flow:
    if layer.groups != 1:
        raise TaskError(
            f"{path}: grouped convolution ties inputs to outputs; use groups=1, or give the task a Blueprint"
        )
    if flow.axis is not None and flow.place != 1:
        raise TaskError(f"{path}: convolution over a sliced feature dimension; put it before the Linear layers")
    kind, bias = type(layer), layer.bias is not None
    options = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    out = _open_axis(draft, path, layer, flow, layer.out_channels)
    into = flow.dim(1)
    kernel = tuple(Dim(None, size) for size in layer.kernel_size)
    _declare_weights(draft, path, layer, (out, into, *kernel), (into, *kernel))
    draft.makers[path] = lambda widths: empty_layer(
        kind, _width(into, widths), _width(out, widths), bias=bias, **options
    )
    return Flow(flow.shape, out.axis, 1)


def _open_axis(draft: Draft, path: str, layer: nn.Module, flow: Flow, size: int) -> Dim:
    """Begin a block, note the Scaler, and declare the outputs: an axis of their own, unless the layer is the last."""
    draft.blocks.append(path)
    if flow.axis is not None:
        draft.scaled[path] = flow.axis
    if path == draft.last:
        return Dim(None, size)
    draft.units[f"{path}.out"] = [size, 1]
    return Dim(f"{path}.out")


def _declare_weights(draft: Draft, path: str, layer: nn.Module, dims: tuple[Dim, ...], fan_in: tuple[Dim, ...]) -> None:
    init = Init(fan_in)
    draft.declare(path, layer, {"weight": dims, "bias": dims[:1]}, {"weight": init, "bias": init})


def _group_norm(draft: Draft, path: str, layer: nn.GroupNorm, flow: Flow) -> Flow:
    groups, options = layer.num_groups, dict[str, Any](eps=layer.eps, affine=layer.affine)
    per_group = layer.num_channels // groups
    dim = flow.dim(1)
    if dim.axis is not None and groups > 1:
        if per_group % dim.size:
            raise TaskError(
                f"{path}: a group holds a part of a channel; use a GroupNorm whose groups are whole channels"
            )
        axis = draft.units[dim.axis]
        axis[1] = math.lcm(axis[1], per_group // dim.size)
    _declare_norm(draft, path, layer, (dim,))

    def make(widths: Widths) -> nn.Module:
        channels = _width(dim, widths)
        return nn.GroupNorm(1 if groups == 1 else channels // per_group, channels, **options)

    draft.makers[path] = make
    return flow


def _layer_norm(draft: Draft, path: str, layer: nn.LayerNorm, flow: Flow) -> Flow:
    first = len(flow.shape) - len(layer.normalized_shape)
    dims = tuple(flow.dim(place) for place in range(first, len(flow.shape)))
    options: dict[str, Any] = {"eps": layer.eps, "elementwise_affine": layer.elementwise_affine}
    options["bias"] = layer.bias is not None
    _declare_norm(draft, path, layer, dims)
    draft.makers[path] = lambda widths: nn.LayerNorm([_width(dim, widths) for dim in dims], **options)
    return flow


def _declare_norm(draft: Draft, path: str, layer: nn.Module, dims: tuple[Dim, ...]) -> None:
    draft.declare(path, layer, {"weight": dims, "bias": dims}, {"weight": Init(None, 1.0), "bias": Init(None, 0.0)})


def _flatten(draft: Draft, path: str, layer: nn.Flatten, flow: Flow) -> Flow:
    count = len(flow.shape)
    start, end = layer.start_dim % count, layer.end_dim % count
    _keep(draft, path, layer, flow)
    if start == 0:
        raise TaskError(f"{path}: Flatten would merge the batch into the features; use start_dim=1")
    if flow.axis is None or flow.place < start:
        return flow
    if flow.place > end:
        return replace(flow, place=flow.place - (end - start))
    if flow.place > start:
        raise TaskError(f"{path}: Flatten would interleave the sliced dimension; put the channels first")
    return replace(flow, span=flow.span * math.prod(flow.shape[start + 1 : end + 1]))


def _pool(draft: Draft, path: str, layer: nn.Module, flow: Flow) -> Flow:
    if flow.axis is not None and flow.place >= len(flow.shape) - _POOLING[type(layer)]:
        raise TaskError(
            f"{path}: {type(layer).__name__} would pool over the sliced dimension; put it before the Linear"
        )
    return _keep(draft, path, layer, flow)


def _softmax(draft: Draft, path: str, layer: nn.Softmax | nn.LogSoftmax, flow: Flow) -> Flow:
    if flow.axis is not None and (layer.dim is None or layer.dim % len(flow.shape) == flow.place):
        raise TaskError(
            f"{path}: a softmax over sliced features is not the full one; use it behind the last layer only"
        )
    return _keep(draft, path, layer, flow)


def _keep(draft: Draft, path: str, layer: nn.Module, flow: Flow) -> Flow:
    """A layer without parameters whose result does not depend on which channels are there."""
    own = copy.deepcopy(layer)
    draft.makers[path] = lambda widths: copy.deepcopy(own)
    return flow


def _width(dim: Dim, widths: Widths) -> int:
    return dim.size if dim.axis is None else widths[dim.axis] * dim.size


_RULES: dict[type[nn.Module], Callable[[Draft, str, Any, Flow], Flow]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: _flatten,
    nn.Softmax: _softmax,
    nn.LogSoftmax: _softmax,
    **dict.fromkeys(_POOLING, _pool),
    **dict.fromkeys(_ELEMENTWISE, _keep),
}

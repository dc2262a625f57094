"""Networks declared by hand: a multi-layer perceptron, residual convolutional networks; `transformers` has the rest.

The declarations are plain data; torch is loaded by `networks` only when one is built, so a simulated swarm of many
hosts can describe, slice and fold these models without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, ModuleSpec, Parameter

if TYPE_CHECKING:
    from torch import nn

ONES, ZEROS = Init(None, 1.0), Init(None, 0.0)
"""How a normalisation's weight and bias start."""


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> Blueprint:
    """Linear layers with ReLU between; input (batch, inputs), output (batch, outputs). One axis per hidden layer."""
    axes = tuple(Axis(f"hidden{number}", size) for number, size in enumerate(hidden, 1))
    names = [*(axis.name for axis in axes), "out"]
    into = [Dim(None, inputs), *(Dim(axis.name) for axis in axes)]
    out = [*into[1:], Dim(None, outputs)]
    parameters = tuple(
        parameter
        for place, name in enumerate(names)
        for parameter in affine(name, name, (out[place], into[place]), Init((into[place],)))
    )

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.networks import Mlp

        kept = [spec.widths[axis.name] for axis in axes]
        return Mlp(names, [inputs, *kept, outputs], [1.0, *(spec.rate(axis.name) for axis in axes)])

    return Blueprint(tuple(names), axes, parameters, factory, output_layer="out")


def residual_cnn(
    channels: int,
    widths: Sequence[int],
    outputs: int,
    *,
    blocks_per_stage: int = 2,
    groups: int = 8,
    stem_stride: int = 1,
) -> Blueprint:
    """A pre-activation residual network with GroupNorm for images (batch, channels, height, width).

    Stage s has `widths[s]` channels and, but for the first, half the resolution of the one before. A stage's residual
    stream is one axis, every inner convolution another, because whatever is added must keep the same channels. Axes
    move in whole groups (`width / groups` channels). `stem_stride` 2 halves the resolution at once, at a quarter of
    the work. Source of the slicing rules: PAPERS.md 1.4.
    """
    if any(width % groups for width in widths):
        raise ValueError(f"widths {tuple(widths)}: each must be divisible by groups = {groups}")
    axes: list[Axis] = []
    parameters = [_kernel("stem.conv", "stem", Dim("stage0"), Dim(None, channels), 3)]
    blocks = ["stem"]
    for stage, width in enumerate(widths):
        axes.append(Axis(f"stage{stage}", width, width // groups))
        for number in range(blocks_per_stage):
            name = f"stage{stage}_{number}"
            axes.append(Axis(f"{name}.inner", width, width // groups))
            blocks.append(name)
            into = f"stage{stage - 1}" if stage and not number else f"stage{stage}"
            parameters += _residual(name, into, f"{name}.inner", f"stage{stage}")
    stream = Dim(f"stage{len(widths) - 1}")
    blocks.append("head")
    parameters += affine("head.norm", "head", (stream,), ONES, ZEROS)
    parameters += affine("head.linear", "head", (Dim(None, outputs), stream), Init((stream,)))

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.networks import ResidualCnn

        units = {axis.name: axis.unit for axis in axes}
        return ResidualCnn((channels, outputs), (len(widths), blocks_per_stage), units, spec, stem_stride)

    return Blueprint(tuple(blocks), tuple(axes), tuple(parameters), factory, output_layer="head.linear")


def resnet18(
    channels: int = 3,
    outputs: int = 10,
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    groups: int = 8,
    stem_stride: int = 1,
) -> Blueprint:
    """HeteroFL's pre-activation ResNet-18 for small images, with GroupNorm: four stages of two blocks, 3x3 stem.

    Input (batch, channels, height, width), output (batch, outputs). At 3 channels, 10 outputs and full widths it has
    11,172,170 parameters. A rate is met exactly where it is a multiple of 1 / groups: 16 groups for HeteroFL's
    narrowest width 1/16. A slice keeps whole groups of the full network's size; HeteroFL's own GroupNorm keeps four
    groups at every width. Source: PAPERS.md 1.9 and 4.1.
    """
    return residual_cnn(channels, widths, outputs, blocks_per_stage=2, groups=groups, stem_stride=stem_stride)


def _residual(name: str, into: str, inner: str, out: str) -> list[Parameter]:
    """norm, conv, norm, conv, and a 1x1 shortcut where the stream changes; in the order the module registers them."""
    parameters = [
        *affine(f"{name}.norm1", name, (Dim(into),), ONES, ZEROS),
        _kernel(f"{name}.conv1", name, Dim(inner), Dim(into), 3),
        *affine(f"{name}.norm2", name, (Dim(inner),), ONES, ZEROS),
        _kernel(f"{name}.conv2", name, Dim(out), Dim(inner), 3),
    ]
    if into != out:
        parameters.append(_kernel(f"{name}.shortcut", name, Dim(out), Dim(into), 1))
    return parameters


def affine(name: str, block: str, dims: tuple[Dim, ...], weight: Init, bias: Init | None = None) -> list[Parameter]:
    """Weight and bias of the Linear or normalisation at path `name`; a Linear's bias starts like its weight."""
    return [
        Parameter(f"{name}.weight", block, dims, weight),
        Parameter(f"{name}.bias", block, dims[:1], weight if bias is None else bias),
    ]


def _kernel(name: str, block: str, out: Dim, into: Dim, size: int) -> Parameter:
    kernel = (Dim(None, size), Dim(None, size))
    return Parameter(f"{name}.weight", block, (out, into, *kernel), Init((into, *kernel)))

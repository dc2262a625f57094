"""Networks declared by hand: a multi-layer perceptron, residual convolutional networks; `transformers` has the rest.

The declarations are plain data; torch is loaded by `networks` only when one is built, so a simulated swarm of many
hosts can describe, slice and fold these models without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, ModuleSpec, Parameter
from p2pfusion.core.exits import ends_of, heads_behind

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
    exits: int = 0,
) -> Blueprint:
    """A pre-activation residual network with GroupNorm for images (batch, channels, height, width).

    Stage s has `widths[s]` channels and, but for the first, half the resolution of the one before. A stage's residual
    stream is one axis, every inner convolution another, because whatever is added must keep the same channels. Axes
    move in whole groups (`width / groups` channels). `stem_stride` 2 halves the resolution at once, at a quarter of
    the work. Source of the slicing rules: PAPERS.md 1.4.

    `exits`: places where it can answer, its end among them, after equal parts of the residual blocks. Then streams are
    whole, and the outputs of each second convolution an axis instead (PAPERS.md 2.2, 2.3). 0: its end only. Raises
    `ValueError` for groups that do not divide a width, or more exits than residual blocks.
    """
    if any(width % groups for width in widths):
        raise ValueError(f"widths {tuple(widths)}: each must be divisible by groups = {groups}")
    stages = [stage for stage in range(len(widths)) for _ in range(blocks_per_stage)]
    names = [f"stage{stage}_{place % blocks_per_stage}" for place, stage in enumerate(stages)]
    streams = [Dim(None, width) if exits else Dim(f"stage{stage}") for stage, width in enumerate(widths)]
    axes: list[Axis] = []
    parameters = [_kernel("stem.conv", "stem", streams[0], Dim(None, channels), 3)]
    for place, (name, stage) in enumerate(zip(names, stages, strict=True)):
        width, unit = widths[stage], widths[stage] // groups
        if not exits and not place % blocks_per_stage:
            axes.append(Axis(f"stage{stage}", width, unit))
        axes.append(Axis(f"{name}.inner", width, unit))
        if exits:
            axes.append(Axis(f"{name}.out", width, unit))
        into = stages[place - 1] if place else stage
        added = Dim(f"{name}.out") if exits else streams[stage]
        parameters += _residual(name, streams[into], (f"{name}.inner", added), streams[stage], is_new=into != stage)
    heads = heads_behind(len(names), exits)
    for head, depth in heads.items():
        stream = streams[stages[depth - 1]]
        parameters += affine(f"{head}.norm", head, (stream,), ONES, ZEROS)
        parameters += affine(f"{head}.linear", head, (Dim(None, outputs), stream), Init((stream,)))

    def factory(spec: ModuleSpec) -> nn.Module:
        from p2pfusion.zoo.networks import Depth, ResidualCnn

        units = {f"stage{stage}": width // groups for stage, width in enumerate(widths)}
        units.update({axis.name: axis.unit for axis in axes})
        sizes = {f"stage{stage}": width for stage, width in enumerate(widths)} if exits else {}
        return ResidualCnn(
            (channels, outputs), Depth(tuple(names), tuple(stages), heads), units, spec, sizes, stem_stride
        )

    blocks, ends = ("stem", *names, *heads), ends_of("stem", names, exits)
    return Blueprint(blocks, tuple(axes), tuple(parameters), factory, output_layer="head.linear", exits=ends)


def resnet18(
    channels: int = 3,
    outputs: int = 10,
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    groups: int = 8,
    stem_stride: int = 1,
    exits: int = 0,
) -> Blueprint:
    """HeteroFL's pre-activation ResNet-18 for small images, with GroupNorm: four stages of two blocks, 3x3 stem.

    Input (batch, channels, height, width), output (batch, outputs). At 3 channels, 10 outputs and full widths it has
    11,172,170 parameters. A rate is met exactly where it is a multiple of 1 / groups: 16 groups for HeteroFL's
    narrowest width 1/16. A slice keeps whole groups of the full network's size; HeteroFL's own GroupNorm keeps four
    groups at every width. Source: PAPERS.md 1.9 and 4.1. With 4 `exits` it can answer after every stage.
    """
    return residual_cnn(
        channels, widths, outputs, blocks_per_stage=2, groups=groups, stem_stride=stem_stride, exits=exits
    )


def _residual(name: str, into: Dim, made: tuple[str, Dim], stream: Dim, *, is_new: bool) -> list[Parameter]:
    """norm, conv, norm, conv, and a 1x1 shortcut where the stream is new; in the order the module registers them.

    `made`: the axis inside, and the dimension of what is added to the stream.
    """
    inner, added = Dim(made[0]), made[1]
    parameters = [
        *affine(f"{name}.norm1", name, (into,), ONES, ZEROS),
        _kernel(f"{name}.conv1", name, inner, into, 3),
        *affine(f"{name}.norm2", name, (inner,), ONES, ZEROS),
        _kernel(f"{name}.conv2", name, added, inner, 3),
    ]
    if is_new:
        parameters.append(_kernel(f"{name}.shortcut", name, stream, into, 1))
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

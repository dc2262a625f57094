"""The torch modules behind `blueprints`: width-parametric, with a Scaler wherever a layer's inputs are sliced.

They take widths and build; which width somebody gets, and why, is not known here. Parameters are not initialised:
genesis or a slice fills them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import ModuleSpec
from p2pfusion.core.layers import empty_layer
from p2pfusion.core.scaler import Scaler
from p2pfusion.zoo.streams import Added, Answering, whole_streams


class Mlp(nn.Sequential):
    """Linear, Scaler, ReLU for every hidden layer (`ResidualBlock` says why in this order), then Linear.

    `sizes` has one more entry than `names`, `rates` as many: the rate of what comes in.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int], rates: Sequence[float]) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for place, name in enumerate(names):
            if place:
                layers[f"scaler{place}"] = Scaler(rates[place])
                layers[f"relu{place}"] = nn.ReLU()
            layers[name] = empty_layer(nn.Linear, sizes[place], sizes[place + 1])
        super().__init__(layers)


class _Sizes:
    """Kept widths, rates and group counts per axis."""

    def __init__(self, units: Mapping[str, int], spec: ModuleSpec) -> None:
        self._units, self._spec, self._kept = units, spec, spec.widths

    def width(self, axis: str) -> int:
        return self._kept[axis]

    def scaler(self, axis: str) -> Scaler:
        return Scaler(self._spec.rate(axis))

    def norm(self, axis: str) -> nn.GroupNorm:
        return nn.GroupNorm(self._kept[axis] // self._units[axis], self._kept[axis])

    def conv(self, into: str, out: str, size: int, stride: int) -> nn.Module:
        return _conv(self._kept[into], self._kept[out], size, stride)

    def added(self, axis: str, stream: str) -> Added:
        return Added(self._spec, axis, self._kept[stream], dim=1)


def _conv(into: int, out: int, size: int, stride: int) -> nn.Module:
    return empty_layer(nn.Conv2d, into, out, size, stride=stride, padding=size // 2, bias=False)


class ResidualBlock(nn.Module):
    """y = shortcut(x) + conv2(relu(norm2(conv1(relu(norm1(x)))))).

    The Scalers stand before the ReLU, not right before the convolution. relu(x / r) = relu(x) / r to the last bit, but
    this way backpropagation keeps one activation instead of two: half as much again for a slice, measured.
    """

    def __init__(self, sizes: _Sizes, name: str, streams: tuple[str, str], stride: int) -> None:
        super().__init__()
        (into, out), inner = streams, f"{name}.inner"
        self.added = sizes.added(f"{name}.out", out)
        self.norm1 = sizes.norm(into)
        self.scaler1 = sizes.scaler(into)
        self.conv1 = sizes.conv(into, inner, 3, stride)
        self.norm2 = sizes.norm(inner)
        self.scaler2 = sizes.scaler(inner)
        self.conv2 = _conv(sizes.width(inner), self.added.channels, 3, 1)
        self.shortcut = sizes.conv(into, out, 1, stride) if into != out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, into, h, w) -> (batch, out, h / stride, w / stride)."""
        opened = F.relu(self.scaler1(self.norm1(x)))
        through = x if self.shortcut is None else self.shortcut(opened)
        inner = self.conv1(opened)
        out: torch.Tensor = self.added(through, self.conv2(F.relu(self.scaler2(self.norm2(inner)))))
        return out


class Head(nn.Module):
    """Norm, ReLU, global average pooling, classifier."""

    def __init__(self, sizes: _Sizes, axis: str, outputs: int) -> None:
        super().__init__()
        self.norm = sizes.norm(axis)
        self.scaler = sizes.scaler(axis)
        self.linear = empty_layer(nn.Linear, sizes.width(axis), outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, width, h, w) -> (batch, outputs)."""
        pooled = F.relu(self.norm(x)).mean(dim=(2, 3))  # (batch, width)
        out: torch.Tensor = self.linear(self.scaler(pooled))
        return out


@dataclass(frozen=True, slots=True)
class Depth:
    """Residual blocks in order with the stage of each, and by head how many blocks stand before it."""

    names: tuple[str, ...]
    stages: tuple[int, ...]
    heads: Mapping[str, int]


class ResidualCnn(Answering):
    """Stem, the residual blocks it holds, the heads it holds: (batch, channels, height, width) -> (batch, outputs)."""

    def __init__(
        self,
        ends: tuple[int, int],
        depth: Depth,
        units: Mapping[str, int],
        spec: ModuleSpec,
        streams: Mapping[str, int],
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        sizes = _Sizes(units, whole_streams(spec, streams))
        channels, outputs = ends
        self.stem = nn.Sequential(OrderedDict(conv=_conv(channels, sizes.width("stage0"), 3, stem_stride)))
        names = [name for name in depth.names if name in spec.blocks]
        heads = {name: behind for name, behind in depth.heads.items() if name in spec.blocks}
        stage_before = 0
        for name, stage in zip(names, depth.stages, strict=False):
            stride = 2 if stage != stage_before else 1
            self.add_module(name, ResidualBlock(sizes, name, (f"stage{stage_before}", f"stage{stage}"), stride))
            stage_before = stage
        for name, behind in heads.items():
            self.add_module(name, Head(sizes, f"stage{depth.stages[behind - 1]}", outputs))
        self.arrange("stem", names, heads)

"""The layers that `transformers` has in common: their sizes, axes and parameters as plain data.

How they are sliced and how they start, `transformers` says; what they compute, `transformer_networks`. Knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pfusion.core.blueprint import Axis, Dim, Init, Parameter
from p2pfusion.core.exits import heads_behind
from p2pfusion.zoo.blueprints import ONES, ZEROS, affine

STREAM = "stream"
UNITS = 32
"""Axes without heads move in at least so many units where their size allows: every rate down to 1/32 is met, and a
scattered slice is still gathered in runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of a Transformer: width of the stream, how many, heads and hidden units of each, dropout 0..1.

    `exits`: places where it can answer, its end among them; 0: its end only, and the stream is an axis. Raises
    `ValueError` for sizes below 1, heads that do not divide the width, dropout outside 0 <= p < 1, more exits than
    layers.
    """

    width: int
    layers: int
    heads: int
    ffn: int
    dropout: float = 0.0
    exits: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.ffn) < 1:
            raise ValueError(f"{self}: every size must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width}: must be divisible by heads = {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout!r}: must be at least 0 and below 1")
        heads_behind(self.layers, self.exits)

    @property
    def head_width(self) -> int:
        """Channels of one head; the same in every slice."""
        return self.width // self.heads

    @property
    def names(self) -> list[str]:
        """One block per layer."""
        return [f"layer{number}" for number in range(self.layers)]

    @property
    def stream(self) -> Dim:
        """The residual stream: an axis, or whole where there are exits."""
        return Dim(None, self.width) if self.exits else Dim(STREAM)

    @property
    def heads_behind(self) -> dict[str, int]:
        """Block of each exit's head -> how many layers stand before it, the shallowest first, the end last."""
        return heads_behind(self.layers, self.exits)

    def axes(self) -> tuple[Axis, ...]:
        """The stream where it is one, then heads, hidden units and perhaps outputs of every layer."""
        axes = [] if self.exits else [Axis(STREAM, self.width, _unit(self.width))]
        for name in self.names:
            axes.append(Axis(f"{name}.heads", self.width, self.head_width))
            axes.append(Axis(f"{name}.ffn", self.ffn, _unit(self.ffn)))
            if self.exits:
                axes += [Axis(f"{name}.{part}", self.width, _unit(self.width)) for part in ("o", "linear2")]
        return tuple(axes)

    def parameters(self) -> list[Parameter]:
        """All layers, in the order in which the modules register them."""
        return [parameter for name in self.names for parameter in self._layer(name)]

    def _layer(self, name: str) -> list[Parameter]:
        heads, hidden, depth = Dim(f"{name}.heads"), Dim(f"{name}.ffn"), Dim(None, 2 * self.layers)
        stream = self.stream
        attended, fed = [Dim(f"{name}.{part}") if self.exits else stream for part in ("o", "linear2")]
        parameters = norm(f"{name}.norm1", name, stream)
        for part in "qkv":
            parameters += affine(f"{name}.attention.{part}", name, (heads, stream), Init((stream,)))
        parameters += affine(f"{name}.attention.o", name, (attended, heads), Init((heads, depth)))
        parameters += norm(f"{name}.norm2", name, stream)
        parameters += affine(f"{name}.ffn.linear1", name, (hidden, stream), Init((stream,)))
        parameters += affine(f"{name}.ffn.linear2", name, (fed, hidden), Init((hidden, depth)))
        return parameters


def norm(name: str, block: str, stream: Dim) -> list[Parameter]:
    """A LayerNorm over the stream."""
    return affine(name, block, (stream,), ONES, ZEROS)


def _unit(size: int) -> int:
    """The largest unit that divides `size` and leaves at least `UNITS` of them; 1 where there is none."""
    return max((unit for unit in range(1, size // UNITS + 1) if size % unit == 0), default=1)

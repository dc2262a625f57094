"""Residual streams that no axis slices: what a slice's layer says is added to the channels where it belongs.

So slices of different depths and widths compose: a layer that keeps some of its outputs leaves the other channels of
the stream as they were, exactly as one whose other outputs are zero (PAPERS.md 2.3). Besides, a trunk that may answer
before its end. Knows no layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from p2pfusion.core.blueprint import ModuleSpec
from p2pfusion.errors import TaskError


class Added(nn.Module):
    """x + y, where y holds the kept channels of the axis only; all of them where there is no such axis, or it is whole.

    `size`: channels of x; `dim`: where they stand.
    """

    def __init__(self, spec: ModuleSpec, axis: str, size: int, dim: int = -1) -> None:
        super().__init__()
        ranges = spec.kept.get(axis, ((0, size),))
        self.channels = sum(stop - start for start, stop in ranges)
        self._dim = dim
        places = None if self.channels == size else torch.cat([torch.arange(*one) for one in ranges])
        self._places: torch.Tensor | None
        self.register_buffer("_places", places, persistent=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A new tensor like x."""
        if self._places is None:
            return x + y
        # Under autocast y may be narrower than the stream. index_add was 3 times as fast as scattering into zeros.
        return x.index_add(self._dim, self._places, y.to(x.dtype))


def whole_streams(spec: ModuleSpec, sizes: Mapping[str, int]) -> ModuleSpec:
    """With these streams, by name, at their whole width: the same network then stands on axes or on fixed sizes."""
    return replace(spec, widths={**spec.widths, **sizes}, full={**spec.full, **sizes})


class Answering(nn.Module):
    """What comes in goes through an entry and layers, one after the other; heads read what some of them say.

    Whoever derives adds the children and calls `arrange`.
    """

    def arrange(self, entry: str, layers: Iterable[str], heads: Mapping[str, int]) -> None:
        """Names of children; each head with the number of layers before it, the shallowest first."""
        self._entry, self._layers, self._heads = entry, tuple(layers), dict(heads)

    def chain(self) -> list[str]:
        """The modules that run one after the other; a chain of hops is cut between them (`core.stages`).

        Raises `TaskError` where the network answers in several places.
        """
        if len(self._heads) > 1:
            raise TaskError("model: a network with exits is no chain of parts; make it without exits")
        return [self._entry, *self._layers, *self._heads]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the deepest head says."""
        return self._said(x, tuple(self._heads)[-1:])[0]

    def answers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What every head says, the shallowest first."""
        return self._said(x, tuple(self._heads))

    def _said(self, x: torch.Tensor, heads: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
        done, said = 0, []
        x = self.get_submodule(self._entry)(x)
        for head in heads:
            for name in self._layers[done : self._heads[head]]:
                x = self.get_submodule(name)(x)
            done = self._heads[head]
            said.append(self.get_submodule(head)(x))
        return tuple(said)

"""What a checkpoint says of the networks in its model: which there are, how good they were, where their values stand.

A node writes it beside the model; `export` reads it and needs neither the task nor torch to take one of them out. A
network is told by its cuts: for every parameter it has, the ranges of indices it keeps in each dimension. It knows no
algorithm; names are what the algorithm calls its networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p2pfusion.algorithms.base import Evaluation, Product
from p2pfusion.core.blueprint import Blueprint, Dim
from p2pfusion.core.submodel import SubModel, Vector, layout
from p2pfusion.seams import Part

PART = "networks"
"""Its name among the parts of a checkpoint; one that was saved before there were any has none."""

Ranges = Sequence[tuple[int, int]]
"""Half-open ranges of indices of one dimension, ascending."""
Cuts = Mapping[str, Sequence[Ranges]]
"""Parameter name -> ranges by dimension; what is not listed is no part of the network."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What validation data said last, and of which sealed round (-1: never; without such data it says nothing)."""

    evaluation: Evaluation | None = None
    round: int = -1

    @property
    def accuracy(self) -> float | None:
        """Of the network to use."""
        return None if self.evaluation is None else self.evaluation.accuracy

    @property
    def served(self) -> str | None:
        """The network to use, where there are several."""
        return None if self.evaluation is None else self.evaluation.served

    @property
    def widths(self) -> Mapping[str, float]:
        """Of all networks in the model, where it holds several."""
        return {} if self.evaluation is None else self.evaluation.widths


@dataclass(frozen=True, slots=True)
class Contents:
    """What a node knows of its model: the networks in it, and how good they were."""

    product: Product
    measured: Measured = Measured()


@dataclass(frozen=True, slots=True)
class Network:
    """One network in a model: where it stands, and its accuracy when it was measured last."""

    cuts: Cuts
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """What a checkpoint lists. `networks`, narrowest first, are empty where there is only the whole model.

    `accuracy`: of `served` or the whole model, in round `round`; None: it was never measured. `fallback`: the network
    to take then; None also where an older version wrote the list.
    """

    networks: Mapping[str, Network] = field(default_factory=dict)
    served: str | None = None
    accuracy: float | None = None
    round: int = -1
    origin: Mapping[str, str] = field(default_factory=dict)
    fallback: str | None = None


def pack(blueprint: Blueprint, contents: Contents) -> Part:
    """As bytes (executor)."""
    product, measured = contents.product, contents.measured
    text = json.dumps(
        {
            "origin": dict(product.origin),
            "round": measured.round,
            "accuracy": measured.accuracy,
            "served": measured.served,
            "fallback": product.fallback,
            "networks": {
                name: {"accuracy": _accuracy(name, contents), "cuts": _cuts(blueprint, network)}
                for name, network in product.networks.items()
            },
        },
        separators=(",", ":"),
    )
    return np.frombuffer(text.encode(), np.uint8)


def unpack(part: Part | None) -> Listed:
    """The inverse; nothing is listed where there is no such part. Raises `ValueError` for what `pack` did not write."""
    if part is None:
        return Listed()
    try:
        told = json.loads(part.tobytes())
        return Listed(
            networks={str(name): _network(one) for name, one in told["networks"].items()},
            served=told["served"],
            accuracy=_number(told["accuracy"]),
            round=int(told["round"]),
            origin={str(name): str(value) for name, value in told["origin"].items()},
            fallback=told.get("fallback"),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"no list of networks: {error}") from error


def taken(model: Mapping[str, Vector], cuts: Cuts) -> dict[str, Vector]:
    """The network's parameters out of the whole model's arrays by name, in the model's order; copies.

    Raises `ValueError` for cuts that are not within the model.
    """
    if unknown := [name for name in cuts if name not in model]:
        raise ValueError(f"a network has the parameter {unknown[0]!r}, the model has not")
    return {name: _cut(name, array, cuts[name]) for name, array in model.items() if name in cuts}


def _cut(name: str, array: Vector, ranges: Sequence[Ranges]) -> Vector:
    sizes = array.shape
    if len(ranges) != len(sizes) or any(
        not 0 <= start < stop <= size for dim, size in zip(ranges, sizes, strict=True) for start, stop in dim
    ):
        raise ValueError(f"the cuts of {name!r} are not within {sizes}")
    if not sizes:
        return array.copy()
    cut: Vector = array[np.ix_(*(np.concatenate([np.arange(a, b) for a, b in dim]) for dim in ranges))]
    return cut


def _cuts(blueprint: Blueprint, network: SubModel) -> dict[str, list[list[tuple[int, int]]]]:
    held = layout(blueprint, network)
    return {
        parameter.name: [_ranges(blueprint, network, dim) for dim in parameter.dims]
        for parameter in blueprint.parameters
        if parameter.name in held
    }


def _ranges(blueprint: Blueprint, network: SubModel, dim: Dim) -> list[tuple[int, int]]:
    if dim.axis is None:
        return [(0, dim.size)]
    return [(start * dim.size, stop * dim.size) for start, stop in network.ranges(blueprint, dim.axis)]


def _accuracy(name: str, contents: Contents) -> float | None:
    """Of one network. Where there is one only, what was measured is its."""
    measured = contents.measured
    return measured.widths.get(name, measured.accuracy if len(contents.product.networks) == 1 else None)


def _network(told: Mapping[str, Any]) -> Network:
    cuts = {
        str(name): [[(int(start), int(stop)) for start, stop in dim] for dim in dims]
        for name, dims in told["cuts"].items()
    }
    return Network(cuts, _number(told["accuracy"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)

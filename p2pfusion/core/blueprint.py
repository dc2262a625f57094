"""`Blueprint`: one network described by named blocks and axes, so that nothing else ever parses a parameter's name.

Every dimension of every parameter either has a fixed extent or belongs to a named `Axis`; dimensions that must be
sliced together (a layer's outputs, the next layer's inputs, a whole residual stream) share one axis. From that single
declaration follow the flat representation, every sub-model, the narrow network that trains it, the fingerprint that
makes two runs the same, and the small model it is compared with. Precedent: git-re-basin's `PermutationSpec`.

The `factory` is the only part that knows torch; the description itself is plain data. The blueprint does not know
values, peers, or which slice anybody takes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from blake3 import blake3

from p2pfusion.config import AXES_MAX, BLOCKS_MAX
from p2pfusion.core import exits as ends
from p2pfusion.core.exits import Exits
from p2pfusion.core.overlaps import Common, Ranges
from p2pfusion.core.submodel import Layout, SubModel, layout
from p2pfusion.errors import TaskError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """What a factory is asked to build: the blocks, and by axis how many indices are kept of how many, and which."""

    blocks: tuple[str, ...]
    widths: Mapping[str, int]
    full: Mapping[str, int]
    kept: Mapping[str, Ranges] = field(default_factory=dict)
    """By axis, for networks that put what a slice's layer says back where it stands in the whole one."""

    def rate(self, axis: str) -> float:
        """Share of an axis that is kept; what a `Scaler` before a layer with these inputs divides by."""
        return self.widths[axis] / self.full[axis]


Factory = Callable[[ModuleSpec], "nn.Module"]
"""The network of that width; parameters may be uninitialised."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A named dimension. `size` counts indices; `unit` consecutive ones stay together and divide `size`."""

    name: str
    size: int
    unit: int = 1

    @property
    def units(self) -> int:
        """How many units a scheme may choose from."""
        return self.size // self.unit


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of a parameter: a fixed extent `size` (axis None), or an axis each of whose indices spans `size`.

    The span is 1 except behind a flatten, where a channel becomes height x width consecutive inputs.
    """

    axis: str | None
    size: int = 1


@dataclass(frozen=True, slots=True)
class Init:
    """How genesis fills a parameter: uniform in [-b, b), b = 1/sqrt(product of full `fan_in` extents), else `value`.

    The bound is torch's own for Linear and Conv (Kaiming uniform with a = sqrt(5)), for weights and biases alike.
    """

    fan_in: tuple[Dim, ...] | None
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor: its name in the built module, its block, its dimensions and how it starts."""

    name: str
    block: str
    dims: tuple[Dim, ...]
    init: Init


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The whole network. Two blueprints are equal when their declarations are; the factory does not count.

    Raises `TaskError` when the declarations contradict each other.
    """

    blocks: tuple[str, ...]
    axes: tuple[Axis, ...]
    parameters: tuple[Parameter, ...]
    factory: Factory = field(compare=False, repr=False)
    output_layer: str | None = field(default=None, compare=False)
    """Path of the module whose input is the network's representation of a sample, such as "head.linear"; None: unknown.
    Objectives that compare representations need it."""
    members: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    """Blocks that are a network by themselves, where the model is several side by side (`core.ensemble`). Empty: the
    factory builds all blocks or nothing."""
    exits: Exits = field(default=(), compare=False)
    """Where the network can answer; a sub-model may then be a network that ends early (`core.exits`)."""
    findings: tuple[str, ...] = field(default=(), compare=False)
    """What stays whole although a layer makes it, or untrained, and why; lines for people, of a traced module."""
    parameter_slices: Mapping[str, slice] = field(init=False, compare=False, repr=False)
    """Parameter name -> its slice of the whole model's flat vector."""
    size: int = field(init=False, compare=False, repr=False)
    """Scalars in the whole model."""
    layouts: dict[SubModel, Layout] = field(init=False, compare=False, repr=False)
    """Layouts that `submodel.layout` has worked out, bounded there."""
    commons: dict[tuple[SubModel, SubModel], Common] = field(init=False, compare=False, repr=False)
    """What pairs of sub-models have in common, as `overlaps.common` found it, bounded there."""

    def __post_init__(self) -> None:
        _check(self)
        places, start = {}, 0
        for parameter in self.parameters:
            stop = start + math.prod(self.shape(parameter))
            places[parameter.name] = slice(start, stop)
            start = stop
        object.__setattr__(self, "parameter_slices", MappingProxyType(places))
        object.__setattr__(self, "size", start)
        object.__setattr__(self, "layouts", {})
        object.__setattr__(self, "commons", {})

    @classmethod
    def from_module(cls, module: nn.Module, example: torch.Tensor) -> Blueprint:
        """Describe an ordinary module by running it on `example`, a batch of its inputs; the values do not matter.

        An `nn.Sequential` is read layer by layer; where that does not do, and for all others, a run is traced. The
        result has no `exits`, which only a declaration by hand can tell. Raises `TaskError` for what cannot be sliced,
        with name, reason and fix; batch norms and recurrent layers all at once.
        """
        # Here, since whoever only describes, folds or simulates needs no torch, and few tasks need the tracer.
        from p2pfusion.core.sequential import blueprint_of, is_sequential

        refused: TaskError | None = None
        if is_sequential(module):
            try:
                return blueprint_of(module, example)
            except TaskError as error:
                refused = error
        from p2pfusion.core.tracing import blueprint_of_module

        try:
            return blueprint_of_module(module, example)
        except TaskError as error:
            raise refused or error from None

    def axis(self, name: str) -> Axis:
        """The axis of that name. Raises `KeyError`."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(name)

    def extent(self, dim: Dim) -> int:
        """Entries of that dimension in the whole model."""
        return dim.size if dim.axis is None else self.axis(dim.axis).size * dim.size

    def shape(self, parameter: Parameter) -> tuple[int, ...]:
        """Shape of the parameter in the whole model."""
        return tuple(self.extent(dim) for dim in parameter.dims)

    def whole(self) -> SubModel:
        """The sub-model that is everything."""
        return SubModel(self.blocks)

    def build(self, sub_model: SubModel, *, scaled: bool = True) -> nn.Module:
        """The narrow, dense network of a sub-model: real savings in time and memory, never a mask. Not initialised.

        `scaled=False` makes it a network of its own: what it keeps counts as whole, so no Scaler works in it. Raises
        `ValueError` for a sub-model that is not a number of `members`, or no network that ends at one of `exits`;
        `TaskError` when the factory does not deliver the declared names and shapes.
        """
        sub_model.validate(self)
        if sub_model.blocks != tuple(block for member in self.members_in(sub_model) for block in member):
            raise ValueError("this blueprint builds whole networks; the sub-model leaves blocks out")
        widths = {axis.name: sub_model.width(self, axis.name) for axis in self.axes}
        full = {axis.name: axis.size for axis in self.axes} if scaled else widths
        kept = {axis.name: sub_model.ranges(self, axis.name) for axis in self.axes}
        module = self.factory(ModuleSpec(sub_model.blocks, widths, full, kept))
        built = [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
        declared = [(name, shape) for name, (_, shape) in layout(self, sub_model).items()]
        if built != declared:
            difference = next((pair for pair in zip(built, declared, strict=False) if pair[0] != pair[1]), None)
            what = f"{difference[0]} instead of {difference[1]}" if difference else "another number of parameters"
            raise TaskError(f"blueprint: the factory built {what}; make its names and shapes follow the declaration")
        return module

    def members_in(self, sub_model: SubModel) -> tuple[tuple[str, ...], ...]:
        """The networks whose blocks the sub-model holds whole, in order; where there are exits, one or none."""
        if self.exits:
            held_exits = ends.held_by(self.exits, sub_model.blocks)
            is_one = sub_model.blocks and sub_model.blocks == ends.network(self.exits, self.blocks, held_exits)
            return (sub_model.blocks,) if is_one else ()
        held = frozenset(sub_model.blocks)
        return tuple(member for member in self.members or (self.blocks,) if held.issuperset(member))

    def answering(self, sub_model: SubModel) -> SubModel:
        """Without the heads of all exits but its deepest: what the network's own output depends on."""
        held = ends.held_by(self.exits, sub_model.blocks)
        others = [one.head for one in held[:-1]]
        return replace(sub_model, blocks=tuple(block for block in sub_model.blocks if block not in others))

    def narrow(self, rate: float) -> Blueprint:
        """The *small* model: every axis ceil(rate * units) units wide, a network of its own (full width = its width).

        Raises `ValueError` unless 0 < rate <= 1.
        """
        axes = tuple(replace(axis, size=units_kept(rate, axis.units) * axis.unit) for axis in self.axes)
        return replace(self, axes=axes)

    def inner(self) -> Blueprint:
        """The same network, of which only what lies within a block is cut: hidden units, heads, inner channels.

        An axis that several blocks share, such as a residual stream, becomes one unit, which every slice keeps. Raises
        `TaskError` when there is no other.
        """
        places = dict.fromkeys((dim.axis, parameter.block) for parameter in self.parameters for dim in parameter.dims)
        blocks = Counter(axis for axis, _ in places)
        axes = tuple(replace(axis, unit=axis.size) if blocks[axis.name] > 1 else axis for axis in self.axes)
        if not any(axis.units > 1 for axis in axes):
            raise TaskError(
                "whole_streams: no axis lies within one block, so nothing would be left to slice; leave it out"
            )
        return replace(self, axes=axes)

    def describe(self) -> tuple[tuple[str, str], ...]:
        """(name, "shape dtype block axes") per parameter: what a 409 shows and two runs compare."""
        return tuple((parameter.name, self._line(parameter)) for parameter in self.parameters)

    def fingerprint(self) -> bytes:
        """BLAKE3 (32 bytes) of ordered names, shapes, dtype, blocks and axes (PROTOCOL.md 1)."""
        axes = [[axis.name, axis.size, axis.unit] for axis in self.axes]
        parameters = [
            [item.name, item.block, "float32", [[dim.axis, dim.size] for dim in item.dims]] for item in self.parameters
        ]
        text = json.dumps([list(self.blocks), axes, parameters], separators=(",", ":"), ensure_ascii=True)
        return blake3(text.encode()).digest()

    def _line(self, parameter: Parameter) -> str:
        shape = "x".join(str(extent) for extent in self.shape(parameter)) or "scalar"
        names = [dim.axis if dim.axis is not None else "-" for dim in parameter.dims]
        axes = [f"{name}/{self.axis(name).unit}" if name != "-" else name for name in names]
        return f"{shape} float32 {parameter.block} {','.join(axes)}"


def units_kept(rate: float, units: int) -> int:
    """min(units, max(1, ceil(rate * units))): HeteroFL's and FedRolex's window length, in units (PAPERS.md 1.2).

    A product that is whole but for the last bits (0.7 * 10) counts as whole. Raises `ValueError` unless 0 < rate <= 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate = {rate!r}: must be above 0 and at most 1")
    return min(units, max(1, math.ceil(rate * units - 1e-9)))


def _check(blueprint: Blueprint) -> None:
    blocks, axes, parameters = blueprint.blocks, blueprint.axes, blueprint.parameters
    _unique("block", blocks, BLOCKS_MAX)
    _unique("axis", tuple(axis.name for axis in axes), AXES_MAX)
    _unique("parameter", tuple(parameter.name for parameter in parameters), None)
    if not blocks or not parameters:
        raise TaskError("blueprint: a model needs at least one block and one parameter")
    for axis in axes:
        if axis.size < 1 or axis.unit < 1 or axis.size % axis.unit:
            raise TaskError(
                f"blueprint: axis {axis.name!r} has size {axis.size}, which its unit {axis.unit} must divide"
            )
    known = frozenset(axis.name for axis in axes)
    for parameter in parameters:
        if parameter.block not in blocks:
            raise TaskError(f"blueprint: parameter {parameter.name!r} names the unknown block {parameter.block!r}")
        for dim in parameter.dims + (parameter.init.fan_in or ()):
            if dim.size < 1 or (dim.axis is not None and dim.axis not in known):
                raise TaskError(f"blueprint: parameter {parameter.name!r} has the impossible dimension {dim}")
    ends.check(blueprint.exits, blocks)
    used = frozenset(dim.axis for parameter in parameters for dim in parameter.dims)
    for axis in axes:
        if axis.name not in used:
            raise TaskError(f"blueprint: no parameter has axis {axis.name!r}; remove it")


def _unique(kind: str, names: tuple[str, ...], count_max: int | None) -> None:
    if len(frozenset(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise TaskError(f"blueprint: {kind} {twice!r} is declared twice")
    if count_max is not None and len(names) > count_max:
        raise TaskError(f"blueprint: {len(names)} {kind} names are more than {count_max}; merge some")

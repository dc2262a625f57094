"""`Replay`: the narrow network of a traced module, which runs the recorded steps with the sizes of a slice.

Its parameters have the names, order and ties of the module that was traced; the steps call torch's own functions with
them. There is one list of steps for training and one for evaluation, since forward may ask which it is. Parameters are
not initialised. Knows plans and widths, not where they come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from p2pfusion.core.recording import Here, PerSample, Recording, Ref, Step, refs
from p2pfusion.core.scaler import Scaler
from p2pfusion.core.tracing_walk import Baked, Extent, Scaled

Span = tuple[str, Fraction]
"""A sliced dimension: the axis, and how many entries one index spans."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a class came to: which parts are sliced dimensions, and how wide they are now."""

    span_of: Callable[[Any], Span | None]
    widths: Mapping[str, int]
    rate: Callable[[str], float]

    def extent(self, part: Any) -> int | None:
        """Entries of that dimension in the slice; None where it is not sliced."""
        span = self.span_of(part)
        return None if span is None else int(self.widths[span[0]] * span[1])


@dataclass(frozen=True, slots=True)
class Compiled:
    """A step with its tokens resolved, and the slots that nobody needs after it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any
    frees: tuple[int, ...]


Program = tuple[list[Compiled], dict[int, str], dict[int, str], Any]


@dataclass(frozen=True, slots=True)
class Inner:
    """A step that calls a module of the network itself; by its path, so that the network stays free of cycles."""

    path: str

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.path}: a path is looked up, not called")


class OutputLayer(nn.Module):
    """The last Linear, as a module of its own: objectives hook its input, the representation."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return nn.functional.linear(x, self.weight, self.bias)


class Replay(nn.Module):
    """Runs a recording. `add` gives it one per mode, `place` its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        """Dimensions of the input that must have this size."""
        self.programs: dict[bool, Program] = {}
        """By mode: steps, parameters and constants by slot, and the result."""
        self.entry: dict[bool, int] = {}
        """The input's slot by mode, where it is not 0: in a section of a network."""
        self._freeze: Callable[[Replay], None] | None = None
        """A function, since copies of the network share it and what it knows of the traced module."""

    def place(self, path: str, tensor: nn.Parameter | None, *, as_output: bool = False) -> None:
        """Register a parameter (or a missing bias) under its dotted path."""
        module: nn.Module = self
        *parents, name = path.split(".")
        for place, part in enumerate(parents):
            if part not in module._modules:
                module.add_module(part, OutputLayer() if as_output and place == len(parents) - 1 else nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, tensor)

    def add(self, mode: bool, recording: Recording, plan: list[Step], resolved: Resolved, output: str | None) -> None:
        """The steps for `training == mode`; `output` is the path of the output layer."""
        if not mode:
            self._freeze = lambda network: network.add(True, recording, plan, resolved, output)
        steps = _settled_steps(plan, resolved, output)
        steps = _scaled(self if mode else None, steps, recording, resolved)
        constants = {}
        for slot, tensor in recording.constants.items():
            constants[slot] = f"constant{int(mode)}_{slot}"
            self.register_buffer(constants[slot], tensor, persistent=False)
        kept = frozenset(ref.slot for ref in refs(recording.result)) | recording.parameters.keys() | constants.keys()
        self.programs[mode] = (_compiled(steps, kept), dict(recording.parameters), constants, recording.result)

    def freeze(self) -> None:
        """From now on training mode runs evaluation's steps, with Scalers: no dropout, nor other chance of training."""
        assert self._freeze is not None
        self._freeze(self)

    def forward(self, x: torch.Tensor) -> Any:
        """What the traced module returns for `x`. Raises `ValueError` for an input of a size that was not traced."""
        for place, size in self.sizes.items():
            if x.shape[place] != size:
                raise ValueError(f"input {tuple(x.shape)}: dimension {place} must be {size}, as when it was described")
        steps, parameters, constants, result = self.programs[self.training]
        values: dict[int, Any] = {self.entry.get(self.training, 0): x}
        for slot, name in parameters.items():
            owner, _, leaf = name.rpartition(".")
            # Not get_parameter: it insists on an nn.Parameter, and `functional_call` puts plain tensors there.
            values[slot] = getattr(self.get_submodule(owner), leaf)
        for slot, name in constants.items():
            values[slot] = self.get_buffer(name)
        for step in steps:
            function = step.function
            if isinstance(function, Inner):
                function = self.get_submodule(function.path)
            made = function(*_filled(step.args, values, x), **_filled(step.kwargs, values, x))
            _assign(step.out, made, values)
            for slot in step.frees:
                del values[slot]
        return _filled(result, values, x)


def _filled(template: Any, values: Mapping[int, Any], x: torch.Tensor) -> Any:
    """The template with its references looked up."""
    kind = type(template)
    if kind is Ref:
        return values[template.slot]
    if kind is tuple:
        return tuple([_filled(item, values, x) for item in template])
    if kind is list:
        return [_filled(item, values, x) for item in template]
    if kind is dict:
        return {key: _filled(item, values, x) for key, item in template.items()}
    if kind is slice:
        return slice(*[_filled(item, values, x) for item in (template.start, template.stop, template.step)])
    if kind is PerSample:
        return x.shape[0] * template.factor
    return x.device if kind is Here else template


def _assign(out: Any, made: Any, values: dict[int, Any]) -> None:
    if isinstance(out, Ref):
        values[out.slot] = made
    elif isinstance(out, tuple):
        for item, value in zip(out, made, strict=True):
            _assign(item, value, values)


def _settled(value: Any, resolved: Resolved) -> Any:
    """Sizes as this slice has them."""
    match value:
        case Extent():
            extent = resolved.extent(value.part)
            return _settled(value.given, resolved) if extent is None else extent
        case Baked():
            is_sliced = any(resolved.span_of(part) is not None for part in value.parts)
            return value.value if is_sliced else value.ref
        case tuple():
            return tuple(_settled(item, resolved) for item in value)
        case list():
            return [_settled(item, resolved) for item in value]
    return value


def _settled_steps(plan: list[Step], resolved: Resolved, output: str | None) -> list[Step]:
    """The steps with sizes settled; the output layer's step calls its module."""
    steps = []
    for step in plan:
        args = tuple(_settled(item, resolved) for item in step.args)
        kwargs = {name: _settled(item, resolved) for name, item in step.kwargs.items()}
        function = step.function
        if step.name == "linear" and step.where == output:
            function, args, kwargs = Inner(output), args[:1], {}
        steps.append(Step(function, step.name, args, kwargs, step.out, step.where))
    return steps


def _scaled(network: Replay | None, steps: list[Step], recording: Recording, resolved: Resolved) -> list[Step]:
    """Scalers where layers sum over sliced inputs; one for all that read the same, before a ReLU where there is one.

    relu(x / r) = relu(x) / r to the last bit, and the other order makes backpropagation keep both results. Without a
    network (in evaluation) there are none.
    """
    if network is None:
        return [replace(step, args=tuple(_bare(item) for item in step.args)) for step in steps]
    readers = _readers(steps, recording, resolved)
    early = _early(steps, readers)
    done: list[Step] = []
    made: dict[tuple[int, str], Ref] = {}
    used = (ref.slot for step in steps for ref in refs((step.args, dict(step.kwargs), step.out)))
    fresh = itertools.count(1 + max(used))

    def scaled(ref: Ref, axis: str) -> Ref:
        key = (ref.slot, axis)
        if key not in made:
            made[key] = Ref(next(fresh))
            name = f"scaler{made[key].slot}"
            network.add_module(name, Scaler(resolved.rate(axis)))
            done.append(Step(Inner(name), "scaler", (ref,), {}, made[key], ""))
        return made[key]

    for number, step in enumerate(steps):
        args = tuple(_unmarked(item, resolved, early, scaled) for item in step.args)
        if number in early.values():
            axis = next(axis for _, axis in readers[step.out.slot] if axis is not None)
            args = (scaled(args[0], axis), *args[1:])
        done.append(replace(step, args=args))
        if step.name.endswith("_"):
            made.clear()  # what was scaled before may have changed since
    return done


def _bare(item: Any) -> Any:
    return item.ref if isinstance(item, Scaled) else item


def _unmarked(item: Any, resolved: Resolved, early: Mapping[int, int], scaled: Callable[[Ref, str], Ref]) -> Any:
    """An argument without its mark: scaled here, earlier, or not at all."""
    if not isinstance(item, Scaled):
        return item
    span = resolved.span_of(item.part)
    return item.ref if span is None or item.ref.slot in early else scaled(item.ref, span[0])


def _readers(steps: list[Step], recording: Recording, resolved: Resolved) -> dict[int, list[tuple[int, str | None]]]:
    """Who reads a value: by slot, the steps' numbers, each with the axis its reader scales by, if it does."""
    found: dict[int, list[tuple[int, str | None]]] = {}
    for number, step in enumerate(steps):
        for item in step.args:
            if isinstance(item, Scaled):
                span = resolved.span_of(item.part)
                found.setdefault(item.ref.slot, []).append((number, None if span is None else span[0]))
        for ref in refs((step.args, dict(step.kwargs))):
            found.setdefault(ref.slot, []).append((number, None))
    for ref in refs(recording.result):
        found.setdefault(ref.slot, []).append((len(steps), None))
    return found


def _early(steps: list[Step], readers: Mapping[int, list[tuple[int, str | None]]]) -> dict[int, int]:
    """ReLUs that a Scaler may come before: slot of the result -> the step's number.

    All who read the result scale it alike; and nobody else reads what the ReLU reads, which it may change in place.
    """
    found: dict[int, int] = {}
    for number, step in enumerate(steps):
        if step.name.strip("_") == "relu" and isinstance(step.out, Ref) and isinstance(step.args[0], Ref):
            axes = {axis for _, axis in readers.get(step.out.slot, [(0, None)])}
            if len(axes) == 1 and None not in axes and len(readers[step.args[0].slot]) == 1:
                found[step.out.slot] = number
    return found


def _compiled(steps: list[Step], kept: frozenset[int]) -> list[Compiled]:
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for ref in refs((step.args, dict(step.kwargs), step.out)):
            last[ref.slot] = number
    frees: dict[int, list[int]] = {}
    for slot, number in last.items():
        if slot not in kept and slot != 0:
            frees.setdefault(number, []).append(slot)
    return [
        Compiled(step.function, step.args, dict(step.kwargs), step.out, tuple(frees.get(number, ())))
        for number, step in enumerate(steps)
    ]

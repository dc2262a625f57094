"""Walks a recording: what flows where, which dimensions are one, and what a narrow network must do differently.

Each step has a rule by its function's name (`tracing_rules`, `tracing_shapes`); a function without a rule keeps whole
whatever reaches it, which is honest and never wrong. A rule says what flows out, joins classes, and puts *tokens* where
a narrow network needs other arguments: `Extent` for a size, `Scaled` for a layer's sliced input, `Baked` for a number
that forward read from a width. `replay` resolves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pfusion.core.flows import Classes, Flow, Part
from p2pfusion.core.recording import Recording, Ref, Step, refs


@dataclass(frozen=True, slots=True)
class Extent:
    """A size in an argument: the width of `part` where it is sliced, else what forward gave."""

    part: Part
    given: Any


@dataclass(frozen=True, slots=True)
class Scaled:
    """An argument that a `Scaler` comes before, because the layer sums over `part`."""

    ref: Ref
    part: Part


@dataclass(frozen=True, slots=True)
class Baked:
    """A number that forward read from widths: where one of `parts` is sliced, the full network's value."""

    ref: Ref
    parts: tuple[Part, ...]
    value: int


@dataclass(slots=True)
class Call:
    """One step while its rule looks at it; the rule may replace arguments."""

    step: Step
    args: list[Any]
    kwargs: dict[str, Any]
    numbers_are_done: bool = False
    """The rule has dealt with sizes among the arguments itself."""

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def put(self, place: int, name: str, value: Any) -> None:
        """Replace an argument where it stands."""
        if place < len(self.args):
            self.args[place] = value
        else:
            self.kwargs[name] = value


Rule = Callable[["Walk", Call], Any]
"""Returns the flow of the step's result, or a list of flows where it makes several tensors."""


@dataclass(slots=True)
class Walk:
    """What is known so far. Classes are shared by several recordings of one module; the rest is this recording's."""

    recording: Recording
    classes: Classes
    shapes_of: Mapping[str, tuple[int, ...]]
    """Parameter -> shape."""
    producers: dict[str, str] = field(default_factory=dict)
    """Key of a parameter's dimension that a layer makes its outputs by -> the axis's name."""
    fans: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """Parameter -> the (parameter, dimension) pairs whose extents are its fan-in."""
    constants: dict[str, float] = field(default_factory=dict)
    """Parameter -> the value it starts with."""
    output_layer: str | None = None
    """Path of the module that made the last product with a weight, if that was a Linear's."""
    weights: set[int] = field(default_factory=set)
    """Slots of parameters that were only turned round."""
    flows: dict[int, Flow] = field(default_factory=dict)
    plan: list[Step] = field(default_factory=list)
    """The steps with tokens among their arguments."""

    def run(self, rules: Mapping[str, Rule]) -> None:
        """Follow the recording from the input to what it returns, which is never sliced."""
        for step in self.recording.steps:
            call = Call(step, list(step.args), dict(step.kwargs))
            if step.name != "number":
                self._apply(rules, call)
            self.plan.append(replace(step, args=tuple(call.args), kwargs=call.kwargs))
        for ref in refs(self.recording.result):
            self.classes.keep_whole(self.flow(ref), None)

    def flow(self, ref: Any) -> Flow:
        """What a tensor's dimensions are; parameters open theirs when they are first met."""
        if not isinstance(ref, Ref):
            return ()
        known = self.flows.get(ref.slot)
        if known is None:
            name = self.recording.parameters.get(ref.slot)
            shape = self.shape(ref)
            known = tuple(None for _ in shape) if name is None else self.open(name)
            self.flows[ref.slot] = known
        return known

    def open(self, name: str) -> Flow:
        """The dimensions of a parameter; one of extent 1 cannot be sliced."""
        shape = self.shapes_of[name]
        return tuple(
            self.classes.open(f"{name}:{place}", size) if size > 1 else None for place, size in enumerate(shape)
        )

    def shape(self, ref: Any) -> tuple[int, ...]:
        """A tensor's shape in the example; () for anything else."""
        return self.recording.shapes.get(ref.slot, ()) if isinstance(ref, Ref) else ()

    def is_tensor(self, value: Any) -> bool:
        """Whether an argument is a tensor rather than a recorded number."""
        return isinstance(value, Ref) and value.slot in self.recording.shapes

    def parameter(self, ref: Any) -> str | None:
        """A parameter's name."""
        return self.recording.parameters.get(ref.slot) if isinstance(ref, Ref) else None

    def is_weight(self, ref: Any) -> bool:
        """Whether it is a parameter, or one turned round: a product with it is a layer's."""
        return self.parameter(ref) is not None or (isinstance(ref, Ref) and ref.slot in self.weights)

    def outs(self, call: Call) -> list[Ref]:
        """The tensors that the step makes."""
        return list(refs(call.step.out))

    def out_shape(self, call: Call) -> tuple[int, ...]:
        """Shape of the step's only, or first, result."""
        return self.shape(self.outs(call)[0])

    def tensors(self, call: Call) -> list[Ref]:
        """All tensors among the arguments."""
        return [ref for ref in refs((call.step.args, dict(call.step.kwargs))) if self.is_tensor(ref)]

    def keep_whole(self, call: Call, reason: str | None) -> list[Flow]:
        """Nothing of what reaches this step is sliced, nor what comes out."""
        for ref in self.tensors(call):
            self.classes.keep_whole(self.flow(ref), reason)
        return [(None,) * len(self.shape(ref)) for ref in self.outs(call)]

    def meet_all(self, parts: Iterable[Part | None], reason: str | None) -> Part | None:
        """All of these are one dimension."""
        first, *others = parts
        for other in others:
            first = self.classes.meet(first, other, reason)
        return first

    def scale(self, call: Call, place: int, name: str, part: Part | None) -> None:
        """The layer sums over `part` of this argument."""
        ref = call.get(place, name)
        if part is not None and isinstance(ref, Ref):
            call.put(place, name, Scaled(ref, part))

    def produces(self, weight: Any, place: int) -> None:
        """A layer makes its outputs by this dimension of a weight, of extent > 1: where the class gets its name."""
        name = self.parameter(weight)
        if name is not None and self.shapes_of[name][place] > 1:
            self.producers.setdefault(f"{name}:{place}", f"{owner(name)}.out".lstrip("."))

    def starts(self, weight: Any, places: Iterable[int], *others: Any) -> None:
        """Genesis: the fan-in of a weight, by its dimensions, and of the bias that belongs to it."""
        name = self.parameter(weight)
        if name is None:
            return
        fan = tuple((name, place) for place in places)
        for ref in (weight, *others):
            own = self.parameter(ref)
            if own is not None:
                self.fans.setdefault(own, fan)

    def number_parts(self, value: Any) -> tuple[tuple[Part, ...], bool]:
        """The sliceable dimensions a size was read from, and whether it also depends on others."""
        if not isinstance(value, Ref) or value.slot not in self.recording.numbers:
            return (), False
        _, sources = self.recording.numbers[value.slot]
        found = [self.flow(Ref(slot))[place] for slot, place in sorted(sources)]
        parts = tuple(part for part in found if part is not None)
        return parts, len(parts) < len(found)

    def bake(self, value: Any, reason: str) -> Any:
        """A size that forward computed from widths, as an argument that means the full network's value."""
        parts, is_mixed = self.number_parts(value)
        if not parts:
            return value
        if is_mixed:
            self.classes.keep_whole(parts, reason)
            return value
        return Baked(value, parts, self.recording.numbers[value.slot][0])

    def _apply(self, rules: Mapping[str, Rule], call: Call) -> None:
        name = call.step.name.strip("_")
        rule = rules.get(name)
        if rule is None:
            result: Any = self.keep_whole(call, f"{name} is a function whose axes are not known")
        else:
            result = self._obey(rule, call)
        if not call.numbers_are_done:
            for ref in refs((tuple(call.args), call.kwargs)):
                self.classes.keep_whole(self.number_parts(ref)[0], f"forward computes with its width ({name})")
        flows = result if isinstance(result, list) else [result] * len(self.outs(call))
        for ref, flow in zip(self.outs(call), flows, strict=True):
            self.flows[ref.slot] = _fitting(flow, self.shape(ref))

    def _obey(self, rule: Rule, call: Call) -> Any:
        """What the rule says; arguments it does not know (torch's functions take many forms) keep the call whole."""
        try:
            return rule(self, call)
        except (LookupError, TypeError, ValueError, AttributeError):
            call.args, call.kwargs = list(call.step.args), dict(call.step.kwargs)
            return self.keep_whole(call, f"{call.step.name.strip('_')} is called in a form whose axes are not known")


def _fitting(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A dimension of extent 1 cannot be sliced; whoever says otherwise means a broadcast."""
    return tuple(part if size > 1 else None for part, size in zip(flow, shape, strict=True))


def owner(parameter: str) -> str:
    """`layers.0.weight` -> `layers.0`."""
    return parameter.rpartition(".")[0]


def sized(shape: Iterable[int]) -> Iterator[int]:
    """Places of dimensions with more than one entry."""
    return (place for place, size in enumerate(shape) if size > 1)


def product(sizes: Iterable[int]) -> int:
    """Of nothing: 1."""
    return math.prod(sizes)

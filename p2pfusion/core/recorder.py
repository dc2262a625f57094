"""Runs an ordinary module and writes down which torch functions it called.

The module runs as it is, on an example, while torch tells us of every function it enters (`TorchFunctionMode`); so
Python's own control flow needs no symbols. A size that forward reads from a tensor comes back as a `Number`, an int
that remembers where it is from: the recording then holds for other batches too, and tells a width from a constant.

Knows no axes and no slices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from p2pfusion.core.recording import Here, Recording, Ref, Step, leaves, refs
from p2pfusion.errors import TaskError

STEPS_MAX = 100_000
"""Functions in one forward: a hundred times GPT-2's; beyond it something loops over data."""
_READS_VALUES = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal", "allclose",
     "is_nonzero", "nonzero", "unique", "masked_select"}
)  # fmt: skip
_SETS = "__setitem__"


class Number(int):
    """A size read from a tensor. An int to everybody; arithmetic with ints is recorded, the rest makes it plain."""

    ref: Ref
    recorder: Recorder

    def __add__(self, other: Any) -> Any:
        return _computed(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _computed(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _computed(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _computed(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return _computed(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _computed(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return _computed(operator.mod, self, other)

    def __neg__(self) -> Any:
        return _computed(operator.sub, 0, self)


def _computed(function: Callable[..., int], left: Any, right: Any) -> Any:
    if not (isinstance(left, int) and isinstance(right, int)):
        return NotImplemented
    number = left if isinstance(left, Number) else right
    assert isinstance(number, Number)
    return number.recorder.compute(function, left, right)


class Recorder(TorchFunctionMode):
    """Writes down what a module does while it is active. `names`: its parameters, by identity."""

    def __init__(self, example: torch.Tensor, names: Mapping[int, str]) -> None:
        super().__init__()
        self.recording = Recording()
        self.where: list[str] = []
        self._names = names
        self._slots: dict[int, int] = {}
        self._alive: list[Any] = []
        """An identity stays unique as long as its tensor lives."""
        self._varies: set[int] = set()
        """Slots that depend on the input or on parameters."""
        self._varies.add(self._add(example))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if name in ("size", "shape"):
            return self._sizes(args[0], *args[1:], **kwargs)
        if name in ("numel", "nelement"):
            return self._count(args[0])
        given = self.refer((args, dict(kwargs)))
        if name in _READS_VALUES and self._varies.intersection(_slots(given)):
            self._refuse_values(name)
        self._refuse_changed_constants(name, given, kwargs)
        if func.__name__ == "__get__":
            func = operator.attrgetter(name)
        out = func(*args, **kwargs)
        if name != _SETS and not any(isinstance(item, torch.Tensor) for item in leaves(out)):
            return out
        self._step(func, name, given, out)
        return out

    def refer(self, value: Any) -> Any:
        """The same structure with tensors, sizes and devices replaced by what a replay looks up."""
        match value:
            case torch.Tensor():
                return Ref(self._slots[id(value)] if id(value) in self._slots else self._add(value))
            case Number():
                return value.ref
            case torch.device():
                return Here()
            case slice():
                return slice(self.refer(value.start), self.refer(value.stop), self.refer(value.step))
            case tuple():
                return tuple(self.refer(item) for item in value)
            case list():
                return [self.refer(item) for item in value]
            case dict():
                return {key: self.refer(item) for key, item in value.items()}
        return value

    def compute(self, function: Callable[..., int], left: int, right: int) -> Number:
        """Python arithmetic on sizes, recorded."""
        sources: frozenset[tuple[int, int]] = frozenset()
        for item in (left, right):
            if isinstance(item, Number):
                sources |= self.recording.numbers[item.ref.slot][1]
        return self._number(function, (self.refer(left), self.refer(right)), function(int(left), int(right)), sources)

    def _sizes(self, tensor: torch.Tensor, dim: int | None = None) -> Any:
        if dim is None:
            return torch.Size([self._sizes(tensor, place) for place in range(tensor.dim())])
        ref, place = self.refer(tensor), dim % tensor.dim()
        sources = frozenset({(ref.slot, place)})
        return self._number(torch.Tensor.size, (ref, place), tuple(tensor.shape)[place], sources)

    def _count(self, tensor: torch.Tensor) -> Number:
        ref = self.refer(tensor)
        sources = frozenset((ref.slot, place) for place in range(tensor.dim()))
        return self._number(torch.Tensor.numel, (ref,), tensor.numel(), sources)

    def _number(
        self, function: Callable[..., Any], args: tuple[Any, ...], value: int, sources: frozenset[tuple[int, int]]
    ) -> Number:
        number = Number(value)
        slot = len(self._alive)
        self._alive.append(number)
        number.ref, number.recorder = Ref(slot), self
        self.recording.numbers[slot] = (value, sources)
        self._append(Step(function, "number", args, {}, Ref(slot), self._here()))
        return number

    def _step(self, func: Callable[..., Any], name: str, given: Any, out: Any) -> None:
        varies = not self._varies.isdisjoint(_slots(given))
        made = None if name == _SETS else self._new(out, varies)
        self._append(Step(func, name, given[0], given[1], made, self._here()))

    def _new(self, out: Any, varies: bool) -> Any:
        """Slots for what a function returned: new ones, also where it is an old tensor changed in place."""
        if isinstance(out, tuple | list):
            return tuple(self._new(item, varies) for item in out)
        if not isinstance(out, torch.Tensor):
            return None
        slot = len(self._alive)
        self._alive.append(out)
        self._slots[id(out)] = slot
        self.recording.shapes[slot] = tuple(out.shape)
        if varies:
            self._varies.add(slot)
        return Ref(slot)

    def _add(self, tensor: torch.Tensor) -> int:
        """A tensor that no step made: the input, a parameter, or something the module keeps."""
        slot = len(self._alive)
        self._alive.append(tensor)
        self._slots[id(tensor)] = slot
        self.recording.shapes[slot] = tuple(tensor.shape)
        if id(tensor) in self._names:
            self.recording.parameters[slot] = self._names[id(tensor)]
            self._varies.add(slot)
        elif slot:
            self.recording.constants[slot] = tensor.detach()
        return slot

    def _append(self, step: Step) -> None:
        if len(self.recording.steps) >= STEPS_MAX:
            raise TaskError(f"model: forward calls more than {STEPS_MAX} functions; give the task a Blueprint")
        self.recording.steps.append(step)

    def _here(self) -> str:
        return self.where[-1] if self.where else ""

    def _refuse_values(self, name: str) -> NoReturn:
        raise TaskError(
            f"{self._here() or 'model'}: forward looks at a tensor's values ({name.strip('_')}), so it has no fixed "
            f"structure that a slice could keep; decide by shapes only, or give the task a Blueprint"
        )

    def _refuse_changed_constants(self, name: str, given: Any, kwargs: Mapping[str, Any]) -> None:
        in_place = name == _SETS or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace")
        first = given[0][0] if given[0] else None
        if (
            in_place
            and isinstance(first, Ref)
            and first.slot in {**self.recording.constants, **self.recording.parameters}
        ):
            raise TaskError(
                f"{self._here() or 'model'}: forward changes a buffer or a parameter in place ({name.strip('_')}); "
                f"devices share parameters only, so keep no state between batches"
            )


def record(module: nn.Module, example: torch.Tensor) -> Recording:
    """Run `module` on `example` without gradients and write down what it does. Raises `TaskError`."""
    recorder = Recorder(example, {id(tensor): name for name, tensor in module.named_parameters()})
    hooks = [hook for path, part in module.named_modules() for hook in _tell(recorder, path, part)]
    try:
        with torch.no_grad(), recorder:
            result = module(example)
    except TaskError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise TaskError(f"{recorder._here() or 'model'}: forward raised {kind}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    recorder.recording.result = _result(recorder, result)
    return recorder.recording


def _tell(recorder: Recorder, path: str, module: nn.Module) -> Iterator[Any]:
    """Keep the recorder informed of which module is running."""
    yield module.register_forward_pre_hook(lambda *_: recorder.where.append(path))
    yield module.register_forward_hook(lambda *_: _leave(recorder))


def _leave(recorder: Recorder) -> None:
    recorder.where.pop()


def _result(recorder: Recorder, result: Any) -> Any:
    items = list(leaves(result))
    if not any(isinstance(item, torch.Tensor) for item in items) or not all(
        item is None or isinstance(item, torch.Tensor) for item in items
    ):
        raise TaskError(f"model: forward returns {type(result).__name__}; let it return a tensor, or tuples of them")
    return recorder.refer(result)


def _slots(value: Any) -> Iterator[int]:
    return (ref.slot for ref in refs(value))


def _name(function: Callable[..., Any]) -> str:
    """`view`, `relu_`, `__getitem__`; for the getter of a property, the property."""
    name = str(getattr(function, "__name__", function))
    return str(getattr(getattr(function, "__self__", None), "__name__", name)) if name == "__get__" else name

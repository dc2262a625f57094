"""What is written down of one run of a module: which torch functions it called, on what, in which order.

Plain data: `recorder` writes it, `tracing_walk` reads it, `replay` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Ref:
    """A value of the recording, by its number."""

    slot: int


@dataclass(frozen=True, slots=True)
class Here:
    """Stands for the device of the network's input, wherever that is when it runs."""


@dataclass(frozen=True, slots=True)
class PerSample:
    """An int that is so many times the batch."""

    factor: int


@dataclass(frozen=True, slots=True)
class Step:
    """One call. `args` and `kwargs` hold `Ref`s for tensors and sizes, `out` says which values it makes."""

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any
    where: str
    """Path of the innermost module that called it, for messages."""


@dataclass(slots=True)
class Recording:
    """The steps, and what their values are. Slot 0 is the input; `result` is what forward returned, of `Ref`s."""

    steps: list[Step] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    numbers: dict[int, tuple[int, frozenset[tuple[int, int]]]] = field(default_factory=dict)
    """Slot of a size -> its value in the example, and the (tensor, dimension) pairs it was computed from."""
    result: Any = None


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def refs(value: Any) -> Iterator[Ref]:
    """All `Ref`s in a structure."""
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    for item in leaves(value):
        if isinstance(item, Ref):
            yield item
        elif isinstance(item, slice):
            yield from refs(item)

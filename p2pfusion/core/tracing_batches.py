"""Two recordings of one module, on batches of two sizes, made into one that holds for any batch.

Most of forward's sizes are recorded as such. But `len(x)`, `int(...)` and a loop make plain ints of them, which would
tie a slice to the example's batch. Where the two recordings differ in an int, and differ as their batches do, the int
is so many per sample; where they differ in anything else, forward depends on its batch in a way that nobody can repeat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2pfusion.core.recording import PerSample, Recording
from p2pfusion.errors import TaskError


def for_any_batch(first: Recording, second: Recording, batches: tuple[int, int]) -> Recording:
    """`first`, with ints that follow the batch as `PerSample`. Raises `TaskError` where the recordings differ."""
    if len(first.steps) != len(second.steps) or repr(first.result) != repr(second.result):
        raise _unlike("model")
    steps = []
    for one, other in zip(first.steps, second.steps, strict=True):
        if one.name != other.name or repr(one.out) != repr(other.out):
            raise _unlike(one.where)
        args = _common(one.args, other.args, batches, one.where)
        kwargs = {
            name: _common(value, other.kwargs.get(name), batches, one.where) for name, value in one.kwargs.items()
        }
        steps.append(replace(one, args=args, kwargs=kwargs))
    return replace(first, steps=steps)


def _common(one: Any, other: Any, batches: tuple[int, int], where: str) -> Any:
    if type(one) is not type(other):
        raise _unlike(where)
    if isinstance(one, tuple | list):
        if len(one) != len(other):
            raise _unlike(where)
        return type(one)(_common(a, b, batches, where) for a, b in zip(one, other, strict=True))
    if isinstance(one, slice):
        ends = ("start", "stop", "step")
        return slice(*(_common(getattr(one, end), getattr(other, end), batches, where) for end in ends))
    if type(one) is int and one != other:
        factor, rest = divmod(one, batches[0])
        if rest or other != factor * batches[1]:
            raise _unlike(where)
        return PerSample(factor)
    return one


def _unlike(where: str) -> TaskError:
    return TaskError(
        f"{where or 'model'}: forward does something else the second time, or for another number of samples; "
        f"let it keep no state and treat samples alike, or give the task a Blueprint"
    )

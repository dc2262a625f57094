"""Nothing traced is believed: the blueprint is compared with the module it came from, on the example.

1. The whole model, built and filled with the module's weights, gives the module's outputs to the last bit, in both
   modes, also for a batch of another size.
2. Reordering the units of every axis, in all parameters that have it, changes nothing in the *module's own* outputs:
   that is what it means that an axis is declared wherever it occurs, and it holds through any norm.
3. A network of half the units runs; and where nothing averages over an axis, it gives what the module gives when what
   was left out is multiplied by zero.

Whatever fails raises `TaskError` and names the axis. Knows no rules of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from p2pfusion.core.blueprint import Axis, Blueprint
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.errors import TaskError

_SEED = 20_24
"""Of the random units and of dropout while comparing; any will do."""
_TOLERANCE = 1e-3
"""Relative to the largest output: other sums in another order, through some dozen layers in float32."""
_FIX = "give the task a Blueprint"
_KEEP = (
    "forward must not keep state, make plain ints of sizes (x.shape[1], not int(x.shape[1])), or draw random numbers "
    "outside torch"
)


def check(module: nn.Module, x: torch.Tensor, blueprint: Blueprint, mixed: frozenset[str]) -> dict[int, int]:
    """Raise `TaskError` unless `blueprint` describes `module`; `mixed` are the axes that something averages over.

    Returns the input's dimensions, with their sizes, that must be as they are in `x`: forward made plain ints of them.
    """
    values = _flat(module)
    _check_whole(module, x, blueprint, values)
    tied = {
        place: size
        for place, size in enumerate(x.shape)
        if place and size > 1 and not _is_free(module, x.narrow(place, 0, size - 1), blueprint, values)
    }
    if blueprint.axes:
        lively = _lively(blueprint, values)
        _check_order(module, x, blueprint, lively)
        _check_narrow(module, x, blueprint, lively, mixed)
        _fill(module, values)
    return tied


def _is_free(module: nn.Module, x: torch.Tensor, blueprint: Blueprint, values: Vector) -> bool:
    """Whether inputs of this other shape are repeated rightly; also where the module itself cannot take them."""
    try:
        wanted = _run(module.eval(), x)
    except Exception:
        return True
    try:
        got = _run(_filled(blueprint.build(blueprint.whole()), values).eval(), x)
    except Exception:
        return False
    return all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def _lively(blueprint: Blueprint, values: Vector) -> Vector:
    """Weights in which every unit is another: a fresh module's norms, and layers that start at zero, hide mistakes."""
    generator = torch.Generator().manual_seed(_SEED)
    result = np.array(values)
    for parameter in blueprint.parameters:
        place, shape = blueprint.parameter_slices[parameter.name], blueprint.shape(parameter)
        noise = torch.randn(place.stop - place.start, generator=generator).numpy()
        scale = 0.3 if len(shape) < 2 else 1 / np.sqrt(np.prod(shape[1:]))
        result[place] = (values[place] if len(shape) < 2 else 0) + noise * np.float32(scale)
    return result


def _check_whole(module: nn.Module, x: torch.Tensor, blueprint: Blueprint, values: Vector) -> None:
    """The same outputs to the last bit, for this batch and for others."""
    whole = _filled(blueprint.build(blueprint.whole()), values)
    for batch in (x, x[:1], torch.cat([x, x, x])):
        for mode in (False, True):
            try:
                wanted = _run(module.train(mode), batch)
            except Exception:
                continue  # the module itself cannot
            got = _attempt(partial(_run, whole.train(mode), batch), f"a batch {tuple(batch.shape)}")
            if not all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)):
                raise TaskError(
                    f"model: a batch {tuple(batch.shape)} gives another output when forward's steps are repeated; "
                    f"{_KEEP}; or {_FIX}"
                )


def _check_order(module: nn.Module, x: torch.Tensor, blueprint: Blueprint, values: Vector) -> None:
    _fill(module, values)
    expected = _run(module.eval(), x)

    def is_right(axes: Iterable[Axis]) -> bool:
        _fill(module, _reordered(blueprint, values, axes))
        return _are_close(_run(module.eval(), x), expected)

    _name_wrong(blueprint.axes, is_right, "its order matters somewhere, so it is not the same dimension everywhere")


def _reordered(blueprint: Blueprint, values: Vector, axes: Iterable[Axis]) -> Vector:
    """The same network with the units of these axes in another order."""
    orders = {axis.name: _order(axis, number) for number, axis in enumerate(axes)}
    result = np.array(values)
    for parameter in blueprint.parameters:
        place = blueprint.parameter_slices[parameter.name]
        array = values[place].reshape(blueprint.shape(parameter))
        for dimension, dim in enumerate(parameter.dims):
            if dim.axis in orders:
                entries = orders[dim.axis][:, None] * dim.size + np.arange(dim.size)
                array = np.take(array, entries.reshape(-1), axis=dimension)
        result[place] = array.reshape(-1)
    return result


def _order(axis: Axis, number: int) -> Any:
    """Indices of the axis with its units shuffled."""
    shuffled = torch.randperm(axis.units, generator=torch.Generator().manual_seed(_SEED + number)).numpy()
    return (shuffled[:, None] * axis.unit + np.arange(axis.unit)).reshape(-1)


def _check_narrow(
    module: nn.Module, x: torch.Tensor, blueprint: Blueprint, values: Vector, mixed: frozenset[str]
) -> None:
    """Half of every axis runs; and equals the masked module where nothing averages over what was cut."""
    for count in (2, 8):
        half = _half(blueprint, blueprint.axes, count)
        for mode in (False, True):
            narrow = _filled(blueprint.build(half), extract(blueprint, values, half)).train(mode)
            _attempt(partial(_run, narrow, x), f"1/{count} of every axis")
    exact = [axis for axis in blueprint.axes if axis.name not in mixed]

    def is_right(axes: Iterable[Axis]) -> bool:
        half = _half(blueprint, axes, 2)
        narrow = _filled(blueprint.build(half), extract(blueprint, values, half)).eval()
        _fill(module, values)
        _mask(module, blueprint, half)
        return _are_close(_attempt(partial(_run, narrow, x), "a slice"), _run(module.eval(), x))

    _name_wrong(exact, is_right, "a narrow network does not compute what the masked one does")


def _half(blueprint: Blueprint, axes: Iterable[Axis], count: int) -> SubModel:
    """Every `count`-th unit of these axes."""
    kept = {
        axis.name: [(unit * axis.unit, (unit + 1) * axis.unit) for unit in range(0, axis.units, count)] for axis in axes
    }
    return SubModel.of(blueprint, kept)


def _mask(module: nn.Module, blueprint: Blueprint, sub_model: SubModel) -> None:
    """Zero everything that the sub-model does not hold, in place."""
    flat = np.zeros(blueprint.size, np.float32)
    positions = sub_model.positions(blueprint)
    flat[positions] = _flat(module)[positions]
    _fill(module, flat)


def _name_wrong(axes: Iterable[Axis], is_right: Callable[[Iterable[Axis]], bool], reason: str) -> None:
    """All axes at once; only if that fails, one by one, to name the one that is wrong."""
    every = list(axes)
    if not every or is_right(every):
        return
    wrong = next((axis.name for axis in every if not is_right([axis])), "several axes together")
    raise TaskError(f"{wrong}: was traced, but {reason}; {_FIX}")


def _attempt(run: Callable[[], list[torch.Tensor]], what: str) -> list[torch.Tensor]:
    try:
        return run()
    except Exception as error:
        raise TaskError(f"model: {what} fails in the traced network ({error}); {_KEEP}; or {_FIX}") from error


def _run(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The tensors a network returns, always with the same random numbers.

    Without torch's fused kernel for whole Transformer layers: it gives other last bits, and only in evaluation.
    """
    torch.manual_seed(_SEED)
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return list(_tensors(module(x.clone())))
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from chain.from_iterable(_tensors(item) for item in value.values())
    elif isinstance(value, tuple | list):
        yield from chain.from_iterable(_tensors(item) for item in value)


def _are_close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp(min=1e-6))
        for a, b in zip(left, right, strict=True)
    )


def _flat(module: nn.Module) -> Vector:
    return np.concatenate([tensor.detach().numpy().reshape(-1) for tensor in module.parameters()])


def _fill(module: nn.Module, values: Vector) -> None:
    start = 0
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.copy_(torch.from_numpy(np.array(values[start : start + tensor.numel()])).view(tensor.shape))
            start += tensor.numel()


def _filled(module: nn.Module, values: Vector) -> nn.Module:
    _fill(module, values)
    return module

"""From named arrays to a network that predicts: the task's own, as wide as the arrays are.

How wide that is, is read from the arrays' shapes; so a file needs no program that knows how its model was trained.
Arrays named `members.N.NAME` are several networks that answer together (`core.ensemble`); of a network with exits the
arrays may end at one of them. It knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from p2pfusion.core.averaging import Averaged
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import as_data
from p2pfusion.core.submodel import SubModel, Vector, layout
from p2pfusion.core.task import Prepared, Task
from p2pfusion.core.training import loaded
from p2pfusion.errors import TaskError

_MEMBER = re.compile(r"members\.(\d{1,4})\.(.+)")


def predictor(task: Task | Prepared, arrays: Mapping[str, Vector]) -> nn.Module:
    """The network that these parameters are (float32, by name), in eval mode. Raises `TaskError` for another task's."""
    blueprint = task.blueprint if isinstance(task, Prepared) else _described(task)
    known = {parameter.name for parameter in blueprint.parameters}
    members: dict[int, dict[str, Vector]] = {}
    for name, array in arrays.items():
        found = None if name in known else _MEMBER.fullmatch(name)
        if found is None:
            return _network(blueprint, arrays).eval()
        members.setdefault(int(found[1]), {})[found[2]] = array
    return Averaged({number: _network(blueprint, members[number]) for number in sorted(members)}).eval()


def _described(task: Task) -> Blueprint:
    if isinstance(task.model, Blueprint):
        return task.model
    batch = next(as_data(task.train, task.batch_size, "train").once(), None)
    if batch is None:
        raise TaskError("train: there is no data; one batch is needed to see the model's form")
    return Blueprint.from_module(task.model, batch[0])


def _network(blueprint: Blueprint, arrays: Mapping[str, Vector]) -> nn.Module:
    narrow = _as_wide_as(blueprint, arrays)
    held = _as_deep_as(narrow, arrays)
    wanted = {name: shape for name, (_, shape) in layout(narrow, held).items()}
    for name in (*wanted, *arrays):
        if name not in arrays:
            raise TaskError(f"the task's model has a parameter {name!r}, the file has not: is it this task's?")
        if name not in wanted:
            raise TaskError(f"the file has a parameter {name!r}, the task's model has not: is it this task's?")
        if arrays[name].shape != wanted[name]:
            raise TaskError(f"parameter {name!r}: the file's is {arrays[name].shape}, the task's {wanted[name]}")
    flat = np.concatenate([np.asarray(arrays[name], np.float32).reshape(-1) for name in wanted])
    return loaded(narrow, held, flat, scaled=False)


def _as_deep_as(blueprint: Blueprint, arrays: Mapping[str, Vector]) -> SubModel:
    """The network whose blocks the arrays have something of, where it is one that ends at an exit; else the whole."""
    found = {parameter.block for parameter in blueprint.parameters if parameter.name in arrays}
    part = SubModel(tuple(block for block in blueprint.blocks if block in found))
    return part if blueprint.exits and blueprint.members_in(part) else blueprint.whole()


def _as_wide_as(blueprint: Blueprint, arrays: Mapping[str, Vector]) -> Blueprint:
    """The blueprint with every axis as wide as in the first parameter that has it, and never wider than it was."""
    widths: dict[str, int] = {}
    for parameter in blueprint.parameters:
        shape = arrays[parameter.name].shape if parameter.name in arrays else ()
        for dim, extent in zip(parameter.dims, shape, strict=False):
            if dim.axis is not None:
                widths.setdefault(dim.axis, min(extent // dim.size, blueprint.axis(dim.axis).size))
    axes = tuple(replace(axis, size=widths.get(axis.name, axis.size)) for axis in blueprint.axes)
    return replace(blueprint, axes=axes)

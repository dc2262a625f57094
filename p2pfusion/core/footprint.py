"""What training a sub-model takes in memory: vectors as long as its parameters, and what a batch takes.

The first is arithmetic. The second depends on the network and the loss, so it is counted: `Kept` is an objective that
adds up, step by step, what autograd keeps for the backward pass. Scratch space of single operations is not in it. Knows
no device; torch is loaded when something is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pfusion.core.submodel import SubModel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from p2pfusion.core.blueprint import Blueprint
    from p2pfusion.core.objectives import Job, Objective, StepLoss
    from p2pfusion.core.submodel import Vector

FLOAT_BYTES = 4
VECTORS_WHILE_TRAINING = 5
"""The slice of the head a training starts from, parameters, gradients, up to two moments: Adam keeps two, SGD one."""
GRADIENTS_AT_ONCE = 2
"""Beside what is kept, the backward pass holds the gradients behind and before an operation; where the largest is."""
VECTORS_AT_REST = 2
"""Of networks that wait while another of the same sub-model trains: values before and after."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is trained: scalars in all, and of the largest of the networks, which are trained one after the other.

    `extra_vectors`: kept besides, each as long as the sub-model; `model_scalars`: of vectors as long as the model.
    `networks` of the `networks_all` in the model; `is_sliced`: by axes.
    """

    parameters: int
    largest: int
    extra_vectors: int = 0
    networks: int = 1
    networks_all: int = 1
    is_sliced: bool = True
    model_scalars: int = 0

    @property
    def value_bytes(self) -> int:
        """Of all vectors, at their fullest."""
        vectors = VECTORS_WHILE_TRAINING + self.extra_vectors
        at_rest = VECTORS_AT_REST * (self.parameters - self.largest)
        return FLOAT_BYTES * (vectors * self.largest + at_rest + self.model_scalars)


def load_of(
    blueprint: Blueprint,
    sub_model: SubModel,
    extra_vectors: int = 0,
    *,
    model_vectors: int = 0,
    is_sliced: bool = True,
) -> Load:
    """Of training that sub-model, with so many vectors besides as long as it, and as the whole model."""
    members, size = blueprint.members_in(sub_model), sub_model.size(blueprint)
    largest = max((SubModel(one, sub_model.kept).size(blueprint) for one in members), default=size)
    return Load(
        parameters=size,
        largest=largest,
        extra_vectors=extra_vectors,
        networks=len(members) or 1,
        networks_all=len(blueprint.members) or 1,
        is_sliced=is_sliced,
        model_scalars=model_vectors * blueprint.size,
    )


def training_bytes(load: Load, batch_bytes: int) -> int:
    """Bytes that such a training holds at its fullest, with what one batch takes."""
    return load.value_bytes + batch_bytes


class Kept:
    """Another objective, with what autograd kept of a batch besides the parameters, the most there was.

    `bytes`: of all of it; `largest_bytes`: of the largest tensor.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.is_scaled, self.extra_vectors = objective.is_scaled, objective.extra_vectors
        self.bytes = self.largest_bytes = 0

    @property
    def batch_bytes(self) -> int:
        """What a batch takes at its fullest."""
        return self.bytes + GRADIENTS_AT_ONCE * self.largest_bytes

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """As the other has it."""
        return self._objective.trains(blueprint, sub_model, round_index)

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """As the other has it."""
        return self._objective.sees_model(blueprint, sub_model, round_index)

    def begin(self, job: Job) -> StepLoss:
        """The other's, counted in every step, for steps may differ."""
        inner = self._objective.begin(job)

        def step_loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            value, found = kept_by(lambda: inner(module, x, y), module)
            self.bytes = max(self.bytes, sum(found))
            self.largest_bytes = max(self.largest_bytes, *found, 0)
            return value

        return step_loss

    def done(self, job: Job, after: Vector) -> None:
        """The other remembers what it wants."""
        self._objective.done(job, after)


def kept_by(call: Callable[[], torch.Tensor], module: nn.Module) -> tuple[torch.Tensor, list[int]]:
    """What `call` returns, and the bytes of each tensor that autograd keeps of it besides the module's parameters."""
    from torch.autograd.graph import saved_tensors_hooks

    own = frozenset(tensor.untyped_storage()._cdata for tensor in module.parameters())
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        value = call()
    return value, list(found.values())

"""What training a sub-model takes in memory: vectors as long as its parameters, and what a batch takes.

The first is arithmetic. The second depends on the network and the loss, so it is counted: `Kept` is an objective that
adds up, step by step, what autograd keeps for the backward pass. Scratch space of single operations is not in it. Knows
no device; torch is loaded when something is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from p2pfusion.core.objectives import Job, Objective, StepLoss
    from p2pfusion.core.submodel import Vector

FLOAT_BYTES = 4
VECTORS_WHILE_TRAINING = 5
"""The slice of the head a training starts from, parameters, gradients, up to two moments: Adam keeps two, SGD one."""
GRADIENTS_AT_ONCE = 2
"""Beside what is kept, the backward pass holds the gradients behind and before an operation; where the largest is."""


def training_bytes(parameters: int, batch_bytes: int) -> int:
    """Bytes that a training of so many parameters holds at its fullest, with what one batch takes."""
    return VECTORS_WHILE_TRAINING * FLOAT_BYTES * parameters + batch_bytes


class Kept:
    """Another objective, with what autograd kept of a batch besides the parameters, the most there was.

    `bytes`: of all of it; `largest_bytes`: of the largest tensor.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.is_scaled = objective.is_scaled
        self.bytes = self.largest_bytes = 0

    @property
    def batch_bytes(self) -> int:
        """What a batch takes at its fullest."""
        return self.bytes + GRADIENTS_AT_ONCE * self.largest_bytes

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

    own = frozenset(tensor.untyped_storage().data_ptr() for tensor in module.parameters())
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        value = call()
    return value, list(found.values())

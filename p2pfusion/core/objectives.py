"""What local training minimises, and what evaluation counts.

A `Loss` is the owner's: `(output, target) -> scalar tensor`, the mean over the batch. An `Objective` is an algorithm's:
what one step of a local training minimises, given the network and a batch, on top of that loss. This module holds the
plain one; `nested` and `contrastive` hold others. It knows no scheme and no swarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from p2pfusion.core.blueprint import Blueprint
    from p2pfusion.core.submodel import SubModel, Vector

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(output of the network, target) -> scalar, the mean over the batch."""
StepLoss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(network of the sub-model, x, y) -> scalar to minimise in this step."""
LATER_ROUND = 1000
"""Of a training that is only tried: what is measured is what most rounds are, and objectives may begin otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One local training: the sub-model, its values before (flat float32), the owner's loss, a seed for chance.

    `round`: the index of the round it is for. `model`: values of the whole model, for an objective that sees it.
    """

    blueprint: Blueprint
    sub_model: SubModel
    start: Vector
    loss: Loss
    seed: int
    round: int = 0
    model: Vector | None = None


class Objective(Protocol):
    """What a local training minimises. One object serves one node and may remember its earlier trainings."""

    is_scaled: bool
    """Whether the network trains with Scalers (`Blueprint.build`)."""
    extra_vectors: int
    """Vectors as long as the sub-model that it holds while one trains, of earlier trainings; 0: it remembers none."""

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """Those of its blocks that the training of this round changes; the others stay, and are not contributed."""
        ...

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """Whether this training looks at the whole model, of which it then holds a network too."""
        ...

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow."""
        ...

    def done(self, job: Job, after: Vector) -> None:
        """The training is over, with these values."""
        ...


class Plain:
    """The owner's loss and nothing else."""

    is_scaled = True
    extra_vectors = 0

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """What the network's output depends on."""
        return blueprint.answering(sub_model)

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """It does not."""
        return False

    def begin(self, job: Job) -> StepLoss:
        return lambda module, x, y: job.loss(module(x), y)

    def done(self, job: Job, after: Vector) -> None:
        """Nothing to remember."""


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy. `output` (batch, classes, ...), `target` (batch, ...) of int64 labels; a scalar."""
    if output.dim() > 2 and output.stride(1) == 1:
        # The classes lie together in memory, as a language model's do: a row per place takes half the time (measured).
        output, target = output.movedim(1, -1).flatten(0, -2), target.flatten()
    return F.cross_entropy(output, target)


def is_of_logits(loss: Loss) -> bool:
    """Whether it is known to be the softmax cross-entropy of logits: this module's or torch's."""
    return loss in (cross_entropy, F.cross_entropy) or isinstance(loss, nn.CrossEntropyLoss)


def correct(output: torch.Tensor, target: torch.Tensor) -> int:
    """How many labels the largest logit names. `output` (batch, classes, ...), `target` (batch, ...) of integers."""
    return int((output.argmax(1) == target).sum())

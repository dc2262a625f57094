"""What local training minimises, and what evaluation counts.

A loss is `(output, target) -> scalar tensor`, averaged over the batch. Knows no network, slice or swarm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(output of the network, target) -> scalar, the mean over the batch."""


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy. `output` (batch, classes, ...), `target` (batch, ...) of int64 labels; a scalar."""
    return F.cross_entropy(output, target)


def correct(output: torch.Tensor, target: torch.Tensor) -> int:
    """How many labels the largest logit names. `output` (batch, classes, ...), `target` (batch, ...) of integers."""
    return int((output.argmax(1) == target).sum())

"""The network of an ensemble: every member answers, and the mean counts. It knows neither blueprints nor turns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class Averaged(nn.Module):
    """The mean of the outputs: of logits, a geometric mean of what the members hold probable."""

    def __init__(self, members: Mapping[int, nn.Module]) -> None:
        """`members` by number, of which some may be missing."""
        super().__init__()
        self.members = nn.ModuleDict({str(number): member for number, member in members.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the members take -> what they give."""
        outputs = [member(x) for member in self.members.values()]
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)

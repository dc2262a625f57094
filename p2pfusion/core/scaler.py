"""`Scaler`: what keeps a narrow network's activations at the scale of the full one while it trains.

A layer that sees a share r of its inputs sums over r times as many terms. In training mode the Scaler divides that
layer's *input* by r, so that the expected sum is the full network's; in eval mode, where the full model runs, it is
the identity. This is inverted dropout over whole channels.

HeteroFL (PAPERS.md 4.1) divides the *output* of every convolution and linear layer by the width ratio instead, bias
included, also behind a first layer whose inputs are never sliced, and leaves out the classifier. Dividing the input of
exactly the layers whose input axis is sliced scales what shrank and nothing else: the bias and the first layer stay
as they are, and the logits are corrected too. It also makes every slice's function an unbiased estimate of the full
pre-activation when indices are drawn evenly, which a test checks.
"""

from __future__ import annotations

import torch
from torch import nn


class Scaler(nn.Module):
    """Divides by `rate` = kept / full width of the incoming axis in training mode; identity in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate = {rate!r}: must be above 0 and at most 1")
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape as `x`."""
        return x / self.rate if self.training and self.rate != 1 else x

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"rate={self.rate:g}"

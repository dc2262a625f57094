"""Where a network trains and is evaluated: the device that computes, and the precision of its products.

Values stay flat float32 in numpy wherever they rest or travel; only the network and its batches move. Mixed precision
is torch's autocast around network and loss: parameters, gradients and the optimizer stay float32. A node on a GPU, or
in bfloat16, gives other bits than one on a CPU; that is nobody's affair, for what must agree is the fold.

Which place is free, or fast, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from p2pfusion.errors import TrainingError

Device = Literal["cpu", "cuda", "mps"]
Autocast = Literal["bfloat16"]


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and what `autocast` makes of float32 products there; None: they stay float32."""

    device: Device = "cpu"
    autocast: Autocast | None = None

    def __str__(self) -> str:
        return f"{self.device} in {self.autocast or 'float32'}"

    def network(self, module: nn.Module) -> nn.Module:
        """The module on this device, moved in place. Raises `TrainingError` where it has no room for it."""
        try:
            return module.to(self.device)
        except RuntimeError as error:
            raise TrainingError(f"{self.device}: {error}; train a smaller --slice, or on --device cpu") from error

    def batch(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch on this device; the same tensors where they are there already."""
        return x.to(self.device), y.to(self.device)

    def casting(self) -> AbstractContextManager[object]:
        """Within it the network and the loss compute in this place's precision."""
        return torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext()

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """The global generators, this device's included, at this seed inside and as they were outside.

        Except that of mps, which torch cannot fork by device: it stays where the training left it.
        """
        mine = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices=mine):
            torch.manual_seed(seed)
            yield


CPU = Place()
"""Float32 on the processor: the default, alike on every computer."""

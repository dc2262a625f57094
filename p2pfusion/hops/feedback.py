"""Sparse gradients with error feedback: what is left out of one is added to the next (Seide et al. 2014).

Without it training suffers (docs/mp_sl.md). Owned by one thread; knows no calls.
"""

from __future__ import annotations

import numpy as np

from p2pfusion.config import MICRO_BATCHES_MAX
from p2pfusion.wire import tensors

CODEC = "topk"
RESIDUALS_MAX = 128 * MICRO_BATCHES_MAX
"""Micro-batches of which the rest of a gradient is kept: of as many owners as a relay has seats. Those of one owner
together are as large as a gradient of its batch."""


class Feedback:
    """Rests by owner and micro-batch, each with the epoch that it is of: in another the chain may be cut elsewhere, or
    the round begun again.
    """

    def __init__(self) -> None:
        self._rests: dict[tuple[bytes, int], tuple[int, tensors.Array]] = {}

    def encode(self, owner: bytes, part: int, epoch: int, values: tensors.Array) -> bytes:
        """The largest of these values and what was left out of the last; float32. Raises `ValueError`."""
        old, rest = self._rests.pop((owner, part), (-1, values))
        fits = old == epoch and rest.shape == values.shape
        whole = values + rest if fits else np.ascontiguousarray(values)
        payload = tensors.encode(CODEC, whole)
        if len(self._rests) >= RESIDUALS_MAX:
            del self._rests[next(iter(self._rests))]
        self._rests[owner, part] = epoch, whole - tensors.decode(CODEC, payload, whole.shape)
        return payload

    def forget(self, owner: bytes) -> None:
        """It has left: nothing of its gradients is kept."""
        for key in [key for key in self._rests if key[0] == owner]:
            del self._rests[key]

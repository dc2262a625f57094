"""The batches of an owner's round, which may have to begin again: what was drawn is drawn once more, in the same order.

So a round that was begun twice learns what it would have learnt the first time. Knows no chain and no network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from p2pfusion.core.data import Batch

REMEMBERED_BYTES_MAX = 64 << 20
"""Of a round's batches: an owner may have little memory. Of what does not fit others are seen in their place."""


class Draws:
    """Batches without end, of a source without end."""

    def __init__(self, source: Iterator[Batch]) -> None:
        self._source = source
        self._drawn: list[Batch] = []
        self._again: deque[Batch] = deque()
        self._drawn_bytes = 0

    def begin(self) -> None:
        """A new round: what was drawn in the last is forgotten."""
        self._drawn, self._drawn_bytes = [], 0
        self._again.clear()

    def begin_again(self) -> None:
        """The same round: the batches drawn since it began come first, as far as they are remembered."""
        self._again = deque(self._drawn)

    def __next__(self) -> Batch:
        if self._again:
            return self._again.popleft()
        batch = next(self._source)
        size_bytes = sum(tensor.nbytes for tensor in batch)
        if self._drawn_bytes + size_bytes <= REMEMBERED_BYTES_MAX:
            self._drawn.append(batch)
            self._drawn_bytes += size_bytes
        else:
            self._drawn_bytes = REMEMBERED_BYTES_MAX  # none behind a gap: order is what it is for
        return batch

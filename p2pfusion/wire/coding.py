"""What every codec is made of: its sizes, both directions, and what the author may choose.

Knows no codec by name; `compression` has the table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Body = bytes | bytearray | memoryview
Flat = NDArray[np.float32]

BLOCK = 256
"""Elements that belong together: a segment has whole blocks, all but the vector's last one, and is read by blocks."""


@dataclass(frozen=True, slots=True)
class Coding:
    """What the author of a flat vector chooses. A decoder needs none of it.

    `density` in (0, 1]: share of the elements that `topk` and `stc` keep. `tensors`: sizes of the tensors that the
    vector consists of, in order, so that each is judged by its own magnitudes; empty: it is one. `seed` >= 0: of
    stochastic rounding; the same seed and vector give the same bytes. `lossless`: whether zstd may follow where it
    shortens a segment (all but `fp32` and `bf16`); off, where the link is faster than zstd.
    """

    density: float = 0.01
    tensors: tuple[int, ...] = ()
    seed: int = 0
    lossless: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density = {self.density!r}: must be in (0, 1]")
        if self.seed < 0 or any(size < 0 for size in self.tensors):
            raise ValueError("seed and sizes of tensors: must be at least 0")


class Opened(Protocol):
    """A segment about which everything is checked, so that reading it cannot fail. Not to outlive the segment."""

    def largest(self) -> float:
        """The largest magnitude among its values; NaN or infinity where there is one.

        Where blocks have a scale, the largest that an encoder writes with these scales; integers that none writes, -128
        and -8, are a seventh more at most.
        """
        ...

    def read(self, start: int, out: Flat) -> None:
        """Write the values from element `start` on, a multiple of `BLOCK`, to `out`, flat and without gaps.

        `out` ends at the end of a block or of the segment.
        """
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """Both directions, and how elements are cut into segments. Use the functions of `compression`, which check sizes.

    `segment_elements`: in every segment but the last. `size_range(elements)`: least and most encoded bytes of one
    segment of that many elements, above 0. `encode` takes the whole vector and makes one segment after the other.
    `open` takes one segment whose size is within the range, and how many elements it has, at least 1; it raises
    `WireError` for anything odd.
    """

    segment_elements: int
    size_range: Callable[[int], tuple[int, int]]
    encode: Callable[[Flat, Coding], Iterator[bytes]]
    open: Callable[[Body, int], Opened]

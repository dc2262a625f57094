"""The built-in data set: 1,797 images of hand-written digits, 8 x 8, 45 KB (attribution in DIGITS.md).

The split is fixed and stratified: 36 test images of every digit, 360 in all, the rest to train on. Pixels are scaled to
0..1. Arrays only; knows no network and no task.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

TEST_PER_DIGIT = 36
"""36 of about 180 images of each digit: 20 % of the set, and one image is 0.28 % of accuracy."""
_PIXEL_MAX = 16


@dataclass(frozen=True, slots=True)
class Split:
    """`x` float32 (samples, 64) in 0..1, `y` int64 (samples,) in 0..9."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]


def load() -> tuple[Split, Split]:
    """(1,437 training samples, 360 test samples); the same ones on every machine."""
    with resources.as_file(resources.files("p2pfusion.zoo") / "digits.npz") as path, np.load(path) as stored:
        images, labels = stored["images"], stored["labels"]
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(_PIXEL_MAX)
    y = labels.astype(np.int64)
    test = np.sort(np.concatenate([_drawn(np.flatnonzero(y == digit), digit) for digit in range(10)]))
    train = np.setdiff1d(np.arange(len(y)), test)
    return Split(x[train], y[train]), Split(x[test], y[test])


def _drawn(places: npt.NDArray[np.int64], digit: int) -> npt.NDArray[np.int64]:
    return np.array(sorted(random.Random(f"digits test {digit}").sample(places.tolist(), TEST_PER_DIGIT)))

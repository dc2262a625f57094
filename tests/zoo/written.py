"""Small data sets written in the formats in which the real ones are given away."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def pixels(*shape: int) -> Bytes:
    return np.random.Generator(np.random.Philox(1)).integers(0, 256, shape, np.uint8)


def idx_bytes(array: Bytes) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(file: Path, array: Bytes) -> None:
    data = idx_bytes(array)
    file.write_bytes(gzip.compress(data, 1) if file.suffix == ".gz" else data)


def write_fashion(folder: Path, train: int = 60, test: int = 20, suffix: str = "") -> None:
    """Images (n, 28, 28) whose brightness is their label's, so that a network can learn them."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = pixels(count, 28, 28) // 10 + labels[:, None, None] * 20
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images.astype(np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels)


def write_cifar10(folder: Path, count: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = (np.arange(count) % 10).astype(np.uint8)
        records = np.concatenate([labels[:, None], pixels(count, 3072)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


PLAY = "".join(f"{name}:\nI am {name}, and this is line {line} of mine.\nIt goes on.\n\n"
               for line in range(40) for name in ("ROMEO", "JULIET", "First Guard"))  # fmt: skip


def write_shakespeare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.txt").write_text(PLAY)


def write_wikitext2(folder: Path, names: str = "wiki.{}.tokens") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in (("train", 300), ("valid", 60), ("test", 60)):
        text = "".join(
            f" the {number % 7} cats of number {number % 11} sat on the <unk> mat \n" for number in range(lines)
        )
        (folder / names.format(part)).write_text(text)

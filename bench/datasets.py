"""The data sets of a packed collection, for benches: as arrays, or written out in the usual formats.

    python -m bench.datasets --from FOLDER --to FOLDER [--only cifar10 ...]

FOLDER (or the environment variable P2PFUSION_DATA) holds the collection and its reader, `load.py`, which is not part
of this project. What is written can be learnt from by anybody: `p2pfusion join cifar10:TO/cifar10`. Unpacking CIFAR-10
takes about a minute of one core; benches that read it often should convert it once and use `p2pfusion.zoo.datasets`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pfusion.zoo.datasets import ImageSet, Texts, image_set, split_play

ENVIRONMENT = "P2PFUSION_DATA"
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR_BATCHES = 5
Bytes = npt.NDArray[np.uint8]


def collection(folder: str | Path | None = None) -> ModuleType:
    """The collection's `load.py`, imported from this folder, P2PFUSION_DATA, or the default beside the repository."""
    file = Path(folder or os.environ.get(ENVIRONMENT) or DEFAULT) / "load.py"
    spec = importlib.util.spec_from_file_location("p2pfusion_bench_load", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise SystemExit(f"{file}: there is no such file; name the collection's folder with --from or {ENVIRONMENT}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(name: str, folder: str | Path | None = None, shards: int | None = None) -> ImageSet:
    """`fashion` or `cifar10` as the product's own readers would give it; `shards` of 10,000 training images at most."""
    load = collection(folder)
    pairs = [load.images(INSIDE[name], split, shards=shards) for split in ("train", "test")]
    train, test = ((_channels_first(x), y.astype(np.int64)) for x, y in pairs)
    return image_set(train, test)


def texts(name: str, folder: str | Path | None = None) -> Texts:
    """`shakespeare` or `wikitext2`."""
    load = collection(folder)
    if name == "shakespeare":
        return split_play(load.text(INSIDE[name]))
    return Texts(*(load.text(INSIDE[name], split) for split in ("train", "valid", "test")))


INSIDE = {
    "fashion": "fashion_mnist",
    "cifar10": "cifar10",
    "shakespeare": "tiny_shakespeare",
    "wikitext2": "wikitext2",
}
"""What `p2pfusion join NAME:DIR` calls them -> what the collection does."""


def _channels_first(x: Bytes) -> Bytes:
    return x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


# -- the usual formats -------------------------------------------------------------------------------------------------


def idx_bytes(array: Bytes) -> bytes:
    """An idx file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(load: Any, to: Path) -> None:
    for split, name in (("train", "train"), ("test", "t10k")):
        x, y = load.images(INSIDE["fashion"], split)
        (to / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(x))
        (to / f"{name}-labels-idx1-ubyte").write_bytes(idx_bytes(y.astype(np.uint8)))


def write_cifar10(load: Any, to: Path) -> None:
    names = [f"data_batch_{number}" for number in range(1, CIFAR_BATCHES + 1)]
    for split, files in (("train", names), ("test", ["test_batch"])):
        x, y = load.images(INSIDE["cifar10"], split)
        records = np.concatenate([y.astype(np.uint8)[:, None], _channels_first(x).reshape(len(x), -1)], axis=1)
        for file, part in zip(files, np.array_split(records, len(files)), strict=True):
            (to / f"{file}.bin").write_bytes(part.tobytes())


def write_shakespeare(load: Any, to: Path) -> None:
    (to / "input.txt").write_bytes(load.text(INSIDE["shakespeare"]).encode())


def write_wikitext2(load: Any, to: Path) -> None:
    for part in ("train", "valid", "test"):
        (to / f"wiki.{part}.tokens").write_bytes(load.text(INSIDE["wikitext2"], part).encode())


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "fashion": write_fashion,
    "cifar10": write_cifar10,
    "shakespeare": write_shakespeare,
    "wikitext2": write_wikitext2,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.datasets", description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="source", default=None, help="the collection's folder")
    parser.add_argument("--to", type=Path, required=True, help="where to write; a folder for each data set")
    parser.add_argument("--only", nargs="+", choices=list(WRITERS), default=list(WRITERS), help="which")
    options = parser.parse_args(arguments)
    load = collection(options.source)
    for name in options.only:
        (options.to / name).mkdir(parents=True, exist_ok=True)
        WRITERS[name](load, options.to / name)
        print(f"wrote {options.to / name}: p2pfusion join {name}:{options.to / name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

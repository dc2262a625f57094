"""Image and text data sets from local folders, in the formats in which they are given away.

Nothing is downloaded: the owner puts the files into a folder. A file's size is known to be bearable before it is read,
and what is missing, cut short or something else is a `TaskError` that names the file and the fix. Arrays and texts
only; knows no network and no task. Formats: idx as on the pages of MNIST and Fashion-MNIST, CIFAR-10's "binary
version", plain UTF-8 text.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2pfusion.core.data import Indexed
from p2pfusion.errors import TaskError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

FILE_BYTES_MAX = 1 << 30
"""Of one file, unpacked: WikiText-103 has half of it, an image file here a twentieth. More would fit few devices.

A text takes some 5 bytes of memory a character until it is windows (WikiText-2, measured: 4 while its file is read, 2
for the text itself, 2.6 for its windows besides)."""
_HEADER_BYTES = 64
"""Room for a file's own header and packing above that."""
_AT_ONCE = 1024
"""Images whose pixels are counted at once: counting takes eight bytes for each of them."""
_PIXEL_MAX = 255
_IDX_UBYTE = 0x08
"""idx's type code of unsigned bytes; the third byte of the magic number, whose fourth counts the dimensions."""
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + math.prod(_CIFAR_SHAPE)
_CIFAR_CLASSES = 10
_CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_SHAKESPEARE_TRAIN = 0.9
"""Customary: the last tenth of the text is held out."""


@dataclass(frozen=True, slots=True, eq=False)
class Images(Indexed):
    """`x` uint8 (samples, channels, height, width), `y` int64 (samples,) from 0 on.

    Kept as bytes, a quarter of what float32 takes; `fetch` gives float32 (batch, channels, height, width), scaled to
    0..1, then per channel less `mean`, divided by `std` (each with one number per channel, of the training set).
    """

    x: Pixels
    y: Labels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.y)

    def first(self, count: int) -> Images:
        """Only the first `count`, or all where there are fewer."""
        return replace(self, x=self.x[:count], y=self.y[:count])

    def fetch(self, picked: Sequence[int]) -> tuple[npt.NDArray[np.float32], Labels]:
        """These images, normalised, and their labels."""
        scale = np.array(self.std, np.float32).reshape(-1, 1, 1)
        shift = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        index = np.asarray(picked, np.int64)
        return (self.x[index].astype(np.float32) / np.float32(_PIXEL_MAX) - shift) / scale, self.y[index]

    def labels(self) -> Labels:
        """All of them."""
        return self.y


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images to train on and unseen ones of the same shape and classes, normalised alike."""

    train: Images
    test: Images

    @property
    def channels(self) -> int:
        """1 grey, 3 red, green, blue."""
        return int(self.train.x.shape[1])

    @property
    def classes(self) -> int:
        """One more than the largest label of the training set."""
        return int(self.train.y.max()) + 1


@dataclass(frozen=True, slots=True)
class Texts:
    """A text to train on, one to choose by, one for the very end (empty where the data set has none)."""

    train: str
    validation: str
    test: str


def image_set(train: tuple[Pixels, Labels], test: tuple[Pixels, Labels]) -> ImageSet:
    """Normalised by mean and standard deviation of the training pixels, computed in float64 from exact counts."""
    mean, std = zip(*(_moments(train[0][:, channel]) for channel in range(train[0].shape[1])), strict=True)
    return ImageSet(Images(*train, mean, std), Images(*test, mean, std))


def fashion_mnist(folder: str | Path) -> ImageSet:
    """Fashion-MNIST or MNIST, idx files as they are given away, each packed (.gz) or not; 1 x 28 x 28, 10 classes.

    Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` in
    `folder`, or where torchvision puts them below it. Raises `TaskError`.
    """
    places = ("", "FashionMNIST/raw", "MNIST/raw", "raw")
    train, test = (
        idx_pair(*(_found(folder, places, _idx_names(f"{split}-{what}")) for what in _IDX_KINDS))
        for split in ("train", "t10k")
    )
    if train[0].shape[1:] != test[0].shape[1:] or test[1].max() > train[1].max():
        raise TaskError(f"{folder}: training and test images differ in size or classes; use the files of one data set")
    return image_set(train, test)


def cifar10(folder: str | Path) -> ImageSet:
    """CIFAR-10, binary version: `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`; 3 x 32 x 32, 10 classes.

    They lie in `folder` or in `cifar-10-batches-bin` below it. Raises `TaskError`.
    """
    places = ("", "cifar-10-batches-bin")
    parts = [_cifar_file(_found(folder, places, (name,))) for name in (*_CIFAR_TRAIN, "test_batch.bin")]
    train = np.concatenate([x for x, _ in parts[:-1]]), np.concatenate([y for _, y in parts[:-1]])
    return image_set(train, parts[-1])


def wikitext2(folder: str | Path) -> Texts:
    """WikiText-2 (or -103), word level: `wiki.{train,valid,test}.tokens`, or `train.txt`, `valid.txt`, `test.txt`.

    They lie in `folder`, or in `wikitext-2` or `wikitext-103` below it. Raises `TaskError`.
    """
    places = ("", "wikitext-2", "wikitext-103")
    parts = ("train", "valid", "test")
    return Texts(*(text(_found(folder, places, (f"wiki.{part}.tokens", f"{part}.txt"))) for part in parts))


def tiny_shakespeare(folder: str | Path) -> Texts:
    """Tiny Shakespeare's `input.txt`: the first 90 % to train, the rest to validate; any text may be in the file.

    The cut is at the empty line before 90 %, so that no speech is torn. Raises `TaskError`.
    """
    return split_play(text(_found(folder, ("",), ("input.txt",))))


def split_play(whole: str) -> Texts:
    """The first 90 % of a text to train, the rest to validate, cut at the empty line before, if there is one."""
    most = int(len(whole) * _SHAKESPEARE_TRAIN)
    cut = whole.rfind("\n\n", 0, most) + 2
    return Texts(whole[: cut if cut > 1 else most], whole[cut if cut > 1 else most :], "")


def idx_pair(images: Path, labels: Path) -> tuple[Pixels, Labels]:
    """One idx file of images (samples, height, width) and one of labels: uint8 (samples, 1, height, width), int64."""
    x, y = idx(images, 3), idx(labels, 1)
    if len(x) != len(y):
        raise TaskError(f"{labels}: {len(y)} labels for {len(x)} images; take both files from the same data set")
    return x[:, None], y.astype(np.int64)


def idx(file: Path, dimensions: int) -> Pixels:
    """An idx file of unsigned bytes with that many dimensions, packed with gzip or not. Raises `TaskError`."""
    header = 4 + 4 * dimensions
    with _opened(file) as stream:
        head = np.frombuffer(_read(stream, header, file), ">u4")
        if head[0] != _IDX_UBYTE << 8 | dimensions:
            raise TaskError(
                f"{file}: is no idx file of {dimensions}-dimensional bytes (magic number {head[0]:#010x}); "
                "download it again, in its original form"
            )
        shape = tuple(int(size) for size in head[1:])
        if min(shape) < 1 or math.prod(shape) > FILE_BYTES_MAX:
            most = f"{FILE_BYTES_MAX >> 20} MiB"
            raise TaskError(f"{file}: says its shape is {shape}; each size must be above 0, all at most {most}")
        data = _read(stream, math.prod(shape), file)
        if _read_some(stream, 1, file):
            raise TaskError(f"{file}: goes on after its {shape} bytes; download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def text(file: Path) -> str:
    """A file of UTF-8 text, line ends as newlines. Raises `TaskError`."""
    try:
        found = _whole(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{file}: is not UTF-8 at byte {error.start}; save it as UTF-8 text") from error
    if not found.strip():
        raise TaskError(f"{file}: is empty; put the data set's text there")
    return found.replace("\r\n", "\n")


_IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx_names(name: str) -> list[str]:
    """How the file may be called: some collections have a dot where the originals have a hyphen."""
    dotted = name.replace("-idx", ".idx")
    return [name, f"{name}.gz", dotted, f"{dotted}.gz"]


def _cifar_file(file: Path) -> tuple[Pixels, Labels]:
    """Records of one label byte and 3,072 pixel bytes: red, green, blue, each row by row."""
    data = np.frombuffer(_whole(file), np.uint8)
    if not len(data) or len(data) % _CIFAR_RECORD:
        raise TaskError(
            f"{file}: {len(data)} bytes are no whole number of {_CIFAR_RECORD}-byte records; download the binary "
            "version of CIFAR-10 again"
        )
    records = data.reshape(-1, _CIFAR_RECORD)
    if records[:, 0].max() >= _CIFAR_CLASSES:
        raise TaskError(f"{file}: label {records[:, 0].max()} in CIFAR-10; download its binary version again")
    return records[:, 1:].reshape(-1, *_CIFAR_SHAPE), records[:, 0].astype(np.int64)


def _moments(pixels: Pixels) -> tuple[float, float]:
    """Mean and standard deviation (never 0) on the scale 0..1, the same bits on every machine: of a histogram."""
    histogram = np.zeros(_PIXEL_MAX + 1, np.int64)
    for start in range(0, len(pixels), _AT_ONCE):
        histogram += np.bincount(pixels[start : start + _AT_ONCE].reshape(-1), minlength=_PIXEL_MAX + 1)
    counts = histogram.tolist()
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    variance = (second * total - first * first) / (total * total)
    return first / total / _PIXEL_MAX, math.sqrt(variance) / _PIXEL_MAX or 1.0


def _found(folder: str | Path, places: Sequence[str], names: Sequence[str]) -> Path:
    """The first of these files that exists. Raises `TaskError`."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise TaskError(f"{folder}: there is no such folder; give the one that holds {names[0]}")
    for file in _candidates(root, places, names):
        if file.is_file():
            return file
    packed = " (or .gz)" if f"{names[0]}.gz" in names else ""
    raise TaskError(f"{root / names[0]}{packed}: there is no such file; download the data set and put it there")


def _candidates(root: Path, places: Sequence[str], names: Sequence[str]) -> Iterator[Path]:
    return (root / place / name for place in places for name in names)


def _whole(file: Path) -> bytes:
    """A plain file's bytes. Raises `TaskError` for one that is too large or cannot be read."""
    with _opened(file) as stream:
        return _read_some(stream, file.stat().st_size, file)


def _opened(file: Path) -> BufferedIOBase:
    """The file's bytes, unpacked if its name ends in .gz. Raises `TaskError` for one that is too large."""
    try:
        if file.stat().st_size > FILE_BYTES_MAX + _HEADER_BYTES:
            raise TaskError(f"{file}: is larger than {FILE_BYTES_MAX >> 20} MiB; give a part of it")
        return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")
    except OSError as error:
        raise TaskError(f"{file}: cannot be read: {error.strerror or error}") from error


def _read(stream: BufferedIOBase, size: int, file: Path) -> bytes:
    """Exactly so many bytes. Raises `TaskError` for fewer."""
    data = _read_some(stream, size, file)
    if len(data) < size:
        raise TaskError(f"{file}: is cut short, {len(data)} of {size} bytes; download it again")
    return data


def _read_some(stream: BufferedIOBase, size: int, file: Path) -> bytes:
    """At most so many bytes: a small packed file may hold far more."""
    try:
        return stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{file}: is damaged ({error}); download it again") from error

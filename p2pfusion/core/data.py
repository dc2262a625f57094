"""The owner's data, in one of two forms: `Samples` that can be fetched by index, and a `Stream` of ready batches.

An owner whose data would be too large as ready tensors (images kept as bytes, windows of one long text) gives an
`Indexed`, which makes a batch when it is asked for. Both forms give an infinite, reshuffled run of batches to train on,
one finite pass to evaluate, and a part of themselves for one of several nodes. Batches are `(x, y)` tensors;
floating point becomes float32 and integer labels int64.

Knows no model and no swarm; randomness is the generator it is given.
"""

from __future__ import annotations

import itertools
import operator
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from p2pfusion.errors import TaskError

Batch = tuple[torch.Tensor, torch.Tensor]
Deal = Callable[[int, int], Sequence[npt.NDArray[np.int64]]]
"""(parts, seed) -> the sample numbers of every part, counted from 0; the same on every machine (`zoo.partition`)."""


class Indexed(ABC):
    """Samples by number, of which a whole batch is made at once. Instances must not change: threads read them."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def fetch(self, picked: Sequence[int]) -> Any:
        """`(x, y)` of these samples, each a tensor or array whose first dimension is `len(picked)`."""

    def labels(self) -> Any:
        """y of all samples as a tensor or array, where that needs no x; else None."""
        return None


class Data(Protocol):
    """What training and evaluation need."""

    @property
    def samples(self) -> int | None:
        """How many there are; None when only a pass would tell."""
        ...

    @property
    def batches_per_pass(self) -> int | None:
        """Batches in one pass; None when only a pass would tell."""
        ...

    @property
    def labels(self) -> torch.Tensor | None:
        """y of all samples, where it is at hand without reading x."""
        ...

    def batches(self, rng: random.Random) -> Iterator[Batch]:
        """Batches without end, in a new order every pass."""
        ...

    def once(self) -> Iterator[Batch]:
        """One pass in a fixed order."""
        ...

    def part(self, index: int, parts: int, seed: int) -> Data:
        """The `index`-th (from 0) of `parts` disjoint parts; every node with the same seed deals alike."""
        ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples that `fetch` collects by index into one batch."""

    fetch: Callable[[Sequence[int]], Any]
    order: tuple[int, ...]
    batch_size: int
    targets: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """y of all samples, of which `order` picks, where it is at hand without reading x."""

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.order)

    @property
    def labels(self) -> torch.Tensor | None:
        """y of these samples, where it is at hand."""
        return None if self.targets is None else self.targets[torch.tensor(self.order)]

    @property
    def batches_per_pass(self) -> int:
        """Batches in one pass; the last one may be short."""
        return -(-len(self.order) // self.batch_size)

    def batches(self, rng: random.Random) -> Iterator[Batch]:
        """Batches without end. A short last batch is left out where there is a full one: gradients stay comparable."""
        order = list(self.order)
        full = max(1, len(order) // self.batch_size)
        while True:
            rng.shuffle(order)
            for number in range(full):
                yield as_batch(self.fetch(order[number * self.batch_size : (number + 1) * self.batch_size]))

    def once(self) -> Iterator[Batch]:
        """One pass in the given order, every sample once."""
        for start in range(0, len(self.order), self.batch_size):
            yield as_batch(self.fetch(self.order[start : start + self.batch_size]))

    def part(self, index: int, parts: int, seed: int) -> Samples:
        """A shuffled deal, one sample each in turn. Raises `TaskError` for a part that would be empty."""
        _check_part(index, parts)
        order = list(self.order)
        random.Random(f"p2pfusion data part {seed}").shuffle(order)
        mine = tuple(order[index::parts])
        if not mine:
            raise TaskError(f"data part {index + 1}/{parts} is empty: there are only {len(order)} samples")
        return replace(self, order=mine)

    def chosen(self, picked: Sequence[int] | npt.NDArray[np.int64]) -> Samples:
        """Only these, by their place in `order`. Raises `TaskError` for none, one twice, or one that there is not."""
        try:
            given = list(picked)
            if any(_is_truth(place) for place in given):
                raise TaskError("partition: a part must be sample numbers, not a mask; give np.flatnonzero(mask)")
            places = [operator.index(place) for place in given]
        except TypeError as error:
            raise TaskError("partition: a part must be a list or array of sample numbers, each an integer") from error
        if not places:
            raise TaskError("partition: a part is empty; ask for fewer parts, or deal more evenly")
        if min(places) < 0 or max(places) >= len(self.order):
            raise TaskError(f"partition: sample numbers must be 0 to {len(self.order) - 1}")
        if len(set(places)) < len(places):
            raise TaskError("partition: a part has a sample number twice; give each once, as np.unique does")
        return replace(self, order=tuple(self.order[place] for place in places))


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches the owner makes: anything that can be iterated again and again. Its order is its own affair."""

    source: Iterable[Any]
    index: int = 0
    parts: int = 1

    @property
    def samples(self) -> None:
        """Unknown without a pass."""
        return None

    @property
    def labels(self) -> None:
        """Unknown without a pass."""
        return None

    @property
    def batches_per_pass(self) -> int | None:
        """From the source's own length, if it has one."""
        try:
            total = len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return None
        return len(range(self.index, total, self.parts))

    def batches(self, rng: random.Random) -> Iterator[Batch]:
        """Pass after pass. Raises `TaskError` when a pass is empty."""
        while True:
            batch = None
            for batch in self.once():
                yield batch
            if batch is None:
                raise TaskError("train: the data ran empty; give something that can be iterated again and again")

    def once(self) -> Iterator[Batch]:
        """One pass."""
        return map(as_batch, itertools.islice(iter(self.source), self.index, None, self.parts))

    def part(self, index: int, parts: int, seed: int) -> Stream:
        """Every `parts`-th batch. The source must give its batches in the same order everywhere for disjoint parts."""
        _check_part(index, parts)
        return Stream(self.source, self.index + index * self.parts, self.parts * parts)


def as_data(source: Any, batch_size: int, name: str) -> Data:
    """Accept (x, y) tensors or arrays, an `Indexed`, a torch Dataset, a DataLoader, or a re-iterable of (x, y) batches.

    Raises `TaskError`, beginning with `name`, for anything else.
    """
    if isinstance(source, Samples | Stream):
        return source
    if isinstance(source, Indexed):
        return Samples(source.fetch, _order(len(source), name), batch_size, _labels_of(source, name))
    if isinstance(source, tuple | list) and len(source) == 2 and all(_is_array(item) for item in source):
        return _pair(source[0], source[1], batch_size, name)
    if isinstance(source, IterableDataset):
        raise TaskError(f"{name}: an IterableDataset gives single samples; wrap it in a DataLoader")
    if isinstance(source, DataLoader):
        return _loader(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | tuple):
        return Samples(
            lambda picked: default_collate([source[i] for i in picked]), _order(len(source), name), batch_size
        )
    if isinstance(source, Iterable):
        if iter(source) is source:
            raise TaskError(f"{name}: a {type(source).__name__} can be read only once; give a list or a DataLoader")
        return Stream(source)
    raise TaskError(f"{name}: {type(source).__name__} is no data; give (x, y), a Dataset, a DataLoader or batches")


def part_of(data: Data, part: tuple[int, int], seed: int, deal: Deal | None = None) -> Data:
    """Part `(i, n)` (i from 0) of the data: as `deal` says, else an even deal. Raises `TaskError`.

    Whether the parts of a `deal` overlap, or leave samples out, is the owner's affair and not checked.
    """
    index, parts = part
    if deal is None:
        return data.part(index, parts, seed)
    _check_part(index, parts)
    if not isinstance(data, Samples):
        raise TaskError("partition: ready batches have no sample numbers; give arrays or a Dataset, or no partition")
    try:
        dealt = deal(parts, seed)
        given = len(dealt)
    except Exception as error:
        raise TaskError(f"partition({parts}, {seed}): {type(error).__name__}: {error}") from error
    if given != parts:
        raise TaskError(f"partition({parts}, {seed}): returned {given} parts; return {parts}, one for every node")
    return data.chosen(dealt[index])


def as_batch(item: Any) -> Batch:
    """`(x, y)` as tensors. Raises `TaskError` when it is no pair of arrays."""
    if not (isinstance(item, tuple | list) and len(item) == 2 and all(_is_array(part) for part in item)):
        raise TaskError(f"data: a batch must be a pair (x, y) of tensors or arrays, not {type(item).__name__}")
    return _as_tensor(item[0]), _as_tensor(item[1], labels=True)


def _pair(x: Any, y: Any, batch_size: int, name: str) -> Samples:
    inputs, targets = _as_tensor(x), _as_tensor(y, labels=True)
    if inputs.ndim < 1 or targets.ndim < 1 or len(inputs) != len(targets):
        raise TaskError(f"{name}: x has shape {tuple(inputs.shape)} and y {tuple(targets.shape)}; lengths must agree")

    def fetch(picked: Sequence[int]) -> Batch:
        index = torch.tensor(picked, dtype=torch.int64)
        return inputs[index], targets[index]

    return Samples(fetch, _order(len(inputs), name), batch_size, targets)


def _loader(loader: DataLoader[Any]) -> Data:
    """A plain loader becomes samples, so that it can be dealt into parts; one with its own sampler stays a stream."""
    plain = type(getattr(loader, "sampler", None)) in (RandomSampler, SequentialSampler) and loader.num_workers == 0
    if not plain or loader.batch_size is None:
        return Stream(loader)
    dataset: Any = loader.dataset
    collate = loader.collate_fn
    order = _order(len(dataset), "DataLoader")
    return Samples(lambda picked: collate([dataset[i] for i in picked]), order, loader.batch_size)


def _labels_of(source: Indexed, name: str) -> torch.Tensor | None:
    known = source.labels()
    if known is not None and not (_is_array(known) and len(known) == len(source)):
        raise TaskError(f"{name}: labels() must give {len(source)} labels as a tensor or array, or None")
    return None if known is None else _as_tensor(known, labels=True)


def _order(count: int, name: str) -> tuple[int, ...]:
    if count < 1:
        raise TaskError(f"{name}: there is no data")
    return tuple(range(count))


def _is_array(item: Any) -> bool:
    return isinstance(item, torch.Tensor | np.ndarray)


def _is_truth(item: Any) -> bool:
    """Python's, numpy's or torch's; all but numpy's would pass for the numbers 0 and 1."""
    return isinstance(item, bool | np.bool_) or getattr(item, "dtype", None) == torch.bool


def _as_tensor(item: Any, labels: bool = False) -> torch.Tensor:
    tensor = item if isinstance(item, torch.Tensor) else torch.from_numpy(np.array(item))
    if tensor.is_floating_point():
        return tensor.to(torch.float32)
    return tensor.to(torch.int64) if labels else tensor


def _check_part(index: int, parts: int) -> None:
    if not 0 <= index < parts:
        raise TaskError(f"data part {index + 1}/{parts}: parts count from 1 to {parts}")

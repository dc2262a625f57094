"""Every form an owner's data may take, and its parts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from p2pfusion.core.data import Data, Indexed, Samples, Stream, as_batch, as_data, part_of
from p2pfusion.errors import TaskError

X, Y = np.arange(20, dtype=np.float64).reshape(10, 2), np.arange(10, dtype=np.int32)
TENSORS = TensorDataset(torch.arange(20.0).reshape(10, 2), torch.arange(10))


class Endless(IterableDataset[tuple[int, int]]):
    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.repeat((1, 1))


def ready() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.ones(2, 2), torch.full((2,), number)) for number in range(5)]


class Batches:
    """Re-iterable, without a length."""

    def __iter__(self) -> Iterator[object]:
        return iter(ready())


SOURCES = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: [torch.from_numpy(X), torch.from_numpy(Y)],
    "dataset": lambda: TENSORS,
    "loader": lambda: DataLoader(TENSORS, batch_size=4, shuffle=True),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_samples(kind: str) -> None:
    data = as_data(SOURCES[kind](), 4, "train")
    assert data.samples == 10
    assert data.batches_per_pass == 3
    x, y = zip(*data.once(), strict=True)
    assert torch.equal(torch.cat(y), torch.arange(10))
    assert torch.cat(x).dtype == torch.float32
    assert torch.cat(y).dtype == torch.int64
    first = [y.tolist() for _, y in itertools.islice(data.batches(random.Random(1)), 6)]
    assert first == [y.tolist() for _, y in itertools.islice(data.batches(random.Random(1)), 6)]
    assert all(len(batch) == 4 for batch in first)
    assert sorted(set(itertools.chain(*first))) == list(range(10))
    assert as_data(data, 1, "train") is data


@pytest.mark.parametrize(
    "source", [ready(), Batches(), DataLoader(TENSORS, sampler=WeightedRandomSampler([1.0] * 10, 10))]
)
def test_streams(source: object) -> None:
    data = as_data(source, 4, "train")
    assert isinstance(data, Stream)
    assert data.samples is None
    assert len(list(itertools.islice(data.batches(random.Random(0)), 12))) == 12


def test_a_stream_is_dealt_batch_by_batch() -> None:
    data = as_data(ready(), 4, "train")
    parts = [data.part(index, 2, 0) for index in range(2)]
    assert [[int(y[0]) for _, y in part.once()] for part in parts] == [[0, 2, 4], [1, 3]]
    assert [part.batches_per_pass for part in parts] == [3, 2]
    assert [int(y[0]) for _, y in parts[0].part(1, 2, 0).once()] == [2]
    assert as_data(Batches(), 4, "train").batches_per_pass is None
    with pytest.raises(TaskError, match="ran empty"):
        next(data.part(5, 6, 0).batches(random.Random(0)))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_parts_of_samples_are_disjoint_and_complete(count: int, parts: int, seed: int) -> None:
    data: Data = Samples(lambda picked: (torch.zeros(len(picked)), torch.tensor(picked)), tuple(range(count)), 4)
    if parts > count:
        with pytest.raises(TaskError, match="empty"):
            data.part(parts - 1, parts, seed)
        return
    dealt = [[int(label) for _, y in data.part(index, parts, seed).once() for label in y] for index in range(parts)]
    assert sorted(itertools.chain(*dealt)) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("part", [(3, 3), (-1, 3), (0, 0)])
def test_parts_are_checked(part: tuple[int, int]) -> None:
    for source in ((X, Y), ready()):
        for deal in (None, lambda parts, seed: [np.arange(2)] * 9):
            with pytest.raises(TaskError, match="data part"):
                part_of(as_data(source, 4, "train"), part, 0, deal)


class Squares(Indexed):
    """Sample i is i, its label its square; whole batches only."""

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def fetch(self, picked: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        x = np.array(picked)
        return x[:, None].astype(np.float64), x**2


def labels(data: Data) -> list[int]:
    return [int(label) for _, y in data.once() for label in y]


class Named(Squares):
    """Says its labels without x, or says something wrong."""

    def __init__(self, said: object) -> None:
        super().__init__()
        self.said = said

    def labels(self) -> object:
        return self.said


def test_labels_that_are_at_hand_follow_the_part() -> None:
    data = as_data(Named(np.arange(10) ** 2), 4, "train")
    part = part_of(data, (1, 2), 0)
    assert part.labels is not None
    assert part.labels.tolist() == labels(part)
    assert as_data(Squares(), 4, "train").labels is None
    for wrong in (np.arange(9), np.arange(11), "0123456789"):
        with pytest.raises(TaskError, match=r"train: labels\(\) must give 10 labels"):
            as_data(Named(wrong), 4, "train")


def test_indexed_data_are_fetched_batch_by_batch() -> None:
    data = as_data(Squares(), 4, "train")
    assert (data.samples, data.batches_per_pass) == (10, 3)
    assert labels(data) == [number**2 for number in range(10)]
    x, y = next(data.batches(random.Random(0)))
    assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (4, 1))
    with pytest.raises(TaskError, match="train: there is no data"):
        as_data(Squares(0), 4, "train")


def test_an_own_deal_decides_who_gets_what() -> None:
    def odd_and_even(parts: int, seed: int) -> list[np.ndarray]:
        return [np.arange(part, 10, parts) + 0 * seed for part in range(parts)]

    data = as_data(Squares(), 4, "train")
    assert labels(part_of(data, (1, 2), 7, odd_and_even)) == [1, 9, 25, 49, 81]
    assert labels(part_of(part_of(data, (1, 2), 7, odd_and_even), (0, 1), 7, lambda *_: [[4, 0]])) == [81, 1]
    assert labels(part_of(data, (1, 2), 7)) == labels(data.part(1, 2, 7))


@pytest.mark.parametrize(
    ("dealt", "words"),
    [
        ([[]], "a part is empty; ask for fewer parts"),
        ([[0], [1]], r"partition\(1, 7\): returned 2 parts; return 1, one for every node"),
        ([[True, False, True]], r"not a mask; give np\.flatnonzero\(mask\)"),
        ([np.arange(10) < 5], r"not a mask; give np\.flatnonzero\(mask\)"),
        ([torch.arange(10) < 5], r"not a mask; give np\.flatnonzero\(mask\)"),
        ([[3, 4, 3]], "a sample number twice; give each once"),
        ([[10]], "sample numbers must be 0 to 9"),
        ([[-1]], "sample numbers must be 0 to 9"),
        ([[0.5]], "each an integer"),
        ([3], "each an integer"),
        ([], r"partition\(1, 7\): returned 0 parts"),
        (None, r"partition\(1, 7\): TypeError"),
    ],
)
def test_a_wrong_deal_is_named(dealt: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        part_of(as_data(Squares(), 4, "train"), (0, 1), 7, lambda parts, seed: dealt)


def test_ready_batches_cannot_be_dealt_by_number() -> None:
    with pytest.raises(TaskError, match="ready batches have no sample numbers"):
        part_of(as_data(ready(), 4, "train"), (0, 2), 0, lambda parts, seed: [np.arange(1)] * 2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (7, "int is no data"),
        (iter([]), "read only once"),
        ((X, Y[:3]), "lengths"),
        ((X[:0], Y[:0]), "no data"),
        ((X, np.float32(1)), "read only|no data|pair"),
        (Endless(), "DataLoader"),
    ],
)
def test_what_is_no_data_is_refused(source: object, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        list(as_data(source, 4, "train").once())


def test_batches_are_pairs() -> None:
    with pytest.raises(TaskError, match="pair"):
        as_batch(torch.zeros(3))
    x, y = as_batch((np.zeros((2, 3), np.uint8), np.zeros(2)))
    assert x.dtype == torch.uint8
    assert y.dtype == torch.float32

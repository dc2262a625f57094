"""Dealing data: complete, disjoint, reproducible; uneven when asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.zoo.partition import dirichlet, iid

LABELS = np.arange(600) % 10


@given(st.integers(1, 200), st.data(), st.integers(0, 5))
def test_iid_deals_everything_once_and_evenly(count: int, data: st.DataObject, seed: int) -> None:
    parts = iid(count, data.draw(st.integers(1, count)), seed)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.floats(1e-9, 100), st.integers(0, 5))
def test_dirichlet_deals_everything_once_and_nobody_gets_nothing(
    labels: list[int], data: st.DataObject, alpha: float, seed: int
) -> None:
    parts = dirichlet(np.array(labels), data.draw(st.integers(1, len(labels))), alpha, seed)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(len(labels)))
    assert min(map(len, parts)) >= 1


def test_small_alpha_means_few_classes_per_part() -> None:
    def classes(alpha: float) -> float:
        return float(np.mean([len(np.unique(LABELS[part])) for part in dirichlet(LABELS, 10, alpha, 0)]))

    assert classes(0.05) < 4 < 9 < classes(100)


def test_partitions_are_reproducible_on_every_machine() -> None:
    assert iid(10, 3, 7)[0].tolist() == IID
    assert dirichlet(np.arange(20) % 2, 3, 0.5, 7)[0].tolist() == DIRICHLET
    assert iid(10, 3, 8)[0].tolist() != IID


IID = [3, 5, 7, 9]
DIRICHLET = [2, 4, 12, 18]


@pytest.mark.parametrize("parts", [0, 11])
def test_parts_are_checked(parts: int) -> None:
    with pytest.raises(ValueError, match="parts"):
        iid(10, parts, 0)
    with pytest.raises(ValueError, match="parts"):
        dirichlet(np.zeros(10, np.int64), parts, 1.0, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        dirichlet(LABELS, 2, alpha, 0)

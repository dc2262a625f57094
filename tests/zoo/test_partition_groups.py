"""Dealing by label shards, by group and in runs: complete, disjoint, nobody empty, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.zoo.partition import by_group, contiguous, label_shards

LABELS = np.arange(600) % 10
SPEAKERS = np.repeat(np.arange(5), [50, 20, 20, 15, 5])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(1, 4), st.integers(0, 5))
def test_label_shards_deal_everything_once_and_nobody_gets_nothing(
    labels: list[int], data: st.DataObject, extra: int, seed: int
) -> None:
    parts = data.draw(st.integers(1, len(labels)))
    least = -(-len(set(labels)) // parts)
    dealt = label_shards(np.array(labels), parts, least + extra - 1, seed)
    assert np.sort(np.concatenate(dealt)).tolist() == list(range(len(labels)))
    assert len(dealt) == parts
    assert min(map(len, dealt)) >= 1


def test_label_shards_are_the_papers() -> None:
    """10 classes, 8 parts, 5 shards each: 4 equal shards of 15 images per class, dealt at random."""
    dealt = label_shards(LABELS, 8, 5, 3)
    assert [len(part) for part in dealt] == [75] * 8
    shares = np.array([np.bincount(LABELS[part], minlength=10) for part in dealt])
    assert (shares % 15 == 0).all()
    assert (shares.sum(0) == 60).all()
    assert max(np.count_nonzero(share) for share in shares) <= 5
    assert len({share.tobytes() for share in shares}) > 1


def test_more_shards_than_the_classes_divide() -> None:
    dealt = label_shards(LABELS, 3, 4, 0)
    assert [len(np.unique(LABELS[part])) <= 4 for part in dealt] == [True] * 3
    assert len(np.unique(LABELS[np.concatenate(dealt)])) == 10


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.data(), st.integers(0, 5))
def test_groups_stay_together(groups: list[int], data: st.DataObject, seed: int) -> None:
    names = np.array(groups)
    parts = data.draw(st.integers(1, len(np.unique(names))))
    dealt = by_group(names, parts, seed)
    assert np.sort(np.concatenate(dealt)).tolist() == list(range(len(groups)))
    assert min(map(len, dealt)) >= 1
    owners = [(name, part) for part, mine in enumerate(dealt) for name in np.unique(names[mine]).tolist()]
    assert len(owners) == len(np.unique(names)), "a group is in two parts"
    # Largest first to the lightest: nobody has more than the lightest and one group besides.
    sizes = [len(mine) for mine in dealt]
    assert max(sizes) - min(sizes) <= np.bincount(names).max()


def test_groups_are_balanced_by_size() -> None:
    assert sorted(len(part) for part in by_group(SPEAKERS, 2, 0)) == [55, 55]
    assert sorted(len(part) for part in by_group(SPEAKERS, 3, 0)) == [25, 35, 50]


@given(st.integers(1, 200), st.data())
def test_runs_are_contiguous_and_even(count: int, data: st.DataObject) -> None:
    dealt = contiguous(count, data.draw(st.integers(1, count)))
    assert np.concatenate(dealt).tolist() == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_they_are_reproducible_on_every_machine() -> None:
    assert label_shards(np.arange(12) % 3, 3, 2, 7)[0].tolist() == SHARDS
    assert by_group(np.arange(12) % 6, 3, 7)[0].tolist() == GROUPS
    assert label_shards(np.arange(12) % 3, 3, 2, 8)[0].tolist() != SHARDS
    assert by_group(np.arange(12) % 6, 3, 8)[0].tolist() != GROUPS


SHARDS = [1, 2, 5, 7]
GROUPS = [1, 5, 7, 11]


@pytest.mark.parametrize("parts", [0, 11])
def test_parts_are_checked(parts: int) -> None:
    with pytest.raises(ValueError, match="parts"):
        label_shards(np.zeros(10, np.int64), parts, 1, 0)
    with pytest.raises(ValueError, match="number of groups"):
        by_group(np.arange(10), parts, 0)
    with pytest.raises(ValueError, match="parts"):
        contiguous(10, parts)


@pytest.mark.parametrize("shards", [0, 4])
def test_every_class_needs_a_shard(shards: int) -> None:
    with pytest.raises(ValueError, match="at least 5, for 10 classes"):
        label_shards(LABELS, 2, shards, 0)

"""The honest figures: same split, same steps, same start; nothing but the width and the company differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from p2pfusion.core.task import Task
from p2pfusion.errors import TrainingError
from p2pfusion.lab.comparisons import Comparisons, compare


def blobs(validation: bool = True, rate: float = 0.05) -> Task:
    """Three well separated clouds of points."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(120) % 3
    x = torch.randn(120, 4, generator=generator) * 0.3 + nn.functional.one_hot(y, 4).float() * 2
    return Task(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)),
        (x[:90], y[:90]),
        (x[90:], y[90:]) if validation else None,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
        batch_size=10,
        steps_per_round=3,
    )


def test_all_three_learn_an_easy_task_and_are_reproducible() -> None:
    first = compare(blobs(), nodes=3, rate=0.5, rounds=8, seed=0)
    for accuracy in (first.alone_accuracy, first.small_accuracy, first.full_accuracy):
        assert accuracy is not None
        assert accuracy > 0.9
    assert compare(blobs(), nodes=3, rate=0.5, rounds=8, seed=0) == first


def test_with_one_node_alone_is_the_full_model() -> None:
    result = compare(blobs(), nodes=1, rate=0.5, rounds=2, seed=3)
    assert result.alone_accuracy == result.full_accuracy


def test_a_slice_of_everything_is_the_full_model() -> None:
    result = compare(blobs(), nodes=2, rate=1.0, rounds=2, seed=3)
    assert result.small_accuracy == result.full_accuracy


def test_without_validation_data_there_is_nothing_to_say() -> None:
    result = compare(blobs(validation=False), nodes=2, rate=0.5, rounds=1, seed=0)
    assert result == Comparisons(alone_accuracy=None, small_accuracy=None, full_accuracy=None)


def test_a_task_that_diverges_says_so() -> None:
    with pytest.raises(TrainingError):
        compare(blobs(rate=1e30), nodes=2, rate=0.5, rounds=5, seed=0)

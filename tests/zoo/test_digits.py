"""The built-in data set and its task."""

from __future__ import annotations

import random
from importlib import resources

import numpy as np
import pytest

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import extract, scatter_add
from p2pfusion.core.task import prepare
from p2pfusion.core.training import evaluate, train
from p2pfusion.zoo import digits
from p2pfusion.zoo.tasks import TASKS, digits_task


def test_the_split_is_stratified_disjoint_and_complete() -> None:
    training, test = digits.load()
    assert training.x.shape == (1437, 64)
    assert test.x.shape == (360, 64)
    assert np.bincount(test.y).tolist() == [36] * 10
    assert (training.x.dtype, training.y.dtype) == (np.float32, np.int64)
    assert (training.x.min(), training.x.max()) == (0, 1)
    again = digits.load()[1]
    assert (again.x == test.x).all()
    assert test.y[:12].tolist() == digits.load()[1].y[:12].tolist()


def test_the_file_is_small_and_attributed() -> None:
    folder = resources.files("p2pfusion.zoo")
    assert len((folder / "digits.npz").read_bytes()) < 50_000
    attribution = (folder / "DIGITS.md").read_text()
    for word in ("UCI Machine Learning Repository", "Alpaydin", "Kaynak", "CC BY 4.0"):
        assert word in attribution


def test_the_registry() -> None:
    assert TASKS["digits"] is digits_task
    with pytest.raises(TypeError):
        TASKS["other"] = digits_task  # type: ignore[index]


def test_the_task_is_the_announced_network_and_learns_in_slices() -> None:
    prepared = prepare(digits_task(), seed=0)
    assert isinstance(prepared.blueprint, Blueprint)
    assert prepared.blueprint.size == 85_002
    assert prepared.validation is not None
    model = prepared.genesis.copy()
    batches = prepared.train.batches(random.Random(0))
    for round_index in range(4):
        seat = Seat(rank=0, peers=1, round=round_index, rates=(0.5,))
        sub_model = double_shift()(prepared.blueprint, seat, random.Random(0))
        start = extract(prepared.blueprint, model, sub_model)
        trained = train(prepared.blueprint, sub_model, start, batches, prepared.recipe)
        scatter_add(prepared.blueprint, model, sub_model, trained.after - start)
    assert evaluate(prepared.blueprint, model, prepared.validation) > 0.75

"""Calibrated training: what is learnt on skewed labels does not hold a rare class for unlikely."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.calibration import COUNTED_BATCHES_MAX, ERRORS, calibrated, excess, log_frequencies
from p2pfusion.core.data import as_data
from p2pfusion.core.task import Task, prepare
from p2pfusion.core.training import score, train
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp


def test_frequencies_are_counted_with_one_more_each():
    data = as_data((np.zeros((5, 2), np.float32), np.array([0, 0, 2, 0, 2])), 2, "train")
    found = log_frequencies(data, 4).exp()
    assert torch.allclose(found, torch.tensor([4.0, 1.0, 3.0, 1.0]) / 9)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5)])
def test_the_shift_is_added_to_the_logits_of_classes(shape):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(shape, generator=generator)
    target = torch.randint(0, 3, (shape[0], *shape[2:]), generator=generator)
    shift = torch.tensor([0.1, -2.0, 0.5])
    moved = output + shift.reshape(1, 3, *([1] * (len(shape) - 2)))
    assert torch.equal(calibrated(F.cross_entropy, shift)(output, target), F.cross_entropy(moved, target))


def skewed(calibrate):
    """Two classes that overlap, one 19 times as frequent here; both equally frequent in the validation data."""
    generator = torch.Generator().manual_seed(0)

    def drawn(first, second):
        y = torch.cat([torch.zeros(first, dtype=torch.int64), torch.ones(second, dtype=torch.int64)])
        return torch.randn(len(y), 2, generator=generator) + 1.5 * y[:, None], y

    return Task(mlp(2, (8,), 2), drawn(1900, 100), drawn(1000, 1000), steps_per_round=300, calibrate=calibrate)


def test_a_skewed_device_learns_what_holds_everywhere():
    accuracies = {}
    for calibrate in (False, True, None):
        prepared = prepare(skewed(calibrate), 0)
        whole = prepared.blueprint.whole()
        batches = prepared.train.batches(random.Random(0))
        after = train(prepared.blueprint, whole, prepared.genesis, batches, prepared.recipe).after
        accuracies[calibrate] = score(prepared.blueprint, whole, after, prepared.validation).accuracy
    assert min(accuracies[True], accuracies[None]) > 0.82 > 0.75 > accuracies[False]


def test_the_excess_is_measured_against_the_validation_labels():
    own, everywhere = torch.tensor([0] * 299 + [1] * 99), torch.tensor([0] * 99 + [1] * 299)
    found = excess(own, everywhere, 2)
    assert found is not None
    chance = ERRORS * (1 / 300 + 1 / 100) ** 0.5
    assert torch.allclose(found, (np.log(3.0) - chance) * torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("seed", range(5))
def test_what_chance_explains_is_no_excess(seed):
    """Equally frequent classes: hardly any of them is moved, and none by much, however few labels there are."""
    generator = torch.Generator().manual_seed(seed)
    own, everywhere = (torch.randint(0, 10, (count,), generator=generator) for count in (500, 60))
    found = excess(own, everywhere, 10)
    assert found is None or (int((found != 0).sum()) <= 2 and float(found.abs().max()) < 0.3)


def test_a_class_that_is_missing_here_is_held_back_the_more_the_surer_that_is():
    everywhere = torch.arange(2000) % 10
    few, many = (excess(torch.arange(count) % 9, everywhere, 10) for count in (90, 9000))
    assert few is not None and many is not None  # noqa: PT018
    assert many[9] < few[9] - 1 < few[9] < -0.2


@pytest.mark.parametrize(
    ("own", "everywhere"),
    [
        (torch.tensor([0, 1, -100]), torch.arange(40) % 2),  # a label that the loss leaves out
        (torch.arange(40) % 3, torch.arange(40) % 2),  # no class of the network
        (torch.zeros(40, 5, dtype=torch.int64), torch.arange(40) % 2),  # many labels a sample, as in a text
        (torch.arange(40.0) % 2, torch.arange(40) % 2),
    ],
)
def test_where_labels_do_not_tell_there_is_no_excess(own, everywhere):
    assert excess(own, everywhere, 2) is None


def test_nobody_is_adjusted_who_chose_a_loss_or_whose_labels_are_not_at_hand():
    task = skewed(None)
    assert prepare(task, 0).shift is not None
    assert prepare(replace(task, validation=None), 0).shift is None
    assert prepare(replace(task, loss=lambda output, y: F.cross_entropy(output, y)), 0).shift is None
    assert prepare(replace(task, train=[task.train]), 0).shift is None


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_torchs_own_cross_entropy_is_known(loss):
    assert prepare(replace(skewed(None), loss=loss), 0).shift is not None


def test_only_the_own_part_counts_beside_the_validation_data():
    task = replace(skewed(None), partition=lambda parts, seed: [range(1900), range(1900, 2000)])
    first, second = (prepare(task, 0, (part, 2)).shift for part in range(2))
    assert first[0] > 0 > first[1]
    assert second[1] > 0 > second[0]


def test_only_the_own_part_counts_and_the_owners_loss_evaluates():
    y = np.arange(40) % 2
    task = Task(mlp(2, (4,), 2), (np.zeros((40, 2), np.float32), y), calibrate=True,
                partition=lambda parts, seed: [np.flatnonzero(y == label) for label in range(2)])  # fmt: skip
    shifts = [prepare(task, 0, (part, 2)).shift for part in range(2)]
    assert torch.allclose(shifts[0].exp(), torch.tensor([21.0, 1.0]) / 22)
    assert torch.allclose(shifts[0], shifts[1].flip(0))
    prepared = prepare(replace(task, calibrate=False), 0)
    assert prepared.shift is None
    assert prepared.recipe.loss is prepared.loss


class Endless:
    """Batches of one label without end; counts those that are taken."""

    def __init__(self):
        self.taken = 0

    def __iter__(self):
        while True:
            self.taken += 1
            yield np.zeros((1, 2), np.float32), np.array([1])


def test_a_stream_is_read_so_far_and_samples_to_their_end():
    endless = Endless()
    found = log_frequencies(as_data(endless, 1, "train"), 2).exp()
    assert endless.taken == COUNTED_BATCHES_MAX
    assert float(found[1]) == pytest.approx((COUNTED_BATCHES_MAX + 1) / (COUNTED_BATCHES_MAX + 2))
    y = np.repeat([0, 1], COUNTED_BATCHES_MAX)
    sorted_by_class = as_data((np.zeros((len(y), 2), np.float32), y), 1, "train")
    assert torch.allclose(log_frequencies(sorted_by_class, 2).exp(), torch.tensor([0.5, 0.5]))


def time_first(output, y):
    """The loss of a language model whose output is (batch, time, vocabulary)."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def test_classes_must_be_where_the_shift_is_added():
    x, y = np.zeros((8, 5, 4), np.float32), np.zeros((8, 5), np.int64)
    task = Task(nn.Linear(4, 3), (x, y), loss=time_first)
    prepare(task, 0)
    with pytest.raises(TaskError, match=r"an output \(8, 5, 3\) and labels \(8, 5\).*classes in dimension 1, or leave"):
        prepare(replace(task, calibrate=True), 0)
    turned = replace(task, model=nn.Conv1d(5, 3, 1), train=(x, y[:, :4]), loss=F.cross_entropy, calibrate=True)
    assert prepare(turned, 0).shift.shape == (3,)
    single = Task(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1), nn.Flatten(0)), (x[:, 0], y[:, 0]), calibrate=True,
                  loss=lambda output, y: F.mse_loss(output, y.float()))  # fmt: skip
    with pytest.raises(TaskError, match=r"an output \(8,\) and labels \(8,\)"):
        prepare(single, 0)


def test_the_shifted_loss_is_tried_at_once():
    def fussy(output, y):
        if float(output.detach().exp().sum(1).mean()) < 1.5:
            raise ValueError("these are no logits")
        return F.cross_entropy(output, y)

    y = np.arange(8) % 3
    task = Task(mlp(2, (4,), 3), (np.zeros((8, 2), np.float32), y), loss=fussy)
    prepare(task, 0)
    with pytest.raises(TaskError, match="calibrate: the loss of shifted logits failed: ValueError: these are"):
        prepare(replace(task, calibrate=True), 0)


def test_labels_that_are_no_classes_are_refused():
    data = as_data((np.zeros((4, 2), np.float32), np.array([0, 1, 2, 3])), 2, "train")
    with pytest.raises(TaskError, match="class numbers below 3"):
        log_frequencies(data, 3)
    numbers = as_data((np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32)), 2, "train")
    with pytest.raises(TaskError, match="leave calibrate out"):
        log_frequencies(numbers, 3)

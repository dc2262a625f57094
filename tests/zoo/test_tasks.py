"""Built-in tasks whose data lie in a folder: each is prepared, dealt and trained one step as `join` would."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2pfusion.core.data import Samples
from p2pfusion.core.schemes import Seat, double_shift
from p2pfusion.core.submodel import extract
from p2pfusion.core.task import prepare
from p2pfusion.core.training import Recipe, score, train
from p2pfusion.errors import TaskError
from p2pfusion.zoo import tasks
from p2pfusion.zoo.tasks import FOLDER_TASKS, TASKS
from p2pfusion.zoo.text import Windows
from tests.zoo import written

WRITERS: dict[str, Callable[[Path], None]] = {
    "fashion": written.write_fashion,
    "mnist": written.write_fashion,
    "cifar10": written.write_cifar10,
    "shakespeare": written.write_shakespeare,
    "speakers": written.write_shakespeare,
    "wikitext2": written.write_wikitext2,
}


def test_every_name_stands_for_one_task() -> None:
    assert list(FOLDER_TASKS) == list(WRITERS)
    assert not FOLDER_TASKS.keys() & TASKS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_task_is_dealt_trained_in_a_slice_and_scored(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    task = FOLDER_TASKS[name].make(tmp_path)
    whole = prepare(task, 0).train
    parts = [prepare(task, 0, (index, 3)) for index in range(3)]
    assert sum(part.train.samples or 0 for part in parts) == whole.samples
    first = parts[0]
    seat = Seat(rank=0, peers=1, round=0, rates=(0.5,))
    sub_model = double_shift()(first.blueprint, seat, random.Random(0))
    start = extract(first.blueprint, first.genesis, sub_model)
    recipe = Recipe(loss=first.loss, optimizer=first.optimizer, steps=1)
    trained = train(first.blueprint, sub_model, start, first.train.batches(random.Random(0)), recipe)
    assert (trained.after != start).any()
    assert first.validation is not None
    found = score(first.blueprint, first.blueprint.whole(), first.genesis, first.validation, first.loss)
    assert 0 <= found.accuracy < 1
    assert found.loss > 0


@pytest.mark.parametrize(("name", "parameters"), [("fashion", 307_690), ("cifar10", 2_796_714)])
def test_the_networks_are_the_announced_ones(name: str, parameters: int, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    model = FOLDER_TASKS[name].make(tmp_path).model
    assert model.size == parameters  # type: ignore[union-attr]


def test_texts_are_dealt_in_pieces(tmp_path: Path) -> None:
    written.write_shakespeare(tmp_path)
    part = prepare(FOLDER_TASKS["shakespeare"].make(tmp_path), 0, (1, 3)).train
    assert isinstance(part, Samples)
    assert np.diff(part.order).tolist() == [1] * (len(part.order) - 1)
    assert part.order[0] > 0


def test_nobodys_words_are_on_two_devices(tmp_path: Path) -> None:
    written.write_shakespeare(tmp_path)
    task = FOLDER_TASKS["speakers"].make(tmp_path)
    assert isinstance(task.train, Windows)
    dealt = [prepare(task, 0, (index, 3)).train for index in range(3)]
    spoken = [frozenset(task.train.streams[list(part.order)].tolist()) for part in dealt if isinstance(part, Samples)]
    assert sorted(len(one) for one in spoken) == [1, 1, 1]
    assert len(frozenset.union(*spoken)) == 3


@pytest.mark.parametrize("start", ["", "ROMEO:\n", "JULIET:\nNo.\n\nROMEO:\n"])
def test_a_text_without_speakers_is_refused_with_the_fix(start: str, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(start + "I speak alone. " * 90)
    with pytest.raises(TaskError, match=r"fewer than 2 speakers .* a line NAME: .*shakespeare:DIR deals any text"):
        FOLDER_TASKS["speakers"].make(tmp_path)


def test_validation_looks_at_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write_fashion(tmp_path)
    written.write_shakespeare(tmp_path)
    monkeypatch.setattr(tasks, "VALIDATION_IMAGES", 7)
    assert len(FOLDER_TASKS["fashion"].make(tmp_path).validation) == 7
    monkeypatch.setattr(tasks, "VALIDATION_WINDOWS", 3)
    shown = FOLDER_TASKS["shakespeare"].make(tmp_path).validation
    assert isinstance(shown, Windows)
    assert 1 < len(shown) <= 3
    assert shown.starts[-1] + 64 > len(shown.tokens) // 2, "from the whole text"

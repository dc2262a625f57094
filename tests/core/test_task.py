"""Tasks: what a user may write, and what every mistake is answered with."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.data import Indexed
from p2pfusion.core.genesis import genesis
from p2pfusion.core.task import STEPS_PER_ROUND_DEFAULT_MAX, Task, prepare
from p2pfusion.core.task_file import load_task_file
from p2pfusion.core.training import flattened, train
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp

X, Y = np.random.Generator(np.random.Philox(1)).standard_normal((40, 4)).astype(np.float32), np.arange(40) % 3


def module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_defaults() -> None:
    prepared = prepare(Task(module(), (X, Y)), seed=5)
    assert prepared.validation is None
    assert prepared.steps_per_round == 2
    assert prepared.recipe.clip_norm == 1.0
    assert (prepared.genesis == genesis(prepared.blueprint, 5)).all()
    trained = train(
        prepared.blueprint,
        prepared.blueprint.whole(),
        prepared.genesis,
        prepared.train.batches(random.Random(0)),
        prepared.recipe,
    )
    assert trained.steps == 2


def test_given_weights_are_kept() -> None:
    model = module()
    assert (prepare(Task(model, (X, Y), init="given"), seed=5).genesis == flattened(model)).all()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def test_streams_stay_whole_where_the_task_says_so_also_with_given_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 8), Residual(), nn.Linear(8, 3))
    tasks = [Task(model, (X, Y), init="given", whole_streams=whole_streams) for whole_streams in (False, True)]
    cut, whole = (prepare(task, seed=5) for task in tasks)
    assert {axis.name: axis.units for axis in cut.blueprint.axes} == {"0.out": 8, "1.up.out": 16}
    assert {axis.name: axis.units for axis in whole.blueprint.axes} == {"0.out": 1, "1.up.out": 16}
    assert (whole.genesis == flattened(model)).all()
    with pytest.raises(TaskError, match="whole_streams: no axis"):
        prepare(Task(module(), (X, Y), whole_streams=True), seed=5)


def test_parts_and_the_length_of_a_round() -> None:
    task = Task(mlp(4, (8,), 3), (X, Y), (X, Y), batch_size=2)
    parts = [prepare(task, 0, (index, 3)) for index in range(3)]
    assert [part.train.samples for part in parts] == [14, 13, 13]
    assert parts[0].steps_per_round == 7
    assert parts[0].validation is not None
    assert parts[0].validation.samples == 40
    many = np.repeat(X, 100, axis=0), np.repeat(Y, 100)
    assert prepare(Task(module(), many, batch_size=2), 0).steps_per_round == STEPS_PER_ROUND_DEFAULT_MAX
    assert prepare(Task(module(), (X, Y), steps_per_round=7), 0).steps_per_round == 7

    class Batches:
        def __iter__(self) -> object:
            return iter([(X, Y)])

    assert prepare(Task(module(), Batches()), 0).steps_per_round == 20


def test_a_task_says_how_its_data_are_dealt() -> None:
    asked: list[tuple[int, int]] = []

    def by_class(parts: int, seed: int) -> list[np.ndarray]:
        asked.append((parts, seed))
        return [np.flatnonzero(part == Y) for part in range(parts)]

    task = Task(mlp(4, (8,), 3), (X, Y), (X, Y), partition=by_class)
    parts = [prepare(task, 5, (index, 3)) for index in range(3)]
    assert [{int(label) for _, y in part.train.once() for label in y} for part in parts] == [{0}, {1}, {2}]
    assert asked == [(3, 5)] * 3
    assert prepare(task, 5).train.samples == 40, "who brings data of their own keeps all of it"
    assert parts[0].validation is not None
    assert parts[0].validation.samples == 40


class Sentences(Indexed):
    """Seven labels a sample."""

    def __len__(self) -> int:
        return 600

    def fetch(self, picked: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(picked), 4, 7), np.float32), np.zeros((len(picked), 7), np.int64)


def test_an_evaluation_batch_holds_so_many_labels_or_a_training_batch() -> None:
    model = nn.Sequential(nn.Conv1d(4, 3, 1))
    for batch_size, expected in ((8, 256 // 7), (100, 100)):
        prepared = prepare(Task(model, Sentences(), Sentences(), batch_size=batch_size), 0)
        assert prepared.validation is not None
        assert len(next(prepared.validation.once())[0]) == expected
    prepared = prepare(Task(module(), (X, Y), (np.repeat(X, 10, axis=0), np.repeat(Y, 10))), 0)
    assert prepared.validation is not None
    assert len(next(prepared.validation.once())[0]) == 256


def test_preparing_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    prepare(Task(module(), (X, Y)), seed=5)
    model = module()
    torch.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(module().parameters(), model.parameters(), strict=True)) is False
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "resnet18"}, "str is neither"),
        ({"init": "mine"}, "'seed' or 'given'"),
        ({"model": mlp(4, (8,), 3), "init": "given"}, "no weights of its own"),
        ({"batch_size": 0}, "at least 1"),
        ({"steps_per_round": 0}, "at least 1"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"partition": "iid"}, r"partition: must be a function \(parts, seed\)"),
    ],
)
def test_tasks_check_their_fields(fields: dict[str, object], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        Task(**{"model": module(), "train": (X, Y), **fields})


class Broken:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> object:
        raise OSError("disk")


def frozen() -> nn.Sequential:
    return module().requires_grad_(False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train": (X, Y + 5)}, r"the loss of an output \(32, 3\) and labels \(32,\) failed"),
        ({"train": (X[:, :3], Y)}, r"0: Linear cannot take an input of shape \(32, 3\)"),
        ({"model": mlp(5, (8,), 3)}, "the model failed on the first batch"),
        ({"train": Broken()}, "train: reading the first batch raised OSError: disk"),
        ({"train": []}, "train: there is no data"),
        ({"train": [X]}, "pair"),
        ({"train": (X * np.nan, Y)}, "loss of the first batch is nan"),
        ({"optimizer": lambda parameters: 3}, "optimizer: returned int"),
        ({"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1)}, "the optimizer failed"),
        ({"model": frozen()}, "frozen"),
        ({"validation": (X, X)}, "integer class labels"),
        ({"validation": 3}, "validation: int"),
        ({"validation": []}, "validation: there is no data"),
        ({"validation": (X[:, :3], Y)}, r"validation: a first batch \(\d+, 3\) with labels .* give it the form"),
        ({"validation": (X, Y[:, None])}, r"validation: .* the model names classes \(\d+,\); give it the form"),
        ({"validation": (X, Y + 5)}, "validation: .*: label 7, but the model knows classes 0 to 2"),
    ],
)
def test_preparing_tries_everything_once(fields: dict[str, object], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        prepare(Task(**{"model": module(), "train": (X, Y), **fields}), seed=0)


GOOD = """
from dataclasses import dataclass
import torch
from torch import nn
from neighbour import CLASSES
from p2pfusion.core.task import Task

@dataclass
class Sizes:
    hidden: int = 8

def task():
    model = nn.Sequential(nn.Linear(4, Sizes().hidden), nn.ReLU(), nn.Linear(8, CLASSES))
    return Task(model, (torch.randn(8, 4), torch.arange(8) % 3), init="given")
"""


def test_a_task_file_runs_under_the_seed_beside_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("CLASSES = 3")
    (tmp_path / "good.py").write_text(GOOD)
    path = list(sys.path)
    first, same, other = (prepare(load_task_file(tmp_path / "good.py", seed), seed).genesis for seed in (1, 1, 2))
    assert sys.path == path
    assert (first == same).all()
    assert (first != other).any()
    del sys.modules["neighbour"]


@pytest.mark.parametrize(
    ("text", "words"),
    MappingProxyType(
        {
            "def task(:\n": r"bad\.py:1: .*fix the file's syntax",
            "x = 1\n": r"bad\.py: there is no function task\(\); define one",
            "task = 3\n": r"bad\.py: there is no function task\(\)",
            "\n\ndef task():\n    return 7\n": r"bad\.py:3: task\(\) returned int; let it return",
            "\ndef task():\n    return 1 / 0\n": r"bad\.py:3: ZeroDivisionError: division by zero; the task must",
            "\nimport nowhere_to_be_found\n": r"bad\.py:2: ModuleNotFoundError",
            "import sys\nsys.exit(3)\n": r"bad\.py:2: SystemExit: 3",
            "from p2pfusion.core.task import Task\ndef task():\n    return Task(1, 2)\n": r"bad\.py:3: model: a int is",
            "import json\ndef task():\n    return json.loads('')\n": r"bad\.py:3: JSONDecodeError",
            "raise ValueError('early')": r"bad\.py:1: ValueError: early",
        }
    ).items(),
)
def test_task_files_are_answered_with_file_line_and_fix(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(TaskError, match=words):
        load_task_file(file)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no such file"):
        load_task_file(tmp_path / "none.py")
    (tmp_path / "task.txt").write_text("")
    with pytest.raises(TaskError, match=r"must end in \.py"):
        load_task_file(tmp_path / "task.txt")


def test_a_syntax_error_in_a_neighbour_names_the_neighbour(tmp_path: Path) -> None:
    (tmp_path / "crooked.py").write_text("x = (\n")
    (tmp_path / "bad.py").write_text("import crooked\n")
    with pytest.raises(TaskError, match=r"crooked\.py:1"):
        load_task_file(tmp_path / "bad.py")

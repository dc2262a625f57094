"""Training a slice: it learns, it is reproducible, it stops when told, and it says what went wrong."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from p2pfusion.core.data import Batch, as_data
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import cross_entropy
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.core.training import Recipe, Sgd, Trained, evaluate, loaded, train
from p2pfusion.errors import TaskError, TrainingError
from p2pfusion.zoo.blueprints import mlp

BLUEPRINT = mlp(4, (8,), 2)
HALF = SubModel.of(BLUEPRINT, {"hidden1": [range(1, 5)]})
GENESIS = genesis(BLUEPRINT, 0)
_GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=_GENERATOR)
DATA = as_data((X, (X.sum(1) > 0).long()), 16, "train")


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


def wild(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e38)


def batches() -> Iterator[Batch]:
    return DATA.batches(random.Random(0))


def run(steps: int = 40, **changes: object) -> Trained:
    recipe = Recipe(**{"loss": cross_entropy, "optimizer": sgd, "steps": steps, **changes})
    return train(BLUEPRINT, HALF, extract(BLUEPRINT, GENESIS, HALF), batches(), recipe)


def test_a_slice_learns_and_counts() -> None:
    trained = run()
    assert (trained.steps, trained.samples) == (40, 640)
    assert trained.after.dtype == np.float32
    assert trained.after.shape == (HALF.size(BLUEPRINT),)
    narrow = loaded(BLUEPRINT, HALF, trained.after).eval()
    assert (narrow(X).argmax(1) == (X.sum(1) > 0)).float().mean() > 0.9
    assert run(1).loss > trained.loss > run(200).loss


def test_training_is_reproducible_and_touches_neither_its_input_nor_the_global_generator() -> None:
    start = extract(BLUEPRINT, GENESIS, HALF)
    start.flags.writeable = False
    state = torch.get_rng_state()
    recipe = Recipe(loss=cross_entropy, optimizer=sgd, steps=5)
    first = train(BLUEPRINT, HALF, start, batches(), recipe)
    assert first.after.tobytes() == train(BLUEPRINT, HALF, start, batches(), recipe).after.tobytes()
    assert torch.equal(state, torch.get_rng_state())


def test_should_stop_is_asked_before_every_step() -> None:
    answers = iter([False, False, True])
    recipe = Recipe(loss=cross_entropy, optimizer=sgd, steps=9)
    start = extract(BLUEPRINT, GENESIS, HALF)
    trained = train(BLUEPRINT, HALF, start, batches(), recipe, should_stop=lambda: next(answers))
    assert trained.steps == 2
    stopped = train(BLUEPRINT, HALF, start, batches(), recipe, should_stop=lambda: True)
    assert (stopped.steps, stopped.samples, stopped.loss) == (0, 0, 0.0)
    assert (stopped.after == start).all()


def test_gradients_are_clipped() -> None:
    start = extract(BLUEPRINT, GENESIS, HALF)
    moved = run(1, clip_norm=1e-3).after - start
    assert 0 < np.linalg.norm(moved) < 0.5 * 1e-3 * 1.01
    assert np.linalg.norm(run(1).after - start) > 1e-2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": lambda output, target: output.sum() * torch.nan}, "step 1; lower"),
        ({"loss": lambda output, target: output.sum() / 0}, "loss is"),
        ({"loss": lambda output, target: {}["x"]}, "step 1: KeyError"),
        (
            {"loss": lambda output, target: 1e9 * output.sum(), "optimizer": wild, "steps": 1},
            "not finite after 1 steps",
        ),
    ],
)
def test_what_goes_wrong_is_a_training_error(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        run(**changes)


def test_errors_with_their_own_words_pass() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise TaskError("mine")

    with pytest.raises(TaskError, match="mine"):
        run(loss=loss)


def test_evaluate_counts_every_sample_once_in_eval_mode() -> None:
    accuracy = evaluate(BLUEPRINT, GENESIS, DATA)
    module = loaded(BLUEPRINT, BLUEPRINT.whole(), GENESIS).eval()
    assert accuracy == (module(X).argmax(1) == (X.sum(1) > 0)).float().mean().item()
    with pytest.raises(TrainingError, match="no data"):
        evaluate(BLUEPRINT, GENESIS, as_data([], 4, "validation"))


def test_loaded_checks_the_size() -> None:
    with pytest.raises(ValueError, match="another size"):
        loaded(BLUEPRINT, HALF, GENESIS)


# -- our own SGD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "momentum"), [(0.5, 0.0), (0.1, 0.9), (0.0, 0.5)])
def test_sgd_is_torchs_bit_for_bit(lr: float, momentum: float) -> None:
    ours = run(20, optimizer=lambda parameters: Sgd(parameters, lr, momentum), clip_norm=1.0)
    theirs = run(20, optimizer=lambda parameters: torch.optim.SGD(parameters, lr, momentum), clip_norm=1.0)
    assert ours.after.tobytes() == theirs.after.tobytes()
    assert ours.loss == theirs.loss


def test_what_has_no_gradient_stays_and_its_momentum_with_it() -> None:
    pairs = [[nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))] for _ in range(2)]
    optimizers = [Sgd(pairs[0], 0.1, 0.9), torch.optim.SGD(pairs[1], 0.1, 0.9)]
    for used in ((0, 1), (1,), (0, 1)):
        for parameters, optimizer in zip(pairs, optimizers, strict=True):
            optimizer.zero_grad()
            sum((parameters[index] ** 2).sum() for index in used).backward()  # type: ignore[union-attr]
            optimizer.step()
    for mine, theirs in zip(*pairs, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("values", [(-0.1, 0.0), (0.1, -0.9)])
def test_sgd_refuses_what_torch_refuses(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Sgd([], *values)


TINY_VIT = (
    "import numpy as np\n"
    "from p2pfusion import Task\n"
    "from p2pfusion.zoo.transformers import vit\n"
    "task = Task(vit(4, 2, 1, 16, 2, 4, 16, 3), (np.zeros((8, 1, 4, 4), np.float32), np.zeros(8, np.int64)))\n"
)


@pytest.mark.parametrize(
    "made", ["from p2pfusion.zoo.tasks import TASKS\ntask = TASKS['digits']()\n", TINY_VIT], ids=["digits", "vit"]
)
def test_preparing_and_training_bring_in_neither_torchs_compiler_nor_sympy(made: str) -> None:
    code = (
        f"{made}import random, sys\n"
        "from p2pfusion.core.task import prepare\n"
        "from p2pfusion.core.training import train\n"
        "task = prepare(task, 0)\n"
        "whole = task.blueprint.whole()\n"
        "train(task.blueprint, whole, task.genesis, task.train.batches(random.Random(0)), task.recipe)\n"
        "print(sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"

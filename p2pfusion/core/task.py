"""`Task`: what the owner of a device brings along, a model, data and how to train; and `prepare`, which checks it.

`Task` is written by users, in a file with a function `task()`. `prepare` turns it into what a node needs: a blueprint,
genesis values, this device's part of the data, and a recipe that has been tried on one batch. Everything that can be
wrong with a task is found here, before any network traffic, and said with its fix. All of it runs under the run's seed,
because owners draw random numbers too.

Knows no peers and no rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.calibration import calibrated, excess, log_frequencies
from p2pfusion.core.data import Batch, Data, Deal, as_data, part_of
from p2pfusion.core.genesis import genesis
from p2pfusion.core.objectives import Loss, correct, cross_entropy, is_of_logits
from p2pfusion.core.place import CPU, Place
from p2pfusion.core.submodel import Vector
from p2pfusion.core.training import Optimizer, OptimizerFactory, Recipe, Sgd, flattened, loaded
from p2pfusion.errors import LocalError, TaskError, TrainingError

Schedule = Callable[[int], float]
"""Round -> factor of the learning rate."""

STEPS_PER_ROUND_DEFAULT_MAX = 50
"""A round without `steps_per_round` is one pass over the own data, but no longer than this: rounds stay short."""
EVALUATION_BATCH = 256
"""Labels per batch of an evaluation pass; bounds its memory. A training batch fits in any case, with its gradients."""


@dataclass(frozen=True, slots=True)
class Task:
    """A model, data and how to train.

    `model`: an `nn.Module`, sliced automatically (`Blueprint.from_module`), or a `Blueprint`.
    `train`, `validation`: (x, y) tensors or arrays, an `Indexed`, a torch Dataset, a DataLoader, or a re-iterable of
    (x, y) batches; without validation no accuracy is reported.
    `optimizer`: parameters -> torch optimizer, new every round (default SGD, lr 0.05, momentum 0.9).
    `lr_schedule`: round -> factor of the optimizer's learning rate, such as a warm-up or a decay (default 1 always).
    `clip_norm`: gradients are clipped to this L2 norm, None never; without it thin slices can diverge (`Recipe`).
    `calibrate`: train against the own frequencies of classes (`core.calibration`), so that a device whose data lack one
    does not unlearn it for everybody. None: where validation labels tell how frequent each is, and the loss is a
    cross-entropy of logits; True: in any case, all classes then count as equally frequent; False: never.
    `partition`: how data that several nodes share are dealt (`join --data-part`, `simulate`): (parts, seed) -> the
    sample numbers of every part, as `zoo.partition` makes them (default an even, shuffled deal).
    `whole_streams`: slices leave residual streams whole and cut what lies within a block (`Blueprint.inner`): dearer at
    the same rate, but a language model learnt more at the same work (docs/choosing.md).
    `init`: "seed" draws the start from the run's seed, "given" keeps the model's own weights, which all peers must
    then have alike.
    """

    model: nn.Module | Blueprint
    train: Any
    validation: Any = None
    loss: Loss = cross_entropy
    optimizer: OptimizerFactory | None = None
    _: KW_ONLY
    batch_size: int = 32
    steps_per_round: int | None = None
    lr_schedule: Schedule | None = None
    clip_norm: float | None = 1.0
    calibrate: bool | None = None
    partition: Deal | None = None
    whole_streams: bool = False
    init: Literal["seed", "given"] = "seed"

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module | Blueprint):
            raise TaskError(f"model: a {type(self.model).__name__} is neither an nn.Module nor a Blueprint")
        if self.init not in ("seed", "given"):
            raise TaskError(f"init = {self.init!r}: must be 'seed' or 'given'")
        if self.init == "given" and isinstance(self.model, Blueprint):
            raise TaskError("init = 'given': a Blueprint has no weights of its own; use 'seed'")
        if self.batch_size < 1 or (self.steps_per_round is not None and self.steps_per_round < 1):
            raise TaskError("batch_size and steps_per_round must be at least 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise TaskError(f"clip_norm = {self.clip_norm!r}: must be above 0, or None")
        if self.partition is not None and not callable(self.partition):
            raise TaskError("partition: must be a function (parts, seed) -> sample numbers of every part, or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checked task: everything a node needs to know about learning."""

    blueprint: Blueprint
    genesis: Vector
    train: Data
    validation: Data | None
    loss: Loss
    optimizer: OptimizerFactory
    steps_per_round: int
    clip_norm: float | None = None
    lr_schedule: Schedule | None = None
    seed: int = 0
    """The run's, from which genesis is drawn."""
    is_given: bool = False
    """Whether genesis is the owner's own weights."""
    shift: torch.Tensor | None = None
    """Added to the logits in training, (classes,): of a calibrated task."""
    place: Place = CPU
    """Where this device trains and evaluates."""

    def lr_factor(self, round_index: int) -> float:
        """What the optimizer's learning rate is multiplied by in this round. Raises `TrainingError`."""
        if self.lr_schedule is None:
            return 1.0
        try:
            factor = float(self.lr_schedule(round_index))
        except Exception as error:
            raise TrainingError(f"lr_schedule({round_index}): {type(error).__name__}: {error}") from error
        if not (math.isfinite(factor) and factor >= 0):
            raise TrainingError(f"lr_schedule({round_index}) = {factor}: must be a number of at least 0")
        return factor

    @property
    def recipe(self) -> Recipe:
        """What `training.train` takes, at the factor 1 and with the model as it begins."""
        return Recipe(
            loss=self.loss if self.shift is None else calibrated(self.loss, self.shift),
            optimizer=self.optimizer,
            steps=self.steps_per_round,
            clip_norm=self.clip_norm,
            model=self.genesis,
            place=self.place,
        )


def sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The default optimizer."""
    return Sgd(parameters, lr=0.05, momentum=0.9)


def prepare(task: Task, seed: int, part: tuple[int, int] | None = None) -> Prepared:
    """Describe the model, take part `(i, n)` (i from 0) of the data, and try one batch. Raises `TaskError`."""
    with seeded(seed):
        sketch, (x, y) = _sketch(task, seed, part)
        model, blueprint = task.model, sketch.blueprint
        start = flattened(model) if isinstance(model, nn.Module) and task.init == "given" else genesis(blueprint, seed)
        prepared = replace(sketch, genesis=start)
        output = _try(prepared, (x, y))
        if task.calibrate is None:
            return _adjusted(prepared, output)
        return _calibrated(prepared, output, y) if task.calibrate else prepared


def sketch(task: Task, seed: int, part: tuple[int, int] | None = None) -> tuple[Prepared, Batch]:
    """As `prepare`, for a model that this device could not hold: its genesis is left empty, and nothing is tried.

    Also the first batch. Raises `TaskError`, also for what needs the whole model.
    """
    if task.calibrate:
        raise TaskError("calibrate: a model in pieces is trained with the task's own loss; leave calibrate out")
    if task.init == "given":
        raise TaskError("init = 'given': a model in pieces starts from the seed; use init = 'seed'")
    with seeded(seed):
        return _sketch(task, seed, part)


def _sketch(task: Task, seed: int, part: tuple[int, int] | None) -> tuple[Prepared, Batch]:
    train = as_data(task.train, task.batch_size, "train")
    x, y = _first(train, "train")
    model = task.model
    blueprint = model if isinstance(model, Blueprint) else Blueprint.from_module(model, x)
    validation = None
    if task.validation is not None:
        size = max(task.batch_size, EVALUATION_BATCH // max(1, y[:1].numel()))
        validation = as_data(task.validation, size, "validation")
    own = train if part is None else part_of(train, part, seed, task.partition)
    steps = task.steps_per_round or min(STEPS_PER_ROUND_DEFAULT_MAX, own.batches_per_pass or 20)
    prepared = Prepared(
        blueprint=blueprint.inner() if task.whole_streams else blueprint,
        genesis=np.zeros(0, np.float32),
        train=own,
        validation=validation,
        loss=task.loss,
        optimizer=task.optimizer or sgd,
        steps_per_round=steps,
        clip_norm=task.clip_norm,
        lr_schedule=task.lr_schedule,
        seed=seed,
        is_given=task.init == "given",
    )
    prepared.lr_factor(0)
    return prepared, (x, y)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at this seed inside, as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _first(data: Data, name: str) -> Batch:
    try:
        batch = next(data.once(), None)
    except LocalError:
        raise
    except Exception as error:
        raise TaskError(f"{name}: reading the first batch raised {type(error).__name__}: {error}") from error
    if batch is None:
        raise TaskError(f"{name}: there is no data")
    return batch


def _adjusted(prepared: Prepared, output: torch.Tensor) -> Prepared:
    """With the shift from the own labels to those of the validation data, where both are at hand."""
    own, everywhere = prepared.train.labels, prepared.validation.labels if prepared.validation else None
    if own is None or everywhere is None or not is_of_logits(prepared.loss) or output.dim() != 2:
        return prepared
    return replace(prepared, shift=excess(own, everywhere, output.shape[1]))


def _calibrated(prepared: Prepared, output: torch.Tensor, y: torch.Tensor) -> Prepared:
    """With the shift of the own labels; the loss is tried with it. `output` and `y` are of one batch."""
    if output.shape[:1] + output.shape[2:] != y.shape or output.dim() < 2:
        raise TaskError(
            f"calibrate: an output {tuple(output.shape)} and labels {tuple(y.shape)} must be (batch, classes, ...) and "
            f"(batch, ...); let the model give its classes in dimension 1, or leave calibrate out"
        )
    shifted = replace(prepared, shift=log_frequencies(prepared.train, output.shape[1]))
    try:
        shifted.recipe.loss(output.requires_grad_(), y).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise TaskError(f"calibrate: the loss of shifted logits failed: {type(error).__name__}: {error}") from error
    return shifted


def _try(prepared: Prepared, batch: Batch) -> torch.Tensor:
    """The output of one forward and backward pass of the full model, so that a wrong shape is found now and named."""
    module = loaded(prepared.blueprint, prepared.blueprint.whole(), prepared.genesis).train()
    trained = [tensor for tensor in module.parameters() if tensor.requires_grad]
    if not trained:
        raise TaskError("model: every parameter is frozen; there is nothing to train")
    x, y = batch
    stage = "the model"
    try:
        output: torch.Tensor = module(x)
        stage = f"the loss of an output {tuple(output.shape)} and labels {tuple(y.shape)}"
        value = prepared.loss(output, y)
        value.backward()  # type: ignore[no-untyped-call]
        stage = "the optimizer"
        optimizer: object = prepared.optimizer(trained)
    except Exception as error:
        raise TaskError(f"{stage} failed on the first batch: {type(error).__name__}: {error}") from error
    if not isinstance(optimizer, Sgd | torch.optim.Optimizer):
        raise TaskError(f"optimizer: returned {type(optimizer).__name__}; return torch.optim.SGD(parameters, ...)")
    if not bool(torch.isfinite(value.detach()).all()):
        raise TaskError(f"the loss of the first batch is {float(value.detach())}; check the data's scale")
    if prepared.validation is not None:
        _try_validation(module, prepared.validation)
    return output.detach()


def _try_validation(module: nn.Module, validation: Data) -> None:
    """One batch through the network, so that a wrong validation set is found now and not rounds later."""
    x, y = _first(validation, "validation")
    if y.is_floating_point():
        raise TaskError("validation: accuracy needs integer class labels; leave validation out for regression")
    batch = f"validation: a first batch {tuple(x.shape)} with labels {tuple(y.shape)}"
    try:
        with torch.no_grad():
            output = module.eval()(x)
            correct(output, y)
    except Exception as error:
        raise TaskError(f"{batch}: {type(error).__name__}: {error}; give it the form of the training data") from error
    said = tuple(output.argmax(1).shape)
    if said != tuple(y.shape):
        raise TaskError(f"{batch}: the model names classes {said}; give it the form of the training data")
    if y.numel() and int(y.max()) >= output.shape[1]:
        raise TaskError(f"{batch}: label {int(y.max())}, but the model knows classes 0 to {output.shape[1] - 1}")

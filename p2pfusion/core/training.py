"""Local training of one sub-model, and evaluation of the whole model.

The network that trains is the narrow, dense one the blueprint builds: a 50 % slice multiplies quarter-size matrices;
nothing is masked. Values come and go as flat float32 vectors. The optimizer is new every round: momentum of elements
that just left the slice would be meaningless (PAPERS.md 1.5).

It runs in an executor thread on copies, touches nothing shared, and knows neither round nor peers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim.sgd import sgd

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch, Data
from p2pfusion.core.objectives import Job, Loss, Objective, Plain, StepLoss, correct
from p2pfusion.core.place import CPU, Place
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.errors import LocalError, TrainingError


class Optimizer(Protocol):
    """What a round needs of an optimizer; every `torch.optim.Optimizer` has it."""

    param_groups: list[dict[str, Any]]
    """The learning rate is `lr` of each."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Change the parameters by their gradients."""


OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Sgd:
    """`torch.optim.SGD(parameters, lr, momentum)`, bit for bit, without what its constructor imports.

    Any `torch.optim.Optimizer` brings in torch's compiler when it is made (torch 2.13: 820 modules, 0.7 s); torch's own
    function that does the arithmetic does not. Raises `ValueError` for a negative `lr` or `momentum`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0) -> None:
        if lr < 0 or momentum < 0:
            raise ValueError(f"lr = {lr}, momentum = {momentum}: must be at least 0")
        self._parameters = list(parameters)
        self.param_groups = [{"lr": lr}]
        self._momentum = momentum
        self._buffers: list[torch.Tensor | None] = [None] * len(self._parameters)

    @property
    def state(self) -> dict[nn.Parameter, dict[str, torch.Tensor]]:
        """What it keeps from step to step, as torch's optimizers lay it out."""
        pairs = zip(self._parameters, self._buffers, strict=True)
        return {parameter: {"momentum_buffer": buffer} for parameter, buffer in pairs if buffer is not None}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; they are always set to None."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step; parameters without a gradient stay."""
        moved = [index for index, parameter in enumerate(self._parameters) if parameter.grad is not None]
        buffers = [self._buffers[index] for index in moved]
        sgd(
            [self._parameters[index] for index in moved],
            [gradient for index in moved if (gradient := self._parameters[index].grad) is not None],
            buffers,
            foreach=False,
            fused=False,
            lr=self.param_groups[0]["lr"],
            momentum=self._momentum,
            weight_decay=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for index, buffer in zip(moved, buffers, strict=True):
            self._buffers[index] = buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train: the loss, a fresh optimizer for given parameters, how many steps a round has at most.

    Gradients are clipped to `clip_norm` (L2, over all parameters; None: never). HeteroFL trains with 1.0 (PAPERS.md
    4.1), and thin slices need it: the Scaler multiplies their gradients by 1/rate. The optimizer's learning rate is
    multiplied by `lr_factor`; `objective` makes of the loss what a step minimises, in round `round`, perhaps by what
    the whole `model` says; `place` is where that happens.
    """

    loss: Loss
    optimizer: OptimizerFactory
    steps: int
    clip_norm: float | None = None
    lr_factor: float = 1.0
    round: int = 0
    objective: Objective = field(default_factory=Plain)
    model: Vector | None = field(default=None, compare=False)
    place: Place = CPU

    def step(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        """One step on the gradients there are, clipped as they should be, and then forgotten."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """`after`: the sub-model's values (flat float32); `loss`: mean over the steps, 0.0 if there was none."""

    after: Vector
    loss: float
    samples: int
    steps: int


def train(
    blueprint: Blueprint,
    sub_model: SubModel,
    start: Vector,
    batches: Iterator[Batch],
    recipe: Recipe,
    *,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train the sub-model from `start` (flat float32, its own size) on at most `recipe.steps` batches.

    `seed` drives dropout; `should_stop` is asked before every step. Raises `TrainingError` when the loss or a parameter
    is not finite, or when the owner's loss, network or optimizer raises.
    """
    with recipe.place.seeded(seed):
        job = Job(
            blueprint=blueprint,
            sub_model=sub_model,
            start=start,
            loss=recipe.loss,
            seed=seed,
            round=recipe.round,
            model=recipe.model,
        )
        module = loaded(blueprint, sub_model, start, scaled=recipe.objective.is_scaled, place=recipe.place).train()
        _freeze(module, blueprint, recipe.objective.trains(blueprint, sub_model, recipe.round))
        optimizer = recipe.optimizer([tensor for tensor in module.parameters() if tensor.requires_grad])
        for group in optimizer.param_groups:
            group["lr"] *= recipe.lr_factor
        step_loss = recipe.objective.begin(job)
        losses: list[float] = []
        samples = 0
        while len(losses) < recipe.steps and not should_stop():
            x, y = _next(batches, len(losses))
            losses.append(_step(module, optimizer, step_loss, recipe, (x, y), len(losses)))
            samples += len(y)
    after = flattened(module)
    if not np.isfinite(after).all():
        raise TrainingError(f"parameters are not finite after {len(losses)} steps; lower the learning rate")
    recipe.objective.done(job, after)
    return Trained(after=after, loss=sum(losses) / max(1, len(losses)), samples=samples, steps=len(losses))


def train_members(
    blueprint: Blueprint,
    sub_model: SubModel,
    start: Vector,
    batches: Iterator[Batch],
    recipe: Recipe,
    *,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train every network the sub-model holds, one after the other, `recipe.steps` steps each; as `train` else.

    `samples` and `steps` are one network's: the weight that each deserves.
    """
    members = blueprint.members_in(sub_model)
    if len(members) < 2:
        return train(blueprint, sub_model, start, batches, recipe, seed=seed, should_stop=should_stop)
    after, first, done = np.empty_like(start), 0, []
    for number, blocks in enumerate(members):
        part = SubModel(blocks, sub_model.kept)
        stop = first + part.size(blueprint)
        own = start[first:stop]
        done.append(train(blueprint, part, own, batches, recipe, seed=seed + number, should_stop=should_stop))
        after[first:stop], first = done[-1].after, stop
    return Trained(
        after=after,
        loss=sum(one.loss for one in done) / len(done),
        samples=max(one.samples for one in done),
        steps=max(one.steps for one in done),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one pass over labelled data gave: share of right labels (0..1), mean loss over the labels."""

    accuracy: float
    loss: float


def evaluate(blueprint: Blueprint, vector: Vector, data: Data) -> float:
    """Accuracy (0..1) of the whole model on one pass over labelled data, in eval mode. Raises `TrainingError`."""
    return score(blueprint, blueprint.whole(), vector, data).accuracy


def score(
    blueprint: Blueprint,
    sub_model: SubModel,
    values: Vector,
    data: Data,
    loss: Loss | None = None,
    *,
    place: Place = CPU,
) -> Score:
    """How good a sub-model is as a network of its own (flat float32 values, no Scaler), in eval mode.

    Always in float32, so that one model scores alike everywhere; of `place` only the device counts. Without a `loss`
    the mean loss is 0. Raises `TrainingError`.
    """
    module = loaded(blueprint, sub_model, values, scaled=False, place=place).eval()
    right = total = 0
    lost = 0.0
    with torch.no_grad():
        try:
            for batch in data.once():
                x, y = place.batch(*batch)
                output = module(x)
                right += correct(output, y)
                total += y.numel()
                lost += float(loss(output, y)) * y.numel() if loss is not None else 0.0
        except LocalError:
            raise
        except Exception as error:
            raise TrainingError(f"validation: {type(error).__name__}: {error}") from error
    if not total:
        raise TrainingError("validation: there is no data")
    return Score(accuracy=right / total, loss=lost / total)


def loaded(
    blueprint: Blueprint, sub_model: SubModel, values: Vector, *, scaled: bool = True, place: Place = CPU
) -> nn.Module:
    """The sub-model's network holding these values (flat float32, copied), on the place's device.

    Raises `ValueError` for another size, `TrainingError` where the device has no room for it.
    """
    module = blueprint.build(sub_model, scaled=scaled)
    if len(values) != sum(tensor.numel() for tensor in module.parameters()):
        raise ValueError(f"{len(values)} values for a network of another size")
    start = 0
    with torch.no_grad():
        for tensor in module.parameters():
            # A copy, one parameter at a time: sealed vectors are read-only, which torch cannot express.
            part = np.array(values[start : start + tensor.numel()], np.float32)
            tensor.copy_(torch.from_numpy(part).view(tensor.shape))
            start += tensor.numel()
    return place.network(module)


def flattened(module: nn.Module) -> Vector:
    """A module's parameters as one flat float32 vector, in order; a copy."""
    pieces = [tensor.detach().reshape(-1) for tensor in module.parameters()]
    return np.asarray(torch.cat(pieces).cpu().numpy(), np.float32)


def _freeze(module: nn.Module, blueprint: Blueprint, trained: SubModel) -> None:
    """Only the parameters of these blocks get gradients; below the first of them nothing is kept for a backward."""
    blocks = {parameter.name: parameter.block for parameter in blueprint.parameters}
    for name, tensor in module.named_parameters():
        if blocks[name] not in trained.blocks:
            tensor.requires_grad_(False)


def _step(
    module: nn.Module, optimizer: Optimizer, step_loss: StepLoss, recipe: Recipe, batch: Batch, step: int
) -> float:
    """One optimizer step; returns the loss before it."""
    try:
        moved = recipe.place.batch(*batch)
        with recipe.place.casting():
            value = step_loss(module, *moved)
        value.backward()  # type: ignore[no-untyped-call]
        recipe.step(optimizer, module.parameters())
        number = float(value.detach())
    except LocalError:
        raise
    except Exception as error:
        raise _failure(error, step) from error
    if not np.isfinite(number):
        raise TrainingError(f"the loss is {number} in step {step + 1}; lower the learning rate or check the data")
    return number


def _next(batches: Iterator[Batch], step: int) -> Batch:
    """The next batch; the owner's data set may raise anything."""
    try:
        return next(batches)
    except LocalError:
        raise
    except Exception as error:
        raise _failure(error, step) from error


def _failure(error: Exception, step: int) -> TrainingError:
    return TrainingError(f"step {step + 1}: {type(error).__name__}: {error}")

"""Split training, batch after batch: what a relay does with its copy of a stage, and an owner with its two.

The arithmetic of MP-SL without its network. Activations go forward and gradients back; a relay hands the gradient of
its input on *before* its optimiser steps, so that the step overlaps with the way back. An owner holds the first stage
and the last: its inputs and its labels stay with it. Every owner has its own copy of every stage with its own optimiser
state, so the result is that of an unsplit network trained on the same batches, bit for bit.

A batch may be cut into micro-batches that fill the chain: their gradients add up, and one step follows (GPipe, Huang
et al. 2019).

Two things differ from unsplit training: gradients are clipped by the norm of a device's own stages, since nobody knows
the others' before it has to step, and each stage draws its dropout by itself.

Runs in an executor on values of its own; knows neither peers nor messages. Source: PAPERS.md 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.gradients import backward
from p2pfusion.core.objectives import Plain, correct
from p2pfusion.core.stages import cut
from p2pfusion.core.submodel import Vector
from p2pfusion.core.training import Optimizer, Recipe
from p2pfusion.errors import LocalError, TrainingError

T = TypeVar("T")


class _Held:
    """Stages of one device for one owner, on the recipe's place, and their optimiser."""

    def __init__(self, blueprint: Blueprint, runs: Sequence[Sequence[str]], values: Vector, recipe: Recipe) -> None:
        if not isinstance(recipe.objective, Plain):
            raise ValueError("split training minimises the owner's loss and nothing else")
        self.recipe = recipe
        self.stages = [recipe.place.network(stage) for stage in cut(blueprint, runs, values)]
        self._parameters = _once(self.stages)
        trained = [tensor for tensor in self._parameters if tensor.requires_grad]
        self._optimizer: Optimizer | None = recipe.optimizer(trained) if trained else None
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["lr"] *= recipe.lr_factor

    @property
    def values(self) -> Vector:
        """Of all stages as one flat float32 vector in the order of `stages.held`; a copy."""
        pieces = [tensor.detach().reshape(-1) for tensor in self._parameters]
        return np.asarray(torch.cat(pieces).cpu().numpy(), np.float32)

    def run(self, stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with self.recipe.place.casting():
            output: torch.Tensor = stage(x)
        return output

    def evaluated(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What one of the stages gives in evaluation, detached."""
        stage = self.stages[place].eval()
        try:
            with torch.no_grad():
                return _guarded("evaluation", lambda: self.run(stage, x.to(self.recipe.place.device)))
        finally:
            stage.train()

    def update(self) -> None:
        """One optimiser step on the gradients there are, which are then forgotten."""
        if self._optimizer is not None:
            self.recipe.step(self._optimizer, self._parameters)


class Copy:
    """A relay's copy of one stage for one owner, with that owner's optimiser state; one batch under way at most.

    The calls of a batch come in this order: `forward` and `backward` for each of its micro-batches, then `step`. Any
    other raises `ValueError`, as does a tensor of the wrong shape; what the network itself raises becomes a
    `TrainingError`.
    """

    def __init__(self, blueprint: Blueprint, blocks: Sequence[str], values: Vector, recipe: Recipe) -> None:
        self._held = _Held(blueprint, [blocks], values, recipe)
        self._under_way: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._parts = 1
        self._came_back = 0

    @property
    def values(self) -> Vector:
        """The stage's values now, flat float32; a copy."""
        return self._held.values

    @property
    def is_busy(self) -> bool:
        """Whether a batch is under way, from its forward pass to its step."""
        return bool(self._under_way) or self._came_back > 0

    @property
    def is_due(self) -> bool:
        """Whether all of a batch came back and its step is still to be made."""
        return self._came_back == self._parts

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """What the stage gives in evaluation, nothing kept."""
        return self._held.evaluated(0, x)

    def forward(self, x: torch.Tensor, part: int = 0, parts: int = 1) -> torch.Tensor:
        """What the block before gives -> what the stage gives, detached; what the way back needs is kept.

        Of micro-batch `part` of `parts`.
        """
        if part in self._under_way or self.is_due or (self.is_busy and parts != self._parts):
            raise ValueError("a batch of this owner is under way; its backward pass and its step come first")
        self._parts = parts
        inside = _leaf(x, self._held)
        output = _guarded("forward", lambda: self._held.run(self._held.stages[0], inside))
        self._under_way[part] = (inside, output)
        return output.detach()

    def backward(self, gradient: torch.Tensor, part: int = 0) -> torch.Tensor:
        """Gradient of the output -> gradient of the input, to be handed on before `step`."""
        if part not in self._under_way:
            raise ValueError("no such batch is under way; its forward pass comes first")
        inside, output = self._under_way[part]
        _backward(output, gradient)
        del self._under_way[part]
        self._came_back += 1
        return _gradient_of(inside)

    def step(self) -> None:
        """The optimiser's step on the batch that came back."""
        if not self.is_due:
            raise ValueError("no batch came back; its backward pass comes first")
        _guarded("step", self._held.update)
        self._came_back = 0

    def drop(self) -> None:
        """Forget the batch under way, as when its owner or a hop is gone; values and optimiser stay as they were."""
        self._under_way.clear()
        self._came_back = 0
        for tensor in self._held.stages[0].parameters():
            tensor.grad = None


class Ends:
    """An owner's first and last stage, trained as one: they may share parameters, such as tied embeddings.

    The calls of a batch come in this order: `begin`, `finish`, `end` for each of its micro-batches; the last `end`
    makes the step. Errors as `Copy`'s.
    """

    def __init__(
        self, blueprint: Blueprint, first: Sequence[str], last: Sequence[str], values: Vector, recipe: Recipe
    ) -> None:
        self._held = _Held(blueprint, [first, last], values, recipe)
        self._recipe = recipe
        self._sent: dict[int, torch.Tensor] = {}
        self._finished: set[int] = set()
        self._parts = 1
        self._ended = 0

    @property
    def values(self) -> Vector:
        """Values of both stages now, flat float32; a copy."""
        return self._held.values

    def begin(self, x: torch.Tensor, part: int = 0, parts: int = 1) -> torch.Tensor:
        """A batch of inputs, or micro-batch `part` of `parts` -> the activation for the first relay, detached."""
        is_busy = bool(self._sent) or self._ended > 0
        if part in self._sent or (is_busy and (parts != self._parts or parts == 1)):
            raise ValueError("a batch is under way; one at a time")
        self._parts = parts
        place = self._recipe.place.device
        self._sent[part] = _guarded("forward", lambda: self._held.run(self._held.stages[0], x.to(place)))
        return self._sent[part].detach()

    def finish(
        self, activation: torch.Tensor, y: torch.Tensor, part: int = 0, share: float = 1.0
    ) -> tuple[float, torch.Tensor]:
        """What the last relay gives, and the labels -> the loss and the gradient for the last relay.

        `share`: of the batch's samples, by which loss and gradient are multiplied, so that those of a mean over samples
        add up to the batch's.
        Raises `TrainingError` for a loss that is not finite.
        """
        if part not in self._sent or part in self._finished:
            raise ValueError("no such batch is on its way back; begin one first")
        inside = _leaf(activation, self._held)
        labels = y.to(self._recipe.place.device)

        def lost() -> torch.Tensor:
            with self._recipe.place.casting():
                value = self._recipe.loss(self._held.stages[1](inside), labels)
            if share != 1.0:
                value = value * share
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach()

        loss = float(_guarded("the last stage", lost))
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss}; lower the learning rate or check the data")
        self._finished.add(part)
        return loss, _gradient_of(inside)

    def end(self, gradient: torch.Tensor, part: int = 0) -> None:
        """The gradient from the first relay: the first stage's backward pass; then, if no other micro-batch is still
        under way, one step of both stages.
        """
        if part not in self._finished:
            raise ValueError("the batch has not been through the last stage")
        if self._sent[part].requires_grad:
            _backward(self._sent[part], gradient)
        self._finished.discard(part)
        del self._sent[part]
        self._ended += 1
        if self._ended == self._parts:
            _guarded("step", self._held.update)
            self._ended = 0

    def drop(self) -> None:
        """Forget the batch under way, as when a hop is gone; values and optimiser stay as they were."""
        self._sent.clear()
        self._finished.clear()
        self._ended = 0
        for stage in self._held.stages:
            for tensor in stage.parameters():
                tensor.grad = None

    def evaluate_first(self, x: torch.Tensor) -> torch.Tensor:
        """The activation for the first relay, in evaluation."""
        return self._held.evaluated(0, x)

    def evaluate_last(self, activation: torch.Tensor) -> torch.Tensor:
        """What the network answers to what the last relay gives, in evaluation."""
        return self._held.evaluated(1, activation)

    def judge(self, activation: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
        """Of what the last relay gives in evaluation: how many labels are right, and their mean loss.

        Raises `TrainingError`.
        """
        output = self.evaluate_last(activation)
        return correct(output, labels), float(_guarded("validation", lambda: self._recipe.loss(output, labels)))


def _once(stages: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Parameters of all stages in order, a tied one at its first place."""
    return list({id(tensor): tensor for stage in stages for tensor in stage.parameters()}.values())


def _leaf(x: torch.Tensor, held: _Held) -> torch.Tensor:
    """The tensor as an input whose gradient will be wanted. Raises `ValueError` unless it holds real numbers."""
    if not x.is_floating_point():
        raise ValueError(f"an activation of {x.dtype}; must be of a floating type")
    return x.detach().to(held.recipe.place.device).requires_grad_()


def _gradient_of(inside: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(inside) if inside.grad is None else inside.grad


def _backward(output: torch.Tensor, gradient: torch.Tensor) -> None:
    if gradient.shape != output.shape:
        raise ValueError(f"a gradient {tuple(gradient.shape)} for an output {tuple(output.shape)}")
    _guarded("backward", lambda: backward(output, gradient.to(output)))


def _guarded(what: str, call: Callable[[], T]) -> T:
    """Run the owner's network, loss or optimiser; whatever it raises becomes a `TrainingError`."""
    try:
        return call()
    except LocalError:
        raise
    except Exception as error:
        raise TrainingError(f"{what}: {type(error).__name__}: {error}") from error

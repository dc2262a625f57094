"""Knowledge from the deepest exit to the shallower ones: Co-S2P's objective for networks with exits.

    CE(y_J) + sum over j < J of  CE(y_j) + [round >= 10] * gamma * T^2 * KL(softmax(y_J / T) || softmax(y_j / T))

where y_j is what exit j of a slice says, J its deepest; CE stands for the owner's loss. Source: PAPERS.md 2.4, with the
teacher detached and the divergence a mean over the batch, as marked there: the released code divides by the classes
too, and lets the teacher follow its pupils. Where a slice has one exit, it is the owner's loss.

A device that holds no deep block has no deepest exit to learn from. With the teacher `swarm` it asks the model as it
stands at the round's begin, whole, in its forward pass only: every exit that it holds learns from what that says.

`window`: PAPERS.md 2.2's rolling freeze, see `rolled`. Knows no scheme and no peers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.exits import held_by
from p2pfusion.core.nested import divergence
from p2pfusion.core.objectives import Job, StepLoss
from p2pfusion.core.submodel import SubModel
from p2pfusion.core.training import loaded
from p2pfusion.errors import UsageError

GAMMA, TEMPERATURE = 0.5, 3.0
WARM_UP_ROUNDS = 10
"""Till then the deepest exit knows nothing worth telling."""
Teacher = Literal["own", "swarm"]
"""Whose deepest exit tells: the device's own, or the model's where the device does not hold it."""


class Transfer:
    """An `Objective` for networks with exits: each learns from the labels, the shallower ones from the deepest too.

    `gamma` >= 0: weight of what the deepest tells, 0: nothing. `window`: layers trained in a round, None all of them.
    `teacher`: whose deepest exit. Raises `UsageError`.
    """

    is_scaled = True
    extra_vectors = 0

    def __init__(self, gamma: float = GAMMA, window: int | None = None, teacher: Teacher = "own") -> None:
        if not (gamma >= 0 and (window is None or window >= 1)):
            raise UsageError(
                f"transfer of weight {gamma}, {window} layers a round: needs a weight of at least 0, at least 1 layer"
            )
        self._gamma = gamma
        self._window = window
        self._teacher = teacher

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """All of it, or what `rolled` gives."""
        return sub_model if self._window is None else rolled(blueprint, sub_model, self._window, round_index)

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """Where the swarm teaches: behind the warm-up, and where the slice does not hold the deepest exit itself."""
        is_taught = self._teacher == "swarm" and self._weight(round_index) > 0
        return is_taught and blueprint.exits[-1].head not in sub_model.blocks

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow."""
        gamma = self._weight(job.round)
        ask = _asked(job) if self.sees_model(job.blueprint, job.sub_model, job.round) else None

        def step_loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            said = answers(module, x)
            value = sum((job.loss(output, y) for output in said[:-1]), start=job.loss(said[-1], y))
            if gamma:
                teacher, pupils = (said[-1], said[:-1]) if ask is None else (ask(x), said)
                for output in pupils:
                    value = value + gamma * told(output, teacher, TEMPERATURE)
            return value

        return step_loss

    def done(self, job: Job, after: object) -> None:
        """Nothing to remember."""

    def _weight(self, round_index: int) -> float:
        return self._gamma if round_index >= WARM_UP_ROUNDS else 0.0


def answers(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What every exit of a built network says, the shallowest first."""
    said: tuple[torch.Tensor, ...] = module.answers(x)  # type: ignore[operator]
    return said


def _asked(job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the model's deepest exit says of a batch."""
    if job.model is None:
        raise ValueError("the swarm's head teaches nothing without the model's values")
    network = loaded(job.blueprint, job.blueprint.whole(), job.model, scaled=False).eval()

    @torch.no_grad()
    def ask(x: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = network.to(x.device)(x)
        return said

    return ask


def told(output: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(output / T)), the mean over the batch; no gradient to the teacher."""
    return temperature**2 * divergence(output / temperature, teacher.detach() / temperature)


def rolled(blueprint: Blueprint, sub_model: SubModel, window: int, round_index: int) -> SubModel:
    """Its heads, and a window of its layers that moves from the deepest to the shallowest and begins again.

    Of four layers two at a time: {2, 3}, {1, 2}, {0, 1}, {2, 3} and so on. What comes before the layers is trained
    with the first of them. Below the window nothing needs to be kept for a backward pass; what is frozen is not
    contributed, for its zeros would hold back those who train it (PAPERS.md 2.2).
    """
    held = held_by(blueprint.exits, sub_model.blocks)
    layers = held[-1].layers
    first = max(0, len(layers) - window)
    begin = first - round_index % (first + 1)
    trained = {*(one.head for one in held), *layers[begin : begin + window]}
    if not begin:
        trained.update(held[-1].trunk[: -len(layers)])
    return replace(sub_model, blocks=tuple(block for block in sub_model.blocks if block in trained))

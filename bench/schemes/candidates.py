"""What might make slices of one network worth it: no part of the product until it wins.

Each differs from MSfusion without its contrastive term in one thing. docs/schemes.md says what came of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from p2pfusion.core.blueprint import Blueprint, units_kept
from p2pfusion.core.objectives import Job, Plain, StepLoss
from p2pfusion.core.schemes import Scheme, Seat, double_shift, static
from p2pfusion.core.submodel import SubModel, Vector, extract
from p2pfusion.core.training import loaded
from p2pfusion.core.transfer import told

GROW_ROUNDS = 60
"""Till then everybody trains the first units, as the perceptron's tables let the small network train."""
TAUGHT_ROUNDS = 10
"""Till then the head knows nothing worth telling (as in `core.transfer`)."""


def permuted(rounds: int) -> Scheme:
    """Disjoint groups of units, dealt anew to everybody every so many rounds; nodes beyond the groups share one.

    Independent subnet training (Yuan et al., arXiv 1910.02120), whose subnets are disjoint and dealt anew in common.
    """

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        kept = {}
        for axis in blueprint.axes:
            count = units_kept(seat.rates[seat.rank], axis.units)
            units = list(range(axis.units))
            random.Random(f"{axis.name} {seat.round // rounds}").shuffle(units)
            first = seat.rank * count % axis.units
            mine = (units + units)[first : first + count]
            kept[axis.name] = [(unit * axis.unit, (unit + 1) * axis.unit) for unit in mine]
        return SubModel.of(blueprint, kept)

    return scheme


def grown() -> Scheme:
    """Everybody trains the small network first; then windows shift over the whole one, which began with it."""
    small, windows = static(), double_shift()

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        return (small if seat.round < GROW_ROUNDS else windows)(blueprint, seat, rng)

    return scheme


def strangers_at_zero(blueprint: Blueprint, rate: float, start: Vector) -> Vector:
    """Weights between units that aligned windows never hold together begin at 0, the others at their true fan-in."""
    start = start.copy()
    for parameter in blueprint.parameters:
        axes = [blueprint.axis(dim.axis) for dim in parameter.dims[:2] if dim.axis is not None]
        if len(axes) < 2 or axes[0].units != axes[1].units:
            continue
        units = axes[0].units
        window = units_kept(rate, units)
        apart = (np.arange(units)[:, None] - np.arange(units)[None, :]) % units
        meet = np.minimum(apart, units - apart) < window
        spread = np.kron(meet, np.ones((axes[0].unit, axes[1].unit), bool))
        values = start[blueprint.parameter_slices[parameter.name]].reshape(*spread.shape, -1)
        values *= np.float32(1 / np.sqrt(meet.mean())) * spread[:, :, None]
    return start


class Taught(Plain):
    """The owner's loss, and the slice learns what the whole model at the round's begin says of the batch."""

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """Behind the warm-up."""
        return round_index >= TAUGHT_ROUNDS

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow."""
        if job.model is None:
            return super().begin(job)
        head = loaded(job.blueprint, job.blueprint.whole(), job.model, scaled=False).eval()

        def step(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            output = module(x)
            with torch.no_grad():
                teacher = head(x)
            return job.loss(output, y) + told(output, teacher, 1.0)

        return step


class WholeForward(Plain):
    """The owner's loss of the whole network, of which only the slice's weights are trained: a masked backward pass.

    For devices that are short of what they can send rather than of arithmetic, which is nearly the whole network's.
    """

    is_scaled = False

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """Always."""
        return True

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow."""
        if job.model is None:
            return super().begin(job)
        network = loaded(job.blueprint, job.blueprint.whole(), job.model, scaled=False)
        head = torch.from_numpy(np.array(job.model, np.float32))
        places = torch.from_numpy(job.sub_model.positions(job.blueprint))
        shapes = {name: value.shape for name, value in network.named_parameters()}

        def step(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            mine = torch.cat([value.flatten() for value in module.parameters()])
            parts = head.index_copy(0, places, mine).split([shape.numel() for shape in shapes.values()])
            values = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
            return job.loss(functional_call(network, values, (x,)), y)

        return step


class Carried(Plain):
    """The owner's loss; momentum stays with the units: a round goes on from what the node's last with each left."""

    def __init__(self) -> None:
        self._velocity: Vector | None = None
        """Of the whole model, 0 where this node trained nothing yet; None before the first round."""
        self._optimizer: torch.optim.SGD | None = None

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float) -> torch.optim.SGD:
        """That of the training that begins next."""
        self._optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
        return self._optimizer

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow."""
        if self._optimizer is not None and self._velocity is not None:
            parameters = self._optimizer.param_groups[0]["params"]
            carried = torch.from_numpy(extract(job.blueprint, self._velocity, job.sub_model))
            parts = carried.split([one.numel() for one in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                self._optimizer.state[parameter]["momentum_buffer"] = part.view(parameter.shape).clone()
        return super().begin(job)

    def done(self, job: Job, after: Vector) -> None:
        """Remember where the steps were going."""
        if self._optimizer is not None:
            if self._velocity is None:
                self._velocity = np.zeros(job.blueprint.size, np.float32)
            left = [self._optimizer.state[one]["momentum_buffer"] for one in self._optimizer.param_groups[0]["params"]]
            self._velocity[job.sub_model.positions(job.blueprint)] = torch.cat([one.flatten() for one in left]).numpy()

"""Which units of a network's axes matter for one device's own data: a number for each, and a slice made of the best.

Two ways to learn it, both while the beginning of the network that the device will keep trains in its whole width:

- `Importance`: first-order Taylor, sum of |w * dL/dw| over a unit's weights and over the batches: how much the loss
  would move if the unit were gone. It is read off the gradients that training makes anyway.
- `Masks`: learned Bernoulli masks with a scaled straight-through gradient (PAPERS.md 2.3). A unit's outputs are zero
  where its draw is 0; its probability follows the gradient of the loss by the draw, times the probability.

A unit is what an axis says: a whole head, a run of hidden units or of output channels. Where an axis has more of them
than may be chosen freely, neighbours are kept together (`schemes.run_of`). Knows no rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint, Parameter, units_kept
from p2pfusion.core.depth import axes_of
from p2pfusion.core.objectives import StepLoss
from p2pfusion.core.schemes import run_of
from p2pfusion.core.submodel import SubModel

Scores = Mapping[str, torch.Tensor]
"""Axis -> (units,)."""
Kept = Mapping[str, list[int]]
"""Axis -> the units that are kept, ascending; at least one of each."""
PENALTY = 1.0
"""lambda_1 of PAPERS.md 2.3: weight of the distance between the share of units drawn and the rate."""
MASK_LR, DECAYS, EPSILON = 0.05, (0.9, 0.99), 1e-8
"""Adam's, for the logits of the masks. Its steps are about as long whatever the scale of the gradients is, which is
what a score of a layer's units needs; the released code trains them with the weights' own optimizer (Adan)."""


class Learning(Protocol):
    """Learns, in the steps of one training or several, which units to keep."""

    def watched(self, module: nn.Module, loss: StepLoss) -> StepLoss:
        """That loss of that network, learnt from."""
        ...

    def kept(self, rate: float) -> Kept:
        """What it chooses, of every axis."""
        ...


class Importance:
    """First-order Taylor; of every axis the units of most importance are kept, as many as the rate says."""

    def __init__(self, blueprint: Blueprint, sub_model: SubModel) -> None:
        self._parameters = _sliced(blueprint, sub_model)
        self._units = {axis.name: axis.unit for axis in blueprint.axes}
        names = axes_of(blueprint, sub_model.blocks)
        self.scores = {name: torch.zeros(blueprint.axis(name).units) for name in names}

    def watched(self, module: nn.Module, loss: StepLoss) -> StepLoss:
        tensors = dict(module.named_parameters())
        for parameter in self._parameters:
            add = self._adding(parameter, tensors[parameter.name])
            tensors[parameter.name].register_hook(add)  # type: ignore[no-untyped-call]
        return loss

    def _adding(self, parameter: Parameter, tensor: torch.Tensor) -> Callable[[torch.Tensor], None]:
        def add(gradient: torch.Tensor) -> None:
            moved = (tensor.detach() * gradient).abs()
            for place, dim in enumerate(parameter.dims):
                if dim.axis is not None:
                    by_unit = moved.movedim(place, 0).flatten(1).sum(1) if moved.dim() > 1 else moved
                    found = by_unit.view(-1, self._units[dim.axis] * dim.size).sum(1)
                    self.scores[dim.axis] += found.cpu().float()

        return add

    def kept(self, rate: float) -> Kept:
        return {name: _best(scores, units_kept(rate, len(scores))) for name, scores in self.scores.items()}


class Masks:
    """Learned Bernoulli masks; one draw of them is what is kept (PAPERS.md 2.3)."""

    def __init__(self, blueprint: Blueprint, sub_model: SubModel, rate: float, seed: int) -> None:
        self._blueprint = blueprint
        self._rate = rate
        self._parameters = [one for one in _sliced(blueprint, sub_model) if one.dims[0].axis is not None]
        self._generator = torch.Generator().manual_seed(seed)
        start = torch.logit(torch.tensor(min(max(rate, 0.01), 0.99)))
        names = axes_of(blueprint, sub_model.blocks)
        self.logits = {name: torch.full((blueprint.axis(name).units,), float(start)) for name in names}
        self._moments = {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in self.logits.items()}
        self._steps = 0
        for logits in self.logits.values():
            logits.requires_grad_()

    def watched(self, module: nn.Module, loss: StepLoss) -> StepLoss:
        names = dict(module.named_parameters())

        def step_loss(_: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self._step()
            draws = {name: drawn(logits, self._generator) for name, logits in self.logits.items()}
            rows = {one.name: self._masked(one, names[one.name], draws) for one in self._parameters}
            share = torch.cat(list(draws.values())).mean()
            return loss(_Masked(module, rows), x, y) + PENALTY * (share - self._rate).abs().to(x.device)

        return step_loss

    def _masked(self, parameter: Parameter, tensor: torch.Tensor, draws: Scores) -> torch.Tensor:
        """Its rows times the draws of their units. Columns need none: what they read is zero then."""
        axis = self._blueprint.axis(parameter.dims[0].axis or "")
        rows = draws[axis.name].repeat_interleave(axis.unit * parameter.dims[0].size)
        return tensor * rows.view(-1, *[1] * (tensor.dim() - 1)).to(tensor.device)

    @torch.no_grad()
    def _step(self) -> None:
        """Adam on the logits, by the gradients of the step before."""
        if all(logits.grad is None for logits in self.logits.values()):
            return
        self._steps += 1
        for name, logits in self.logits.items():
            gradient, (first, second) = logits.grad, self._moments[name]
            if gradient is not None:
                first.lerp_(gradient, 1 - DECAYS[0])
                second.lerp_(gradient * gradient, 1 - DECAYS[1])
                scale = (second / (1 - DECAYS[1] ** self._steps)).sqrt() + EPSILON
                logits -= MASK_LR * first / (1 - DECAYS[0] ** self._steps) / scale
            logits.grad = None

    def kept(self, rate: float) -> Kept:
        """One draw; of an axis of which nothing was drawn, its most probable unit."""
        self._step()
        chosen: dict[str, list[int]] = {}
        for name, logits in self.logits.items():
            draw = torch.bernoulli(_run_means(torch.sigmoid(logits.detach())), generator=self._generator)
            units = draw.repeat_interleave(run_of(len(logits)))[: len(logits)]
            chosen[name] = units.nonzero().flatten().tolist() or [int(logits.argmax())]
        return chosen


def _best(scores: torch.Tensor, count: int) -> list[int]:
    """So many units of most importance, by runs where an axis has too many to choose each freely."""
    runs = torch.split(torch.arange(len(scores)), run_of(len(scores)))
    order = _run_means(scores).argsort(descending=True, stable=True)
    units: list[int] = torch.cat([runs[number] for number in order.tolist()])[:count].tolist()
    return sorted(units)


def _run_means(values: torch.Tensor) -> torch.Tensor:
    """(units,) -> (runs,): the mean of each run; the same where runs are single units."""
    return torch.stack([run.mean() for run in torch.split(values, run_of(len(values)))])


class _Masked(nn.Module):
    """A network with some of its rows at zero, which answers like it."""

    def __init__(self, network: nn.Module, rows: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._answering = (_Answers(network),)  # in a tuple, for it is no child
        self._rows = {f"network.{name}": tensor for name, tensor in rows.items()}

    def answers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from torch.func import functional_call  # imports much; only who learns masks pays

        said: tuple[torch.Tensor, ...] = functional_call(self._answering[0], self._rows, (x,))
        return said


class _Answers(nn.Module):
    """A network whose forward is what all its exits say."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        said: tuple[torch.Tensor, ...] = self.network.answers(x)  # type: ignore[operator]
        return said


class _Draw(torch.autograd.Function):
    """g ~ Bernoulli(pi) forward, dL/dpi := pi * dL/dg backward: the scaled straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, pi: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(pi)
        return draw

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (pi,) = ctx.saved_tensors
        return pi * gradient, None


def drawn(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """0 or 1 by unit, with the straight-through gradient to the logits."""
    pi = torch.sigmoid(logits)
    found: torch.Tensor = _Draw.apply(pi, torch.bernoulli(pi.detach(), generator=generator))  # type: ignore[no-untyped-call]
    return found


def slice_of(blueprint: Blueprint, blocks: tuple[str, ...], kept: Kept) -> SubModel:
    """These blocks with these units of their axes: what the dense small network is built of."""
    units = {axis.name: axis.unit for axis in blueprint.axes}
    ranges = {
        name: [(unit * units[name], (unit + 1) * units[name]) for unit in chosen] for name, chosen in kept.items()
    }
    return SubModel.of(blueprint, ranges, blocks)


def _sliced(blueprint: Blueprint, sub_model: SubModel) -> list[Parameter]:
    """Parameters of its blocks that have an axis."""
    return [
        parameter
        for parameter in blueprint.parameters
        if parameter.block in sub_model.blocks and any(dim.axis is not None for dim in parameter.dims)
    ]

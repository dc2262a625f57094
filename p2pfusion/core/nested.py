"""Nested widths: every step trains the narrowest network of the run and, on a stronger device, one of the wider ones.

The first units of every axis are a network by themselves, and so are the first 2n: one model holds a network of every
width. Everybody trains the narrowest in every step, as if there were nothing else; a device that can do more draws one
of the wider ones besides, up to its own. Each width works without Scalers, as a network of its own. Wider ones may also
learn from the narrowest (`distill`): on skewed data a strong device alone sees few classes, the narrowest has heard of
all.

Sources: ordered dropout of FjORD (Horvath et al., arXiv 2102.13451), slimmable networks with their sandwich rule and
in-place distillation (Yu and Huang, arXiv 1903.05134), which train the widest in every step too, and teach from there.
That the narrowest teaches, since it alone has seen everybody's data, is ours. Knows no peers and no rounds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import Blueprint, units_kept
from p2pfusion.core.objectives import Job, StepLoss
from p2pfusion.core.overlaps import Index, common
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel, Vector

Slices = Mapping[str, Index]
"""By parameter: where the narrower one lies in the wider."""


class Nested:
    """An `Objective`: the owner's loss of the narrowest plus that of a wider one drawn anew in every step.

    For sub-models that `widest` gives. Who holds the narrowest only, trains it alone.
    """

    is_scaled = False
    extra_vectors = 0

    def __init__(self, rates: Sequence[float], distill: float = 0.0) -> None:
        """`rates`: the widths of the run as shares of every axis, the first of which everybody can train.

        `distill`: weight of the divergence from what the narrowest says; 0: none. Raises `ValueError`.
        """
        if not rates or list(rates) != sorted(set(rates)) or not 0 < rates[0] <= rates[-1] <= 1:
            raise ValueError(f"rates = {tuple(rates)}: must ascend within (0, 1]")
        if not distill >= 0:
            raise ValueError(f"distill = {distill}: must be at least 0")
        self._rates = tuple(rates)
        self._distill = distill

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """What the network's output depends on."""
        return blueprint.answering(sub_model)

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """It does not."""
        return False

    def begin(self, job: Job) -> StepLoss:
        """Raises `ValueError` for a sub-model that is not the first units of every axis."""
        if any(ranges[0][0] or len(ranges) > 1 for _, ranges in job.sub_model.kept):
            raise ValueError("nested widths are the first units of every axis; the sub-model has others")
        rng = random.Random(job.seed)
        widths = [_Width(job.blueprint, prefix(job.blueprint, rate), job.sub_model) for rate in self._held(job)]

        def step_loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            narrowest = widths[0].run(module, x)
            value = job.loss(narrowest, y)
            if len(widths) > 1:
                wider = rng.choice(widths[1:]).run(module, x)
                value = value + job.loss(wider, y)
                if self._distill:
                    value = value + self._distill * divergence(wider, narrowest.detach())
            return value

        return step_loss

    def done(self, job: Job, after: Vector) -> None:
        """Nothing to remember."""

    def _held(self, job: Job) -> list[float]:
        """The widths of the run within the sub-model."""
        blueprint, sub_model = job.blueprint, job.sub_model
        held = [rate for rate in self._rates if _contains(blueprint, sub_model, prefix(blueprint, rate))]
        if not held:
            raise ValueError("the sub-model is narrower than the narrowest width of the run")
        return held


def widest(rates: Sequence[float]) -> Scheme:
    """The widest of the run's widths (ascending) that a seat's rate allows, and the narrowest in any case.

    What lies between two widths would be published without having been trained.
    """

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        mine = [rate for rate in rates if rate <= seat.rates[seat.rank] + 1e-9]
        return prefix(blueprint, mine[-1] if mine else rates[0])

    return scheme


class _Width:
    """One width inside a wider network: the same numbers, read through views."""

    def __init__(self, blueprint: Blueprint, sub_model: SubModel, within: SubModel) -> None:
        self._module = blueprint.build(sub_model, scaled=False)
        self._slices = _slices(blueprint, sub_model, within)
        self._is_whole = sub_model == within

    def run(self, wide: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if self._is_whole:
            out: torch.Tensor = wide(x)
            return out
        from torch.func import functional_call  # imports much; only who trains this way pays

        self._module.to(x.device).train(wide.training)
        views = {name: tensor[self._slices[name]] for name, tensor in wide.named_parameters()}
        out = functional_call(self._module, views, (x,))
        return out


def prefix(blueprint: Blueprint, rate: float) -> SubModel:
    """The first `units_kept(rate)` units of every axis: the network of that width."""
    kept = {axis.name: [(0, units_kept(rate, axis.units) * axis.unit)] for axis in blueprint.axes}
    return SubModel.of(blueprint, kept)


def divergence(output: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || output) of the class probabilities in dimension 1, the mean over all other dimensions."""
    told, held = F.log_softmax(teacher, 1), F.log_softmax(output, 1)
    return (told.exp() * (told - held)).sum(1).mean()


def _slices(blueprint: Blueprint, sub_model: SubModel, within: SubModel) -> Slices:
    """One cut for each parameter, since both hold the first units of every axis."""
    shared = common(blueprint, sub_model, within)
    return {parameter.name: shared.cuts(parameter)[0][1] for parameter in blueprint.parameters}


def _contains(blueprint: Blueprint, wide: SubModel, narrow: SubModel) -> bool:
    return all(narrow.width(blueprint, axis.name) <= wide.width(blueprint, axis.name) for axis in blueprint.axes)

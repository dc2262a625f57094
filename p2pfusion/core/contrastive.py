"""The contrastive objective of MSfusion, in the form of MOON (PAPERS.md 1.6 and 4.4).

The owner's loss plus `weight` times

    -log( exp(cos(z, z+) / tau) / ( exp(cos(z, z+) / tau) + exp(cos(z, z-) / tau) ) ),   mean over the batch,

where z is the projection (`core.projection`) of what the network being trained makes of a sample, z+ that of the slice
it started from, and z- that of the slice this node made in its last round. So training stays near what all have
agreed on and away from where this device alone would go. MSfusion's own equation was not available to us; MOON's is its
purpose, and slices of different rounds are what makes it "cross-sub-model".

It costs two forwards of a slice a step, one for each frozen network: a step took 1.8 to 1.95 times as long on a
processor (a residual network, a Transformer, rate 1/4). And memory for the frozen networks' weights, with the last
slice at rest besides (4 bytes a scalar each); their activations are freed at once. The first round has nothing to stay
away from: it is plain, and costs nothing.

Frozen networks run in training mode, as the one they are compared with: without Scalers a slice's activations shrink
layer by layer and its biases take over, and the comparison would measure that and not what was learnt. Their dropout is
off, for noise on what stays put helps nobody: dropout layers are in evaluation mode, and traced modules (`core.replay`)
run what they do in evaluation, with Scalers. Only what a Blueprint's own network calls as a function stays.

This module knows no scheme, round or peer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.objectives import Job, StepLoss
from p2pfusion.core.projection import PROJECTION, Projected, representation
from p2pfusion.core.replay import Replay
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.training import loaded
from p2pfusion.errors import TaskError, UsageError

WEIGHT, TEMPERATURE = 1.0, 0.5
"""MOON's defaults, PAPERS.md 4.4."""
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Contrastive:
    """An `Objective`, for blueprints made by `with_projection`. One object serves one node: it keeps the last slice.

    `weight` >= 0 (0: the owner's loss alone), `temperature` > 0. Raises `UsageError`.
    """

    is_scaled = True
    extra_vectors = 3  # two frozen networks, and at rest the last slice

    def __init__(self, weight: float = WEIGHT, temperature: float = TEMPERATURE) -> None:
        if not (weight >= 0 and temperature > 0):
            raise UsageError(
                f"contrast of weight {weight} and temperature {temperature}: needs a weight of at least 0 and a "
                f"temperature above 0"
            )
        self._weight = weight
        self._temperature = temperature
        self._last: tuple[SubModel, Vector] | None = None

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """What the network's output depends on."""
        return blueprint.answering(sub_model)

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """It does not."""
        return False

    def begin(self, job: Job) -> StepLoss:
        """The loss of the steps that follow. Raises `TaskError` for a blueprint without a projection."""
        layer = job.blueprint.output_layer
        if layer is None or PROJECTION not in job.sub_model.blocks:
            raise TaskError("contrast needs a projection: make the blueprint with with_projection")
        if self._last is None or not self._weight:
            return lambda module, x, y: job.loss(module(x), y)
        held = [(job.sub_model, job.start), self._last]
        frozen = [_frozen(loaded(job.blueprint, sub_model, values)) for sub_model, values in held]

        def step(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            output, mine = representation(module, layer, x)
            with torch.no_grad():
                positive, negative = [representation(network.to(x.device), layer, x)[1] for network in frozen]
            return job.loss(output, y) + self._weight * contrast(mine, positive, negative, self._temperature)

        return step

    def done(self, job: Job, after: Vector) -> None:
        """What was made now is what the next round stays away from."""
        self._last = (job.sub_model, after)


def contrast(mine: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float) -> torch.Tensor:
    """MOON's loss of projections (batch, size) as a scalar, the mean over the batch; in float32.

    Written as its code has it: the cross-entropy of naming the positive among the cosines. Source: PAPERS.md 4.4.
    """
    cosines = [F.cosine_similarity(mine.float(), other.float(), dim=-1) for other in (positive, negative)]
    logits = torch.stack(cosines, dim=1) / temperature  # (batch, 2)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def _frozen(network: nn.Module) -> nn.Module:
    """In training mode, so with Scalers, but without dropout; for good."""
    inner = network.inner if isinstance(network, Projected) else network
    if isinstance(inner, Replay):
        inner.freeze()
    network.train()
    for module in network.modules():
        if isinstance(module, _DROPOUTS):
            module.eval()
    return network

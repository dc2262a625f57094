"""A learner that needs no torch: numpy only, so that hundreds of node-rounds take a second.

The "network" is two axes and three parameters; "training" is one step of the slice towards the node's own target
vector, a deterministic pseudo-gradient, plus a little noise, so that no round ever leaves the model as it was. What all
nodes together should find is about the mean of the targets.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from p2pfusion.algorithms.base import RoundContext, Vector
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import double_shift
from p2pfusion.core.submodel import extract

STEP = 0.5
NOISE = 0.01


def _no_network(widths: object, full: object) -> NoReturn:
    raise NotImplementedError("the light blueprint has no network")


def light_blueprint(width: int = 8) -> Blueprint:
    """Two sliced axes of `width` and `width / 2` units: width * (4 + width / 2 + 1) scalars."""
    hidden, inner = Dim("hidden"), Dim("inner")
    fixed = Dim(None, 4)
    return Blueprint(
        blocks=("body", "head"),
        axes=(Axis("hidden", width), Axis("inner", width // 2)),
        parameters=(
            Parameter("body.weight", "body", (hidden, fixed), Init((fixed,))),
            Parameter("body.bias", "body", (hidden,), Init(None)),
            Parameter("head.weight", "head", (inner, hidden), Init((hidden,))),
        ),
        factory=_no_network,
    )


class LightLearner:
    """An `Algorithm`. `cost_s` is the virtual time of a step of the full model."""

    def __init__(self, index: int, *, blueprint: Blueprint, cost_s: float = 0.1) -> None:
        self._blueprint = blueprint
        self._genesis = genesis(blueprint, 0)
        self._noise = np.random.default_rng(index)
        self._target = self._noise.standard_normal(blueprint.size, np.float32)
        self._scheme = double_shift()
        self._cost_s = cost_s

    @property
    def blueprint(self) -> Blueprint:
        return self._blueprint

    @property
    def genesis(self) -> Vector:
        return self._genesis

    async def round(self, ctx: RoundContext) -> None:
        sub_model = self._scheme(self._blueprint, ctx.seat, ctx.rng)
        before = await ctx.extract(sub_model)
        target = extract(self._blueprint, self._target, sub_model)
        cost_s = self._cost_s * sub_model.share(self._blueprint)
        noise = self._noise.standard_normal(before.size, np.float32)
        delta = await ctx.compute(lambda: np.float32(STEP) * (target - before) + np.float32(NOISE) * noise, cost_s)
        await ctx.contribute(sub_model, delta, samples=10, loss=float(np.abs(delta).mean()))

    def evaluate(self, model: Vector) -> float | None:
        return None


def light_learner(width: int = 8, cost_s: float = 0.1):
    """A `sim.world.Learner`: all nodes share one blueprint."""
    blueprint = light_blueprint(width)
    return lambda index: LightLearner(index, blueprint=blueprint, cost_s=cost_s)

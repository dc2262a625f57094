"""A learner that costs next to nothing: for studying the protocol with hundreds of nodes, and no torch.

The "network" is two sliced axes and three parameters. "Training" is one step of the slice towards the node's own target
vector, plus a little noise, so that no round leaves the model as it was. What all nodes together should find is about
the mean of their targets. It is synthetic: nothing it says about losses is true of any real network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np

from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import double_shift
from p2pfusion.core.submodel import extract

STEP = 0.5
NOISE = 0.01


def _no_network(spec: object) -> NoReturn:
    raise NotImplementedError("the light blueprint has no network")


def light_blueprint(width: int = 8) -> Blueprint:
    """Two sliced axes of `width` and `width / 2` units: width * (5 + width / 2) scalars."""
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
    """An `Algorithm`. `cost_s` is the virtual time of a round of the full model at speed 1."""

    def __init__(self, index: int, *, blueprint: Blueprint, cost_s: float = 0.1) -> None:
        self._blueprint = blueprint
        self._genesis = genesis(blueprint, 0)
        self._chance = np.random.Philox(key=index)
        self._target = self._drawn(blueprint.size)
        self._scheme = double_shift()
        self._cost_s = cost_s

    @property
    def blueprint(self) -> Blueprint:
        return self._blueprint

    @property
    def genesis(self) -> Vector:
        return self._genesis

    @property
    def product(self) -> Product:
        return Product()

    async def round(self, ctx: RoundContext) -> None:
        sub_model = self._scheme(self._blueprint, ctx.seat, ctx.rng)
        before = await ctx.extract(sub_model)
        target = extract(self._blueprint, self._target, sub_model)
        cost_s = self._cost_s * sub_model.share(self._blueprint)
        noise = self._drawn(before.size)
        delta = await ctx.compute(lambda: np.float32(STEP) * (target - before) + np.float32(NOISE) * noise, cost_s)
        await ctx.contribute(sub_model, delta, samples=10, loss=float(np.abs(delta).mean()))

    def evaluate(self, model: Vector) -> Evaluation | None:
        return None

    def _drawn(self, count: int) -> Vector:
        """Even in [-1, 1), the same on every machine."""
        raw = np.asarray(self._chance.random_raw(count), np.uint64) >> np.uint64(40)
        return raw.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)


def light_learner(width: int = 8, cost_s: float = 0.1) -> Callable[[int], LightLearner]:
    """A `sim.world.Learner`: all nodes share one blueprint."""
    blueprint = light_blueprint(width)
    return lambda index: LightLearner(index, blueprint=blueprint, cost_s=cost_s)

"""The parameter round: seat -> sub-model -> train -> contribute. MSfusion and its baselines are rows of `presets`.

Which slice is trained is the split scheme's affair, what is learnt the task's; this module only puts them in order.
"""

from __future__ import annotations

import random
from dataclasses import replace

from p2pfusion.algorithms.base import RoundContext, Vector
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.schemes import Scheme
from p2pfusion.core.task import Prepared
from p2pfusion.core.training import Trained, evaluate, train


class Sliced:
    """Trains the slice its scheme gives it, on its own data, and contributes the difference."""

    def __init__(self, prepared: Prepared, scheme: Scheme, *, step_cost_s: float = 0.01, seed: int = 0) -> None:
        """`step_cost_s`: virtual seconds one step of the full model takes in a simulation."""
        self.prepared = prepared
        self.scheme = scheme
        self.step_cost_s = step_cost_s
        self._rng = random.Random(seed)
        self._batches = prepared.train.batches(self._rng)

    @property
    def blueprint(self) -> Blueprint:
        return self.prepared.blueprint

    @property
    def genesis(self) -> Vector:
        return self.prepared.genesis

    async def round(self, ctx: RoundContext) -> None:
        sub_model = self.scheme(self.blueprint, ctx.seat, ctx.rng)
        before = await ctx.extract(sub_model)
        steps, lr_factor = ctx.steps(self.prepared.steps_per_round), self.prepared.lr_factor(ctx.round)
        recipe = replace(self.prepared.recipe, steps=steps, lr_factor=lr_factor)
        seed = self._rng.getrandbits(32)

        def work() -> Trained:
            batches = self._batches
            return train(self.blueprint, sub_model, before, batches, recipe, seed=seed, should_stop=ctx.should_stop)

        trained = await ctx.compute(work, self.step_cost_s * sub_model.share(self.blueprint) * recipe.steps)
        await ctx.contribute(sub_model, trained.after - before, trained.samples, trained.loss)

    def evaluate(self, model: Vector) -> float | None:
        data = self.prepared.validation
        return None if data is None else evaluate(self.blueprint, model, data)

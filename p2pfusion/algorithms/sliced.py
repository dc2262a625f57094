"""The parameter round: seat -> sub-model -> train -> contribute. MSfusion and its baselines are rows of `presets`.

Which slice is trained is the split scheme's affair, what a step minimises the objective's, what is learnt the task's;
this module only puts them in order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from p2pfusion.algorithms.base import WHOLE, Evaluation, Product, RoundContext, Vector
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.drift import Weighing
from p2pfusion.core.objectives import LATER_ROUND, Objective, Plain
from p2pfusion.core.schemes import Scheme
from p2pfusion.core.submodel import SubModel, extract, of_blocks, scatter
from p2pfusion.core.task import Prepared
from p2pfusion.core.training import Recipe, Score, Trained, score, train_members


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How slices are chosen, trained and put together.

    `widths`: networks that the model holds, by name; the best of them on validation data is what is served. Empty: the
    whole model. `aside`: blocks that only training needs, and nobody takes home.

    `outer_momentum`: every contribution carries this share of what the model moved in the round before; since everybody
    adds the same, the fold's mean moves as with heavy-ball momentum (FedAvgM, Hsu et al., arXiv 1909.06335; DiLoCo's
    outer optimizer), without state that would have to be sealed. `weighing` says what a contribution is worth beside
    others; None: all alike. `is_expanded`: a contribution covers the whole model, with zeros outside its slice, so that
    the fold divides by all authors and not by those who trained an element. `later`: a scheme whose slices are as large
    as these are after a node's first rounds, where that is another size; only for telling people.
    """

    scheme: Scheme
    objective: Objective = field(default_factory=Plain)
    outer_momentum: float = 0.0
    widths: Mapping[str, SubModel] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    weighing: Weighing | None = None
    is_expanded: bool = False
    later: Scheme | None = None

    @property
    def extra_vectors(self) -> int:
        """Vectors as long as the sub-model that are kept: the objective's, and for weighing the slice received last."""
        return self.objective.extra_vectors + (self.weighing is not None)

    def model_vectors(self, blueprint: Blueprint, sub_model: SubModel) -> int:
        """Vectors as long as the model that a later round holds besides: its values where the slice is not all of it,
        those a round ago, what the objective asks, what is contributed.
        """
        is_part, rolls = sub_model != blueprint.whole(), self.outer_momentum > 0
        asks = self.objective.sees_model(blueprint, sub_model, LATER_ROUND)
        return is_part * (rolls or asks) + rolls + asks + is_part * self.is_expanded

    def given(self, blueprint: Blueprint, changed: SubModel, delta: Vector) -> tuple[SubModel, Vector]:
        """What is contributed of a training's change."""
        if not self.is_expanded:
            return changed, delta
        whole = np.zeros(blueprint.size, np.float32)
        scatter(blueprint, whole, changed, delta)
        return blueprint.whole(), whole

    def networks(self, blueprint: Blueprint) -> Mapping[str, SubModel]:
        """What may be taken home; empty: the whole model."""
        widths = self.widths or ({WHOLE: blueprint.whole()} if self.aside else {})
        return {
            name: replace(width, blocks=tuple(block for block in width.blocks if block not in self.aside))
            for name, width in widths.items()
        }


class Sliced:
    """Trains the slice its scheme gives it, on its own data, and contributes the difference."""

    def __init__(
        self,
        prepared: Prepared,
        way: Way | Scheme,
        *,
        step_cost_s: float = 0.01,
        seed: int = 0,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        """`step_cost_s`: virtual seconds one step of the full model takes in a simulation. `origin`: see `Product`."""
        self.prepared = prepared
        self.way = way if isinstance(way, Way) else Way(scheme=way)
        self.product = Product(self.way.networks(prepared.blueprint), origin or {})
        self.step_cost_s = step_cost_s
        self._rng = random.Random(seed)
        self._batches = prepared.train.batches(self._rng)
        self._last: tuple[int, Vector] | None = None
        """The round I last trained, and the whole model then: for the outer momentum."""

    @property
    def scheme(self) -> Scheme:
        return self.way.scheme

    @property
    def blueprint(self) -> Blueprint:
        return self.prepared.blueprint

    @property
    def genesis(self) -> Vector:
        return self.prepared.genesis

    async def round(self, ctx: RoundContext) -> None:
        blueprint, sub_model = self.blueprint, self.scheme(self.blueprint, ctx.seat, ctx.rng)
        share, last = self._momentum(ctx.round)
        asks = self.way.objective.sees_model(blueprint, sub_model, ctx.round)
        held = blueprint.whole() if self.way.outer_momentum or asks else sub_model
        head = await ctx.extract(held)
        recipe = self._recipe(ctx, head if asks else None)
        changed = recipe.objective.trains(blueprint, sub_model, ctx.round)
        seed = self._rng.getrandbits(32)

        def work() -> tuple[Trained, Vector]:
            before = head if held == sub_model else extract(blueprint, head, sub_model)
            batches, stop = self._batches, ctx.should_stop
            trained = train_members(blueprint, sub_model, before, batches, recipe, seed=seed, should_stop=stop)
            delta = trained.after - before
            if last is not None:
                delta += np.float32(share) * (before - extract(blueprint, last, sub_model))
            return trained, of_blocks(blueprint, sub_model, changed, delta)

        trained, delta = await ctx.compute(work, self.step_cost_s * sub_model.share(blueprint) * recipe.steps)
        if self.way.outer_momentum:
            self._last = ctx.round, head
        worth = await self._worth(ctx, changed, delta, lambda: _part(blueprint, head, held, changed))
        give = partial(self.way.given, blueprint, changed, delta)
        covered, given = await ctx.compute(give, 0.0) if self.way.is_expanded else give()
        await ctx.contribute(covered, given, trained.samples, trained.loss, worth, trained=changed)

    async def _worth(
        self, ctx: RoundContext, changed: SubModel, delta: Vector, received: Callable[[], Vector]
    ) -> float:
        """What this round's contribution is worth; 1 where nobody weighs."""
        weighing = self.way.weighing
        if weighing is None:
            return 1.0
        now = await ctx.newer(changed)
        return await ctx.compute(lambda: weighing.factor(delta, now, received(), changed, ctx.round), 0.0)

    def _recipe(self, ctx: RoundContext, model: Vector | None) -> Recipe:
        """What this round's training takes."""
        steps, lr_factor = ctx.steps(self.prepared.steps_per_round), self.prepared.lr_factor(ctx.round)
        changes: dict[str, Any] = {"steps": steps, "lr_factor": lr_factor, "round": ctx.round, "model": model}
        return replace(self.prepared.recipe, objective=self.way.objective, **changes)

    def _momentum(self, round_index: int) -> tuple[float, Vector | None]:
        """What share of the model's movement since some model my contribution repeats: one round's part of it.

        Who missed rounds saw several rounds' movement; who has just come, none.
        """
        if self._last is None or round_index <= self._last[0]:
            return 0.0, None
        return self.way.outer_momentum / (round_index - self._last[0]), self._last[1]

    def evaluate(self, model: Vector) -> Evaluation | None:
        scores = self.scores(model)
        if len(scores) < 2:
            return next((Evaluation(one.accuracy) for one in scores.values()), None)
        return Evaluation.of({name: one.accuracy for name, one in scores.items()})

    def scores(self, model: Vector) -> Mapping[str, Score]:
        """Every width of the run on the validation data, by name; empty without such data."""
        data, whole = self.prepared.validation, {WHOLE: self.blueprint.whole()}
        if data is None:
            return {}
        loss, place = self.prepared.loss, self.prepared.place
        return {
            name: score(self.blueprint, width, extract(self.blueprint, model, width), data, loss, place=place)
            for name, width in (self.way.widths or whole).items()
        }


def _part(blueprint: Blueprint, values: Vector, held: SubModel, part: SubModel) -> Vector:
    """Of the values of the whole model, or of a slice with some more blocks, those of a part."""
    return extract(blueprint, values, part) if held == blueprint.whole() else of_blocks(blueprint, held, part, values)

"""A relay's part in the rounds of one shard, as an algorithm like any other: what its copies learnt is contributed.

The node of a shard knows nothing of hops, and a relay knows no loss. Its round begins with the head of the shard, from
which owners' copies are made, and ends when they are done; the mean of their changes is one contribution, worth as many
as there were copies.
"""

from __future__ import annotations

import math

from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.hops.openings import Openings
from p2pfusion.hops.split import Split


class ShardRounds:
    """`algorithms.base.Algorithm` of one shard at a relay."""

    def __init__(self, shard: int, split: Split, openings: Openings) -> None:
        self.shard = shard
        self.blueprint = split.blueprint_of(shard)
        self._split = split
        self.product = Product()
        self._openings = openings

    @property
    def genesis(self) -> Vector:
        """Drawn when it is asked for: whoever follows a ledger needs it once."""
        return self._split.genesis_of(self.shard)

    async def round(self, ctx: RoundContext) -> None:
        whole = self.blueprint.whole()
        try:
            learnt = await self._openings.collect(self.shard, await ctx.extract(whole))
            if learnt is not None:
                await ctx.contribute(whole, learnt.delta, learnt.samples, math.nan, float(learnt.copies))
        finally:
            self._openings.learnt.discard(self.shard)

    def evaluate(self, model: Vector) -> Evaluation | None:
        """A shard alone answers nothing."""
        return None

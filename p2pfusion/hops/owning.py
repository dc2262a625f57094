"""An owner's round: its batches go through the chain one by one, in one piece or as micro-batches that fill it, and its
first and last stage learn from them.

It is an algorithm like any other, on the ledger of the owners' shard: the round begins with that shard's head and ends
with one contribution. In between it speaks to relays: seats are taken, activations go out, gradients come back. A batch
that a hop is too slow for, by the patience it has learnt, or that it says it failed with, is lost, and training goes on
with the next. Where another relay has to take a hop's place the round begins again with the same batches: what the lost
one knew of it nobody else does, and a stage that had learnt less than its neighbours would fit none of them. So who
carries the stages makes no difference to the model.

Inputs and labels stay here: what leaves is what the first stage makes of the one and a gradient that the other leaves
behind. Source: PAPERS.md 3.1; ours: patience, mending.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from p2pfusion.algorithms.base import Evaluation, Product, RoundContext, Vector
from p2pfusion.config import CadenceConfig
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.data import Batch, Data
from p2pfusion.core.splitting import Ends
from p2pfusion.core.training import Score
from p2pfusion.errors import LocalError, RemoteError, TrainingError
from p2pfusion.hops.drawing import Draws
from p2pfusion.hops.linking import HopLost, Linking
from p2pfusion.hops.sending import Topic, opened
from p2pfusion.hops.site import Site
from p2pfusion.seams import Reply, Request
from p2pfusion.swarm.patience import learnt_s
from p2pfusion.wire.hops import Passage, Word, decode_passage, decode_word

LOST_MAX = 50
"""Batches in a row that did not come back: relays that are slow for a moment lose one each; so many are a mistake."""
BEGUN_AGAIN_MAX = 20
"""Times that one round begins again: relays that come and go so often carry nothing to its end."""
TIMES_KEPT = 64
"""Batches that patience is learnt from, as the cadence keeps."""
PREDICTED_SHARE = 4.0
"""Patience before the first batch, in forecasts of a batch: a plan knows a device's calm speed, not its bad moments."""
LEAST_SHARE = 2.0
"""And never less than so many: owners come and go, and all of them at once make each wait for all the others."""
SLOWER = 2.0
"""How much longer than its patience a batch that was given up might have taken."""
PATIENCE_MIN_S = 1.0
"""Less would take a collector's pause or a lost packet for a lost hop."""
EVALUATION_BATCHES_MAX = 64
"""Validation batches through the chain, so that measuring never takes longer than training."""
GOODBYES = "goodbyes"

_LEARNING = CadenceConfig(patience_min_s=PATIENCE_MIN_S)


@dataclass(slots=True)
class OwnerFigures:
    """What an owner's rounds came to, for reports."""

    batches: int = 0
    lost: int = 0
    begun_again: int = 0
    """Rounds, since another relay had to take a stage in their midst."""
    predicted_s: float = 0.0
    measured_s: float = 0.0
    """Of a batch, the mean over the last round."""
    score: Score | None = None
    """The last one measured through the chain."""
    scored: int = 0
    """Before which round."""


class Owner:
    """`algorithms.base.Algorithm` of the owners' shard, and who waits for what comes back through the chain."""

    def __init__(
        self,
        site: Site,
        linking: Linking,
        batches: Iterator[Batch],
        steps: int,
        validation: Data | None = None,
        evaluate_every: int = 5,
    ) -> None:
        """`steps`: batches a round; every `evaluate_every`-th round begins with the validation data."""
        self.split, self.linking, self.figures = site.split, linking, OwnerFigures()
        self.blueprint: Blueprint = site.split.blueprint_of(0)
        self.product = Product()
        self._site = site
        self._draws, self._validation = Draws(batches), validation
        self._compute, self._sender = site.doors.compute, site.sender
        self._steps, self._evaluate_every = steps, evaluate_every
        self._micro_batches = site.config.micro_batches
        self._waiting: dict[tuple[Topic, int, int, int], asyncio.Future[Passage]] = {}
        self._times_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self._number = 0
        """Of the batch under way; every one has another."""
        self._given_up = 0
        """Of the batch that was given up last."""

    @property
    def genesis(self) -> Vector:
        """Of the owners' shard."""
        return self.split.genesis_of(0)

    # -- what comes back -----------------------------------------------------------------------------------------------

    def answer(self, topic: str, request: Request) -> Reply | None:
        """The reply to a call on one of its topics; None for another. Raises `WireError`."""
        match topic:
            case "forward" | "backward":
                passage = decode_passage(request.body)
                waiting = self._waiting.get((topic, passage.epoch, passage.batch, passage.part))
                if waiting is None or passage.owner != self.linking.me or passage.run != self.split.tag:
                    return Reply(404, b"batch")
                if not waiting.done():
                    waiting.set_result(passage)
                return Reply(202, b"accepted")
            case "failed":
                self._failed(decode_word(request.body))
                return Reply(202, b"accepted")
        return None

    def _failed(self, word: Word) -> None:
        if word.owner != self.linking.me or word.run != self.split.tag:
            return
        for (_, epoch, batch, _), waiting in list(self._waiting.items()):
            if (epoch, batch) == (word.epoch, word.batch) and not waiting.done():
                waiting.set_exception(HopLost(word.place))

    async def watch(self) -> None:
        """For ever: what is under way through a relay that says goodbye is lost, without waiting for it."""
        while True:
            await self._site.bell(GOODBYES).wait(PATIENCE_MIN_S)
            place = self.linking.said_goodbye()
            if place is not None:
                self._give_up(HopLost(place))

    # -- a round -------------------------------------------------------------------------------------------------------

    async def round(self, ctx: RoundContext) -> None:
        """See `algorithms.base`. Raises `TrainingError`."""
        whole = self.blueprint.whole()
        before = await ctx.extract(whole)
        await self.linking.seat(ctx.round)
        ends = await self._ends(ctx, before)
        if self._validation is not None and (ctx.round - 1) % self._evaluate_every == 0:
            await self._evaluate(ends, ctx.round)
        self._draws.begin()
        begun_again = 0
        while (learnt := await self._train(ctx, ends)) is None:
            begun_again += 1
            if begun_again > BEGUN_AGAIN_MAX:
                raise TrainingError(
                    f"round {ctx.round} was begun {begun_again} times: relays come and go faster than a round takes; "
                    f"make rounds shorter (steps_per_round), or leave out the relays that do not stay"
                )
            self.figures.begun_again += 1
            self._draws.begin_again()
            ends = await self._ends(ctx, before)
        losses, samples = learnt
        if not losses:
            return
        await self.linking.end(ctx.round)
        after: Vector = await self._compute.run(lambda: ends.values)
        self.figures.predicted_s = self.linking.batch_s
        await ctx.contribute(whole, after - before, samples, math.fsum(losses) / len(losses))

    async def _ends(self, ctx: RoundContext, values: Vector) -> Ends:
        shards, recipe = self.split.shards, self.split.recipe(ctx.round)
        return await ctx.compute(lambda: Ends(self.split.blueprint, shards.first, shards.last, values, recipe), 0.0)

    async def _train(self, ctx: RoundContext, ends: Ends) -> tuple[list[float], int] | None:
        """The losses of the round's batches that came through, and their samples; None: it must begin again."""
        losses: list[float] = []
        samples, loop, steps, in_a_row = 0, asyncio.get_running_loop(), ctx.steps(self._steps), 0
        began_s = loop.time()
        while len(losses) < steps and not ctx.should_stop():
            x, y = await self._compute.run(lambda: next(self._draws))
            begin_s = loop.time()
            try:
                losses.append(await self._batch(ctx.round, ends, x, y))
            except HopLost as error:
                self.figures.lost, in_a_row = self.figures.lost + 1, in_a_row + 1
                if in_a_row >= LOST_MAX:
                    raise TrainingError(
                        f"{in_a_row} batches in a row did not come back through the chain: see what its relays say"
                    ) from None
                # Whoever was only slow is given more time; a hop that is gone is found by asking.
                self._times_s.append(SLOWER * (loop.time() - begin_s))
                await self._compute.run(ends.drop)
                if await self.linking.mend(error.place, ctx.round):
                    return None
                continue
            self._times_s.append(loop.time() - begin_s)
            self.figures.batches, in_a_row = self.figures.batches + 1, 0
            samples += len(x)
        self.figures.measured_s = (loop.time() - began_s) / max(1, len(losses))
        return losses, samples

    async def _batch(self, round_: int, ends: Ends, x: torch.Tensor, y: torch.Tensor) -> float:
        """One batch there and back: its loss. Raises `HopLost`, `TrainingError`."""
        head, count = self._head(round_), self._micro_batches
        pieces = list(zip(x.chunk(count), y.chunk(count), strict=True))
        heads = [replace(head, part=part, parts=len(pieces)) for part in range(len(pieces))]
        told = await asyncio.gather(
            *(
                self._micro_batch(one, ends, piece, len(piece[0]) / len(x))
                for one, piece in zip(heads, pieces, strict=True)
            ),
            return_exceptions=True,
        )
        failed = [one for one in told if isinstance(one, BaseException)]
        if failed:  # what is no lost hop is why the others were given up
            raise next((one for one in failed if not isinstance(one, HopLost)), failed[0])
        return math.fsum(one for one in told if not isinstance(one, BaseException))

    async def _micro_batch(self, head: Passage, ends: Ends, piece: Batch, share: float) -> float:
        """`share` of a batch there and back: its part of the loss. A batch of which one fails is given up."""
        (x, y), part, (first, last) = piece, head.part, self.split.owner_s
        try:
            begin = partial(ends.begin, x, part, head.parts)
            activation = await self._compute.run(begin, cost_s=share * first[0])
            came = await self._through(head, "forward", self.linking.chain[0].address, activation)
            finish = partial(ends.finish, came, y, part, share)
            loss, gradient = await self._compute.run(finish, cost_s=share * (last[0] + last[1]))
            back = await self._through(head, "backward", self.linking.chain[-1].address, gradient)
            try:
                await self._compute.run(partial(ends.end, back, part), cost_s=share * first[1])
            except ValueError:  # not the gradient of what was sent
                raise HopLost(self.linking.chain[0].first) from None
        except HopLost as error:
            self._give_up(error)
            raise
        except LocalError:
            self._give_up(HopLost(None))
            raise
        return loss

    def _give_up(self, why: HopLost) -> None:
        """Nothing more is sent of the batch under way, or waited for."""
        self._given_up = self._number
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(HopLost(why.place))

    def _head(self, round_: int, *, is_training: bool = True) -> Passage:
        self._number += 1
        return Passage(
            run=self.split.tag,
            owner=self.linking.me,
            epoch=self.linking.epoch,
            round=round_,
            batch=self._number,
            part=0,
            parts=1,
            is_training=is_training,
            codec="fp32",
            shape=(1,),
            payload=bytes(4),
        )

    async def _through(self, head: Passage, topic: Topic, address: str, tensor: torch.Tensor) -> torch.Tensor:
        """Send this way into the chain, and wait for what comes out of it. Raises `HopLost`."""
        if head.batch == self._given_up:
            raise HopLost(None)
        key, waiting = (topic, head.epoch, head.batch, head.part), asyncio.get_running_loop().create_future()
        self._waiting[key] = waiting
        place = self.linking.chain[0].first if topic == "forward" else self.linking.chain[-1].last
        try:
            async with asyncio.timeout(self.patience_s):
                values = tensor.detach().to(torch.float32).cpu().numpy()
                await self._sender.send(topic, address, head, values)
                passage: Passage = await waiting
            return await self._compute.run(lambda: opened(passage), lane="gate")
        except ValueError as error:  # too large, or not finite
            raise TrainingError(f"what goes to the next hop cannot be sent: {error}") from error
        except TimeoutError:
            raise HopLost(None) from None
        except HopLost:
            raise
        except RemoteError:
            raise HopLost(place) from None
        finally:
            self._waiting.pop(key, None)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # seen, also where sending failed first

    @property
    def patience_s(self) -> float:
        """How long one way through the chain may take: learnt, before that from the plan's forecast."""
        said_s = self.linking.batch_s
        first_s = max(PATIENCE_MIN_S, PREDICTED_SHARE * said_s)
        learning = replace(_LEARNING, patience_first_s=first_s, patience_max_s=max(_LEARNING.patience_max_s, first_s))
        return max(LEAST_SHARE * said_s, learnt_s(self._times_s, learning))

    # -- accuracy ------------------------------------------------------------------------------------------------------

    def score_before(self, round_: int) -> Score | None:
        """What was measured before that round's first step; None: nothing was."""
        return self.figures.score if self.figures.scored == round_ else None

    async def measure(self, round_: int, values: Vector) -> None:
        """Measure the model as it is after the last round, where there is validation data; `values` of my shard.

        Batches that are lost are sent again, as when training: no later round would measure it.
        """
        if self._validation is None:
            return
        shards, recipe = self.split.shards, self.split.recipe(round_)
        await self.linking.seat(round_)
        ends = await self._compute.run(lambda: Ends(self.split.blueprint, shards.first, shards.last, values, recipe))
        await self._evaluate(ends, round_, LOST_MAX)

    async def _evaluate(self, ends: Ends, round_: int, tries: int = 1) -> None:
        """Validation data through the chain as it is before the round's first step; `tries` for each batch."""
        assert self._validation is not None
        right, total, lost = 0, 0, 0.0
        for number, (x, y) in enumerate(self._validation.once()):
            if number >= EVALUATION_BATCHES_MAX:
                break
            sent = await self._compute.run(partial(ends.evaluate_first, x))
            came = await self._answered(round_, sent, tries)
            if came is None:
                return
            count, loss = await self._compute.run(partial(ends.judge, came, y))
            right, total, lost = right + count, total + y.numel(), lost + loss * y.numel()
        if total:
            self.figures.score, self.figures.scored = Score(accuracy=right / total, loss=lost / total), round_

    async def _answered(self, round_: int, sent: torch.Tensor, tries: int) -> torch.Tensor | None:
        """What the chain makes of it; None if it is lost so often."""
        for _ in range(tries):
            head, begin_s = self._head(round_, is_training=False), asyncio.get_running_loop().time()
            try:
                return await self._through(head, "forward", self.linking.chain[0].address, sent)
            except HopLost as error:
                self._times_s.append(SLOWER * (asyncio.get_running_loop().time() - begin_s))
                await self.linking.mend(error.place, round_)
        return None

    def evaluate(self, model: Vector) -> Evaluation | None:
        """The last accuracy measured through the chain; a shard alone answers nothing."""
        return None if self.figures.score is None else Evaluation(self.figures.score.accuracy)

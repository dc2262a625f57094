"""The round loop: wait for the others, train, publish, wait until the round is ready, again; then the end of the run.

A task of the node. The algorithm does the round through `context.Context`; `swarm.cadence` says when it is ready. With
`ahead_rounds` a node already trains the next rounds while the last ones still travel, so a slow network does not make
it wait; `reporting` tells each round when it is ready.

A node with nothing to train *observes*: it follows the chain, votes and serves, and nobody waits for it. It may begin
and end doing so between any two rounds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from p2pfusion.config import OPEN_ROUNDS_MAX
from p2pfusion.core.schemes import Seat
from p2pfusion.errors import TaskError
from p2pfusion.node.authoring import Authoring
from p2pfusion.node.chain import Chain
from p2pfusion.node.contents import Measured
from p2pfusion.node.context import Context
from p2pfusion.node.entering import LOOK_AGAIN_S, enter
from p2pfusion.node.reporting import Awaited, Reporting
from p2pfusion.node.state import State
from p2pfusion.swarm.membership import View
from p2pfusion.wire.messages import FLOOR_NEVER, PeerId, Role

OUTRUN_ROUNDS = 2
"""A node this far behind the newest round waits for nobody: its round was left by the others."""

Ended = Literal["ok", "interrupted", "timeout"]


class Rounds:
    """From the first peer to the last sealed round."""

    def __init__(
        self,
        state: State,
        authoring: Authoring,
        chain: Chain,
        announce: Callable[[bytes], None],
        rate: float,
        observes: Callable[[], bool] = lambda: False,
    ) -> None:
        """`announce` passes a fresh contribution's id on to the gossip; `rate` is my share of each sliced axis;
        `observes` says whether there is nothing to train at the moment.
        """
        self._state = state
        self._authoring = authoring
        self._chain = chain
        self._announce = announce
        self._rate = rate
        self._observes = observes
        self._is_stopping = False
        self._started_s = 0.0
        self._reporting = Reporting(state)
        self._awaited: deque[Awaited] = deque()
        """Rounds of mine that may not be left yet: `ahead_rounds` of them while I train the next."""

    def stop(self) -> None:
        """Give up local training as soon as it asks."""
        self._is_stopping = True

    @property
    def seconds(self) -> float:
        return self._state.now_s() - self._started_s

    async def run(self) -> Ended:
        """The whole life of a node. Raises `TooFewPeers`, `TrainingError`."""
        self._started_s = self._state.now_s()
        try:
            async with asyncio.timeout(self._state.config.timeout_s) as limit:
                await enter(self._state, self._chain)
                while self._state.ledger.floor != FLOOR_NEVER and not self._is_stopping:
                    await self._go_on()
                if self._is_stopping:
                    return "interrupted"
                await self._leave(0, self._state.now_s())
                await self._drain()
        except TimeoutError:
            if not limit.expired():
                raise  # somebody else's: a data set behind a network, say
            self._is_stopping = True
            return "timeout"
        return "ok"

    def _become(self, role: Role) -> None:
        """What I am from now on, which everybody is told."""
        if role != self._state.role:
            self._state.role = role
            self._state.ledger.observe(role == "observes")
            self._state.stir()

    async def _go_on(self) -> None:
        """A round, or a while without one."""
        self._become("observes" if self._observes() else "trains")
        if self._state.role == "observes":
            await self._follow()
        elif self._state.ledger.floor > self._state.ledger.tip.round + OPEN_ROUNDS_MAX:
            await self._state.bells["round"].wait(LOOK_AGAIN_S)  # no room: the tip must follow first
        else:
            await self._round()

    async def _follow(self) -> None:
        """Observe until something happens."""
        state = self._state
        await self._leave(0, state.now_s())  # what I trained before
        floor = state.ledger.floor
        await state.bells["round"].wait(LOOK_AGAIN_S)
        if state.ledger.floor != floor:
            state.bells["gossip"].ring()  # it follows the newest round, and whoever seals waits to hear that it did

    # -- one round --------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        state = self._state
        begin_s = state.now_s()
        view = state.membership.view(begin_s)
        state.cadence.pace.expect(view.others(), state.ahead.rounds)
        context = Context(state, self._authoring, self._seat(view), lambda: self._is_stopping)
        await state.algorithm.round(context)
        if context.published is None or context.published_round is None:
            if state.ledger.floor != FLOOR_NEVER:
                await state.bells["round"].wait(LOOK_AGAIN_S)  # a round without work must not become a busy loop
            return
        round_, trained_s = context.published_round, state.now_s()
        view = state.membership.view(trained_s)
        state.cadence.published(round_, view.others(), state.arrived(round_), trained_s, begin_s)
        state.ahead.trained(trained_s - begin_s)
        self._announce_mine(round_)
        self._awaited.append(Awaited(context.published, round_, view.trainers(), begin_s, trained_s))
        await self._until_s(begin_s + state.config.cadence.round_min_s)
        await self._leave(state.ahead.rounds, trained_s)
        await self._evaluate_sometimes()

    async def _leave(self, ahead: int, since_s: float) -> None:
        """Wait for all my rounds but the newest `ahead`, in order, and report each; nothing is trained `since_s`."""
        while len(self._awaited) > ahead:
            awaited = self._awaited.popleft()
            await self._until_ready(awaited)
            await self._reporting.report(awaited, self._state.now_s() - since_s)
            since_s = self._state.now_s()

    async def _until_s(self, due_s: float) -> None:
        while (left_s := due_s - self._state.now_s()) > 0:
            await self._state.bells["round"].wait(max(left_s, 0.001))  # less might not move the clock

    def _seat(self, view: View) -> Seat:
        """My place among those who train, with others' rates as far as their contributions have shown them."""
        trainers = view.trainers()
        rates = self._state.rates.among(trainers, view.me, self._rate)
        return Seat(rank=trainers.index(view.me), peers=len(trainers), round=self._state.ledger.floor, rates=rates)

    def _announce_mine(self, round_: int) -> None:
        for entry in self._state.ledger.counted(round_):
            if entry.manifest.peer == self._state.me:
                self._announce(entry.id)
        self._state.stir()

    def _expected(self, round_: int, at_first: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
        """Whom I wait for: those who train, but nobody who came since and can only publish to later rounds."""
        membership = self._state.membership
        reports = {peer: membership.report_of(peer) for peer in membership.view(self._state.now_s()).trainers()}
        return tuple(
            peer
            for peer, report in reports.items()
            if report is None or peer in at_first or all(shard.floor <= round_ for shard in report.shards)
        )

    async def _until_ready(self, awaited: Awaited) -> None:
        state, round_ = self._state, awaited.round
        while True:
            now_s = state.now_s()
            arrived, expected = state.arrived(round_), self._expected(round_, awaited.expected)
            is_ready = state.cadence.is_ready(round_, arrived, expected, now_s)
            # The others left it, or it is sealed: nothing more can come.
            outrun = round_ + OUTRUN_ROUNDS + state.ahead.rounds  # my own rounds ahead outrun nobody
            if is_ready or state.ledger.newest >= outrun or state.ledger.tip.round >= round_:
                return
            due_s = state.cadence.ready_at_s(round_, arrived, expected)
            await state.bells["round"].wait(max(min(due_s - now_s, LOOK_AGAIN_S), 0.001))

    # -- accuracy ---------------------------------------------------------------------------------------------------

    async def _evaluate_sometimes(self) -> None:
        """Measure the sealed model now and then; the first to reach the wanted accuracy ends the run for all."""
        state, config = self._state, self._state.config
        tip = state.ledger.tip.round
        step = 1 if config.until_accuracy is not None else config.evaluate_every_rounds
        if tip < state.measured.round + step or self._observes():
            return
        await self.evaluate()
        wanted, accuracy = config.until_accuracy, state.measured.accuracy
        if wanted is not None and accuracy is None:
            raise TaskError("to end at an accuracy the task needs validation data: give Task(validation=...)")
        if wanted is not None and accuracy is not None and accuracy >= wanted:
            state.learn_stop(state.ledger.newest + 2)

    async def evaluate(self) -> None:
        """Measure the sealed model, unless it was measured already, or I have nothing to train, so none to judge."""
        state = self._state
        tip, sealed = state.ledger.tip.round, state.replica.sealed
        if tip != state.measured.round and not self._observes():
            found = await state.doors.compute.run(lambda: state.algorithm.evaluate(sealed), lane="train")
            state.measured = Measured(found, tip)

    # -- end --------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Serve and gossip until everything is sealed and all agree, or nobody has come round for long enough."""
        state = self._state
        self._become("draining")
        while not self._may_leave():
            await state.bells["round"].wait(LOOK_AGAIN_S)

    def _may_leave(self) -> bool:
        state, tip = self._state, self._state.ledger.tip
        if state.stop_round is None or tip.round < state.stop_round:
            return False
        reports = [report for report, _ in state.membership.reports()]
        is_agreed = all(
            shard.tip_chain == tip.chain or (shard.tip_round > tip.round and report.role in ("trains", "observes"))
            for report in reports
            for shard in report.shards[:1]
        )
        is_cut_off = len(state.membership.dead()) > len(reports) + 1  # most are silent: perhaps it is me
        if is_agreed and not (is_cut_off or state.ledger.losses or any(report.owes_graft for report in reports)):
            return True
        waited_s = state.now_s() - self._chain.last_seal_s
        return waited_s >= max(state.cadence.patience_s, state.config.gossip.suspicion_s)

"""My own contributions: the head I train from, the publication of what changed, and the residual.

The residual is what I produced minus what my chain counts of it (PROTOCOL.md 5): what compression lost, and the decoded
delta of every contribution that my chain sealed its round without. It leaves with my next contribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from p2pfusion.algorithms.base import Vector
from p2pfusion.core.replica import Owed, head
from p2pfusion.core.submodel import SubModel, extract, scatter
from p2pfusion.core.values import as_values
from p2pfusion.errors import TrainingError
from p2pfusion.node.decoding import decoded, encoded, values_of
from p2pfusion.node.doubts import Doubts
from p2pfusion.node.outgoing import prepare
from p2pfusion.node.state import State
from p2pfusion.seams import Identity
from p2pfusion.swarm.cadence import weight_of
from p2pfusion.swarm.gate import judge
from p2pfusion.swarm.ledger import Entry
from p2pfusion.swarm.thrift import Choice
from p2pfusion.wire.codec import contribution_id
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId

TOO_LATE_WATCHED_ROUNDS = 1024
"""How long it is noticed, and told, that a chain changed its mind about old work whose contents are forgotten."""


@dataclass(slots=True)
class Mine:
    """One of my contributions and whether my chain counts it. Its segments are pinned in the ledger till it is old."""

    id: ContributionId
    sub_model: SubModel
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Base:
    """What a head was made of."""

    round: int
    chain: bytes


class Authoring:
    """Author of this node's contributions."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._mine: dict[int, Mine] = {}
        self._doubts: Doubts | None = None
        self._was_beyond = False

    async def head(self, sub_model: SubModel) -> tuple[Vector, Base]:
        """A slice of the head, flat float32, and what it was made of."""
        state, ledger = self._state, self._state.ledger
        sealed, rounds = state.replica.sealed, ledger.open_rounds()
        base = Base(ledger.base_round, ledger.tip.chain)

        def work() -> Vector:
            return head(state.blueprint, sealed, sub_model, (decoded(state.blueprint, one) for one in rounds))

        return await state.doors.compute.run(work, lane="train"), base

    async def publish(
        self, sub_model: SubModel, delta: Vector, samples: int, base: Base, worth: float = 1.0
    ) -> Entry | None:
        """Encode, write the round down, then make it known. None when the run ended meanwhile.

        `worth` becomes part of its weight (`cadence.weight_of`). Raises `TrainingError` for numbers that are not
        finite.
        """
        state = self._state
        self.balance()
        choice, seed, lent = self._choice(delta.size), state.doors.rng.getrandbits(32), state.replica.lend()
        work = partial(prepare, lent, sub_model, delta, choice, seed)
        outgoing = await state.doors.compute.run(work, lane="train")
        if outgoing is None:
            raise TrainingError(
                "training produced numbers that are not finite or beyond reason: lower the learning rate"
            )
        round_ = await self._reserve()
        if round_ == FLOOR_NEVER:
            state.replica.add_residual(sub_model, delta)
            return None
        manifest = Contribution(
            shard=0,
            round=round_,
            peer=state.me,
            kind="work",
            base_round=min(base.round, round_),
            base_chain=base.chain,
            weight=weight_of(samples, round_ - base.round, state.config.cadence, worth),
            samples=samples,
            sub_model=sub_model,
            codec=choice.codec,
            segments=outgoing.infos,
        )
        if (reason := judge(manifest, state.blueprint, state.config.run)) is not None:
            state.replica.add_residual(sub_model, delta)
            state.warn("refused-own", f"nobody would accept this round's work ({reason}); the next carries it")
            return None
        if outgoing.residual is not None and not state.replica.settle(lent, outgoing.residual):
            # It was changed meanwhile: the difference is added when there is time for it.
            state.replica.owe(Owed(sub_model, lambda: as_values(outgoing.change()), 1.0))
        return self._add(manifest, outgoing.segments)

    def _choice(self, elements: int) -> Choice:
        """The codec of my next contribution; tells when no codec could keep the user's budget."""
        state, now_s = self._state, self._state.now_s()
        others, spent = len(state.membership.view(now_s).trainers()) - 1, state.bytes_sent + state.bytes_received
        rate = None if self._was_beyond else state.thrift.beyond_budget(elements, others, spent, now_s)
        if rate is not None:
            self._was_beyond = True
            state.warn(
                "budget",
                f"this run moves about {rate / 1e6:.0f} MB an hour, more than the budget: a budget only chooses this "
                "node's codec, and never slows rounds; let everybody use --codec auto, or the task train more steps",
            )
        return state.thrift.choose(elements, others, spent, now_s)

    def _add(self, manifest: Contribution, segments: Sequence[bytes]) -> Entry:
        state, id_ = self._state, contribution_id(manifest)
        state.ledger.published(manifest.round)
        state.thrift.published(state.now_s(), state.bytes_sent + state.bytes_received)
        entry = state.ledger.add(id_, manifest, state.now_s(), wanted=True)
        if entry is None:
            raise AssertionError("a wanted contribution is always kept")
        for index, segment in enumerate(segments):
            state.ledger.put(entry, index, segment)
        self._remember(entry)
        return entry

    def _remember(self, entry: Entry) -> None:
        self._state.ledger.pin(entry)
        self._mine[entry.manifest.round] = Mine(entry.id, entry.manifest.sub_model)

    async def _reserve(self) -> int:
        """The round to publish to: my floor, and still my floor once it is written down, for a floor is a promise."""
        ledger = self._state.ledger
        while (round_ := ledger.floor) != FLOOR_NEVER:
            await self._write_down(round_)
            if ledger.floor == round_:
                break
        return round_

    async def _write_down(self, round_: int) -> None:
        """The round is on disk before it is published, so that a restarted peer never reuses it."""
        state = self._state
        identity = Identity(peer=state.me, incarnation=state.incarnation, last=round_, run_id=state.run_id)
        await state.disk.save_identity(identity)

    def balance(self) -> None:
        """My chain changed: what it counts no more goes into the residual, what it counts after all comes out."""
        state, ledger = self._state, self._state.ledger
        self._clear_doubts()
        too_late = 0
        for round_, mine in sorted(self._mine.items()):
            counts = ledger.counts(mine.id, round_)
            if counts is None or counts == mine.is_counted:
                continue
            mine.is_counted = counts
            if (entry := ledger.pinned.get(mine.id)) is None:
                too_late += 1
            else:
                read = partial(encoded, state.blueprint, entry)
                state.replica.owe(Owed(mine.sub_model, read, -1.0 if counts else 1.0))
        if too_late:
            state.warn("too-late", f"the chain changed its mind about {too_late} contributions too old to send again")
        self._forget_old()

    def _forget_old(self) -> None:
        """Contents go 4 horizons behind the tip, unless I owe a graft: until it is sealed all of them may matter."""
        ledger = self._state.ledger
        keep_from = ledger.tip.round - 4 * self._state.config.run.horizon_rounds
        for round_, mine in self._mine.items():
            if round_ < keep_from and not ledger.losses:
                ledger.unpin(mine.id)
        for round_ in [r for r in self._mine if r < ledger.tip.round - TOO_LATE_WATCHED_ROUNDS]:
            ledger.unpin(self._mine.pop(round_).id)

    async def settle(self) -> None:
        """Add up, off the loop, what balancing found. Should the residual change meanwhile, its next use does it."""
        state = self._state
        if state.replica.is_owing:
            lent = state.replica.lend()
            state.replica.settle(lent, await state.doors.compute.run(lent.settled, lane="fold"))

    # -- across a restart ---------------------------------------------------------------------------------------------

    def mine(self) -> dict[int, Mine]:
        """My contributions by round, as they stand now."""
        return {round_: replace(mine) for round_, mine in self._mine.items()}

    def residual(self) -> Callable[[], Vector | None]:
        """The whole residual as it stands now, also what is held back. None for zeros.

        To be called in the executor, for it takes a model's time; what it refers to nobody changes.
        """
        lent = self._state.replica.lend()
        held_back = None if self._doubts is None else self._doubts.residual

        def made() -> Vector | None:
            if lent.vector is None and not lent.owed:
                return held_back
            residual = lent.settled()
            return residual if held_back is None else residual + held_back

        return made

    @property
    def doubtful(self) -> tuple[int, ...]:
        """Rounds of an earlier life of which it is not known whether my work reached anybody."""
        return () if self._doubts is None else self._doubts.rounds

    def resume(self, mine: Mapping[int, Mine], residual: Vector | None, doubtful: tuple[int, ...]) -> None:
        """Go on from what the disk gave back, its segments pinned; its residual waits until nothing is in doubt."""
        self._mine = dict(mine)
        if residual is not None or doubtful:
            zeros = np.zeros(self._state.blueprint.size, np.float32)
            self._doubts = Doubts(doubtful, zeros if residual is None else residual)
        self.balance()

    def adopt(self, entry: Entry) -> None:
        """A contribution from before a restart came back from others: it is mine, and took its residual with it."""
        self._remember(entry)
        if self._doubts is not None:
            blueprint, sub_model = self._state.blueprint, entry.manifest.sub_model
            self._doubts.residual = self._doubts.residual.copy()  # a checkpoint may be reading it
            left = extract(blueprint, self._doubts.residual, sub_model)
            left[values_of(blueprint, entry) != 0] = 0.0  # what a sparse one left out is still to be sent
            scatter(blueprint, self._doubts.residual, sub_model, left)

    def _clear_doubts(self) -> None:
        """Look what became of the rounds in doubt; when all are sealed, what is left of their residual is free."""
        if (doubts := self._doubts) is None:
            return
        found = doubts.look(self._state.ledger)
        if found is None:
            self._doubts = None
            text = "what this node had left to send when it stopped is dropped: others may count it already"
            if doubts.residual.any():
                self._state.warn("residual-dropped", text)
            return
        for entry in found:
            if entry.manifest.round not in self._mine:
                self.adopt(entry)
        if not doubts.rounds:
            self._doubts = None
            self._state.replica.add_residual(self._state.blueprint.whole(), doubts.residual)

"""My own contributions: the head I train from, the publication of what changed, and the residual.

The residual is what I produced minus what my chain counts of it (PROTOCOL.md 5): what compression lost, and the decoded
delta of every contribution that my chain sealed its round without. It leaves with my next contribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from blake3 import blake3

from p2pfusion.algorithms.base import Vector
from p2pfusion.core.replica import head
from p2pfusion.core.submodel import SubModel, scatter, scatter_add
from p2pfusion.errors import TrainingError
from p2pfusion.node.decoding import decoded, values_of
from p2pfusion.node.doubts import Doubts
from p2pfusion.node.state import State
from p2pfusion.seams import Identity
from p2pfusion.swarm.cadence import weight_of
from p2pfusion.swarm.gate import is_sound, judge
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id
from p2pfusion.wire.compression import decode_into, elements_per_segment, encode
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId, SegmentInfo

TOO_LATE_WATCHED_ROUNDS = 1024
"""How long it is noticed, and told, that a chain changed its mind about old work whose contents are forgotten."""


@dataclass(slots=True)
class Mine:
    """One of my contributions, decoded (None once it is old), and whether my chain counts it."""

    id: ContributionId
    sub_model: SubModel
    decoded: Vector | None
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
        self._carried: tuple[SubModel, Vector] | None = None
        """Residual on its way out: taken, and not yet published."""
        self._doubts: Doubts | None = None

    async def head(self, sub_model: SubModel) -> tuple[Vector, Base]:
        """A slice of the head, flat float32, and what it was made of."""
        state, ledger = self._state, self._state.ledger
        sealed, rounds = state.replica.sealed, ledger.open_rounds()
        base = Base(ledger.base_round, ledger.tip.chain)

        def work() -> Vector:
            return head(state.blueprint, sealed, sub_model, (decoded(state.blueprint, one) for one in rounds))

        return await state.doors.compute.run(work, lane="train"), base

    async def publish(self, sub_model: SubModel, delta: Vector, samples: int, base: Base) -> Entry | None:
        """Encode, write the round down, then make it known. None when the run ended meanwhile.

        Raises `TrainingError` for numbers that are not finite.
        """
        state = self._state
        self.balance()
        taken = state.replica.take_residual(sub_model)
        self._carried, delta = (sub_model, taken), delta + taken
        codec = state.config.codec
        segments, infos, sent = await state.doors.compute.run(lambda: _encoded(codec, delta), lane="train")
        if not is_sound(sent):
            raise TrainingError(
                "training produced numbers that are not finite or beyond reason: lower the learning rate"
            )
        round_ = await self._reserve()
        self._carried = None
        if round_ == FLOOR_NEVER:
            state.replica.add_residual(sub_model, delta)
            return None
        state.replica.add_residual(sub_model, delta - sent)
        manifest = Contribution(
            shard=0,
            round=round_,
            peer=state.me,
            kind="work",
            base_round=min(base.round, round_),
            base_chain=base.chain,
            weight=weight_of(samples, round_ - base.round, state.config.cadence),
            samples=samples,
            sub_model=sub_model,
            codec=codec,
            segments=infos,
        )
        if (reason := judge(manifest, state.blueprint, state.config.run)) is not None:
            state.replica.add_residual(sub_model, sent)
            state.warn("refused-own", f"nobody would accept this round's work ({reason}); the next carries it")
            return None
        return self._add(manifest, segments, sent)

    def _add(self, manifest: Contribution, segments: Sequence[bytes], sent: Vector) -> Entry:
        state, id_ = self._state, contribution_id(manifest)
        state.ledger.published(manifest.round)
        entry = state.ledger.add(id_, manifest, state.now_s(), wanted=True)
        if entry is None:
            raise AssertionError("a wanted contribution is always kept")
        for index, segment in enumerate(segments):
            state.ledger.put(entry, index, segment)
        self._mine[manifest.round] = Mine(id_, manifest.sub_model, sent)
        return entry

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
        self._settle()
        too_late = 0
        for round_, mine in sorted(self._mine.items()):
            counts = ledger.counts(mine.id, round_)
            if counts is None or counts == mine.is_counted:
                continue
            mine.is_counted = counts
            if mine.decoded is None:
                too_late += 1
            else:
                state.replica.add_residual(mine.sub_model, mine.decoded, -1.0 if counts else 1.0)
        if too_late:
            state.warn("too-late", f"the chain changed its mind about {too_late} contributions too old to send again")
        self._forget_old()

    def _forget_old(self) -> None:
        """Contents go 4 horizons behind the tip, unless I owe a graft: until it is sealed all of them may matter."""
        ledger = self._state.ledger
        keep_from = ledger.tip.round - 4 * self._state.config.run.horizon_rounds
        for round_, mine in self._mine.items():
            if round_ < keep_from and not ledger.losses:
                mine.decoded = None
        for round_ in [r for r in self._mine if r < ledger.tip.round - TOO_LATE_WATCHED_ROUNDS]:
            del self._mine[round_]

    # -- across a restart ---------------------------------------------------------------------------------------------

    def mine(self) -> dict[int, Mine]:
        """My contributions by round, as they stand now."""
        return {round_: replace(mine) for round_, mine in self._mine.items()}

    def residual(self) -> Vector:
        """A copy of the whole residual: also what is on its way out, and what is held back."""
        residual, blueprint = self._state.replica.residual.copy(), self._state.blueprint
        if self._carried is not None:
            scatter_add(blueprint, residual, *self._carried)
        return residual if self._doubts is None else residual + self._doubts.residual

    @property
    def doubtful(self) -> tuple[int, ...]:
        """Rounds of an earlier life of which it is not known whether my work reached anybody."""
        return () if self._doubts is None else self._doubts.rounds

    def resume(self, mine: Mapping[int, Mine], residual: Vector | None, doubtful: tuple[int, ...]) -> None:
        """Go on from what the disk gave back; its residual waits until nothing is in doubt."""
        self._mine = dict(mine)
        if residual is not None or doubtful:
            zeros = np.zeros(self._state.blueprint.size, np.float32)
            self._doubts = Doubts(doubtful, zeros if residual is None else residual)
        self.balance()

    def adopt(self, entry: Entry) -> None:
        """A contribution from before a restart came back from others: it is mine, and took its residual with it."""
        manifest = entry.manifest
        self._mine[manifest.round] = Mine(entry.id, manifest.sub_model, values_of(self._state.blueprint, entry))
        if self._doubts is not None:
            scatter(self._state.blueprint, self._doubts.residual, manifest.sub_model, 0.0)

    def _settle(self) -> None:
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


def _encoded(codec: str, delta: Vector) -> tuple[tuple[bytes, ...], tuple[SegmentInfo, ...], Vector]:
    """Segments of a delta, what the manifest says of them, and what everybody will decode."""
    segments = encode(codec, delta)
    sent = np.empty_like(delta)
    step = elements_per_segment(codec)
    for index, segment in enumerate(segments):
        decode_into(codec, segment, sent[index * step : (index + 1) * step])
    return segments, tuple(SegmentInfo(blake3(s).digest(), len(s)) for s in segments), sent

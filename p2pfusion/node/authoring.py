"""My own contributions: the head I train from, the publication of what changed, and the residual.

The residual is what I produced minus what my chain counts of it (PROTOCOL.md 5): what compression lost, and the decoded
delta of every contribution that my chain sealed its round without. It leaves with my next contribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from p2pfusion.algorithms.base import Vector
from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import Weighted
from p2pfusion.core.replica import head
from p2pfusion.core.submodel import SubModel
from p2pfusion.errors import StoreError, TrainingError
from p2pfusion.node.state import State
from p2pfusion.seams import Identity
from p2pfusion.swarm.cadence import weight_of
from p2pfusion.swarm.gate import is_sound, judge
from p2pfusion.swarm.ledger import Entry
from p2pfusion.wire.codec import contribution_id
from p2pfusion.wire.compression import decode_into, elements_per_segment, encode
from p2pfusion.wire.messages import FLOOR_NEVER, Contribution, ContributionId, SegmentInfo


@dataclass(slots=True)
class _Mine:
    """One of my contributions, decoded, and whether my chain counts it."""

    id: ContributionId
    sub_model: SubModel
    decoded: Vector
    is_counted: bool = True


@dataclass(frozen=True, slots=True)
class Base:
    """What a head was made of."""

    round: int
    chain: bytes


def weighted(blueprint: Blueprint, entry: Entry) -> Weighted:
    """A complete contribution, decoded for the fold (executor)."""
    manifest = entry.manifest
    values = np.empty(manifest.sub_model.size(blueprint), np.float32)
    step, start = elements_per_segment(manifest.codec), 0
    for segment in entry.segments:
        if segment is None:
            raise ValueError("an incomplete contribution cannot be folded")
        stop = min(start + step, values.size)
        decode_into(manifest.codec, segment, values[start:stop])
        start = stop
    return Weighted(manifest.peer, manifest.weight, manifest.sub_model, values)


class Authoring:
    """Author of this node's contributions."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._mine: dict[int, _Mine] = {}

    async def head(self, sub_model: SubModel) -> tuple[Vector, Base]:
        """A slice of the head, flat float32, and what it was made of."""
        state, ledger = self._state, self._state.ledger
        sealed, rounds = state.replica.sealed, ledger.open_rounds()
        base = Base(ledger.base_round, ledger.tip.chain)

        def work() -> Vector:
            decoded = ([weighted(state.blueprint, entry) for entry in entries] for entries in rounds)
            return head(state.blueprint, sealed, sub_model, decoded)

        return await state.doors.compute.run(work, lane="train"), base

    async def publish(self, sub_model: SubModel, delta: Vector, samples: int, base: Base) -> Entry | None:
        """Encode, write the round down, then make it known. None when the run ended meanwhile.

        Raises `TrainingError` for numbers that are not finite.
        """
        state = self._state
        delta = delta + state.replica.take_residual(sub_model)
        codec = state.config.codec
        segments, infos, decoded = await state.doors.compute.run(lambda: _encoded(codec, delta), lane="train")
        if not is_sound(decoded):
            raise TrainingError(
                "training produced numbers that are not finite or beyond reason: lower the learning rate"
            )
        round_ = await self._reserve()
        if round_ == FLOOR_NEVER:
            state.replica.add_residual(sub_model, delta)
            return None
        state.replica.add_residual(sub_model, delta - decoded)
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
            state.replica.add_residual(sub_model, decoded)
            state.warn("refused-own", f"nobody would accept this round's work ({reason}); the next carries it")
            return None
        return self._add(manifest, segments, decoded)

    def _add(self, manifest: Contribution, segments: Sequence[bytes], decoded: Vector) -> Entry:
        state, id_ = self._state, contribution_id(manifest)
        state.ledger.published(manifest.round)
        entry = state.ledger.add(id_, manifest, state.now_s(), wanted=True)
        if entry is None:
            raise AssertionError("a wanted contribution is always kept")
        for index, segment in enumerate(segments):
            state.ledger.put(entry, index, segment)
        self._mine[manifest.round] = _Mine(id_, manifest.sub_model, decoded)
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
        identity = Identity(peer=state.me, incarnation=state.incarnation, last=round_)
        try:
            await state.doors.compute.run(lambda: state.doors.store.save_identity(identity), lane="fold")
        except StoreError as error:
            state.warn("store", f"{error}; training goes on in memory")

    def balance(self) -> None:
        """My chain changed: what it counts no more goes into the residual, what it counts after all comes out."""
        state = self._state
        for round_, mine in sorted(self._mine.items()):
            counts = state.ledger.counts(mine.id, round_)
            if counts != mine.is_counted and state.ledger.tip.round >= round_:
                state.replica.add_residual(mine.sub_model, mine.decoded, -1.0 if counts else 1.0)
                mine.is_counted = counts
        keep_from = state.ledger.tip.round - 4 * state.config.run.horizon_rounds
        self._mine = {r: m for r, m in self._mine.items() if r >= keep_from}


def _encoded(codec: str, delta: Vector) -> tuple[tuple[bytes, ...], tuple[SegmentInfo, ...], Vector]:
    """Segments of a delta, what the manifest says of them, and what everybody will decode."""
    segments = encode(codec, delta)
    decoded = np.empty_like(delta)
    step = elements_per_segment(codec)
    for index, segment in enumerate(segments):
        decode_into(codec, segment, decoded[index * step : (index + 1) * step])
    return segments, tuple(SegmentInfo(blake3(s).digest(), len(s)) for s in segments), decoded

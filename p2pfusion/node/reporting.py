"""What a node tells of a finished round: who was heard, what it covered, which bytes it took.

It reads the node's state and changes nothing in it; when a round is finished `rounds` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from p2pfusion.algorithms.base import Published, RoundReport, Traffic
from p2pfusion.core.coverage import Coverage, Covered
from p2pfusion.core.submodel import SubModel
from p2pfusion.node.state import State
from p2pfusion.wire.messages import PeerId


@dataclass(frozen=True, slots=True)
class Awaited:
    """A round of mine: what I published, when I began and ended training it, and who trained then."""

    published: Published
    round: int
    expected: tuple[PeerId, ...]
    begin_s: float
    trained_s: float


class Reporting:
    """Makes the `RoundReport`s of one node; counters are told since the last one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._covered = Coverage(state.blueprint)
        """Of the rounds reported; changed only by the executor's work that `report` waits for."""
        self._reported = Traffic()
        self._reported_late = 0

    async def report(self, awaited: Awaited, waited_s: float) -> None:
        """Tell what became of a round of mine; `waited_s` is how long the executor stood still for it."""
        state, published, round_ = self._state, awaited.published, awaited.round
        coverage_now, covered = await self._coverage(round_)
        arrived = state.arrived(round_)
        heard = sum(peer in arrived for peer in awaited.expected)
        total, late = state.accounts.total(), state.late
        traffic, late_now = total - self._reported, late - self._reported_late
        self._reported, self._reported_late = total, late
        state.events.add(
            RoundReport(
                round=round_,
                sub_model=published.sub_model,
                share=published.sub_model.share(state.blueprint),
                loss=published.loss,
                heard=heard,
                missing=len(awaited.expected) - heard,
                late=late_now,
                coverage=coverage_now,
                covered=covered.scalars,
                covered_units=covered.units,
                covered_pairs=covered.pairs,
                patience_s=state.cadence.patience_s,
                bytes_sent=traffic.sent,
                bytes_received=traffic.received,
                head=self._head(),
                tip_round=state.ledger.tip.round,
                model_hash=state.model_hash.hex(),
                peers=len(state.membership.view(state.now_s()).peers) + 1,
                accuracy=state.measured.accuracy,
                steps=published.steps,
                seconds={"train": awaited.trained_s - awaited.begin_s, "wait": waited_s},
                traffic=traffic,
                widths=state.measured.widths,
            )
        )

    def _head(self) -> str:
        """Names the head without computing it: equal chain and equal open sets give equal bits."""
        parts = [self._state.ledger.tip.chain]
        for counting in self._state.ledger.open_rounds():
            parts += [entry.id for entry in counting.work]
            parts += [counting.graft.id] if counting.graft is not None else []
        return blake3(b"".join(parts)).hexdigest()

    async def _coverage(self, round_: int) -> tuple[float, Covered]:
        """Share of parameters that at least one contribution to the round touched; shares of all rounds reported."""
        state, ledger = self._state, self._state.ledger
        entries = ledger.counted(round_) if round_ > ledger.tip.round else ledger.sealed_entries(round_) or ()
        sub_models = [entry.manifest.sub_model for entry in entries]

        def work() -> tuple[float, Covered]:
            for sub_model in sub_models:
                self._covered.add(sub_model)
            return coverage(state, sub_models), self._covered.covered

        return await state.doors.compute.run(work, lane="fold")


def coverage(state: State, sub_models: list[SubModel]) -> float:
    """Share of the model's elements in at least one of these sub-models."""
    if state.blueprint.whole() in sub_models:
        return 1.0
    meter = Coverage(state.blueprint)
    for sub_model in sub_models:
        meter.add(sub_model)
    return meter.scalars

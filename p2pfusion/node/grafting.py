"""Publishing grafts: what a switch left behind comes back into the winner's chain, at its share (PROTOCOL.md 5).

`swarm.grafts` says what is owed and when; here are the models whose difference a graft carries, one for each loss.
Called by the chain task alone, so that the tip does not move while a graft is computed against it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from blake3 import blake3

from p2pfusion.algorithms.base import Vector
from p2pfusion.node.state import State
from p2pfusion.swarm.gate import is_sound, judge
from p2pfusion.swarm.grafts import Loss, cover_segments, share_of
from p2pfusion.wire.codec import contribution_id
from p2pfusion.wire.compression import encode
from p2pfusion.wire.messages import Contribution, ContributionId, Graft, GraftKey, SegmentInfo


class Grafting:
    """The models left behind, and their way back."""

    def __init__(self, state: State, announce: Callable[[ContributionId], None]) -> None:
        """`announce` passes a fresh contribution's id on to the gossip."""
        self._state = state
        self._announce = announce
        self._left: dict[GraftKey, Vector] = {}
        """As many as there are losses; each a whole model."""

    @property
    def left(self) -> dict[GraftKey, Vector]:
        """The model of each loss, for a checkpoint."""
        return dict(self._left)

    def remember(self, loss: Loss, model: Vector) -> None:
        """A switch left this sealed model behind."""
        self._forget_settled()
        self._left[loss.key] = model

    async def step(self) -> None:
        """Forget what is settled; publish what is due."""
        state, ledger = self._state, self._state.ledger
        self._forget_settled()
        loss = ledger.graft_due(state.now_s(), state.cadence.patience_s, state.doors.rng)
        if loss is not None and loss.key in self._left:
            await self._publish(loss)

    def _forget_settled(self) -> None:
        owed = self._state.ledger.losses
        self._left = {key: model for key, model in self._left.items() if key in owed}

    async def _publish(self, loss: Loss) -> None:
        state, ledger = self._state, self._state.ledger
        left, sealed, tip, after = self._left[loss.key], state.replica.sealed, ledger.tip, ledger.grafts.total
        share = np.float32(share_of(loss, tip.weight))
        segments, is_fit = await state.doors.compute.run(lambda: _encoded(left, sealed, share, loss), lane="fold")
        if not is_fit:
            ledger.losses.remove(loss.key)
            state.warn("graft-refused", "what the other side had learnt cannot be added: numbers beyond reason")
            return
        round_ = ledger.graft_round
        while any(e.manifest.peer == state.me and e.manifest.graft for e in ledger.open.get(round_, {}).values()):
            round_ += 1  # a second one of mine in one round would be an equivocation
        manifest = Contribution(
            shard=0,
            round=round_,
            peer=state.me,
            kind="graft",
            base_round=tip.round,
            base_chain=tip.chain,
            weight=1,
            samples=0,
            sub_model=state.blueprint.whole(),
            codec="fp32",
            segments=tuple(SegmentInfo(blake3(data).digest(), len(data)) for data in segments),
            graft=Graft(
                fork_chain=loss.key[0],
                lost_chain=loss.key[1],
                length=loss.length,
                weight_lost=loss.weight,
                weight_kept=tip.weight - loss.fork_weight,
                covers=len(loss.covers),
                after=after,
            ),
        )
        id_ = contribution_id(manifest)
        if judge(manifest, state.blueprint, state.config.run) is not None:
            return  # nobody would take it yet: the tip must follow first
        entry = ledger.add(id_, manifest, state.now_s())
        if entry is None:
            return  # no room so far ahead: the tip must follow first
        for index, data in enumerate(segments):
            ledger.put(entry, index, data)
        self._announce(id_)
        state.warn(
            "graft",
            f"{len(loss.covers)} contributions of the side that lost come back in round {round_} "
            f"with {loss.weight} of {loss.weight + tip.weight - loss.fork_weight} of the weight since the fork",
        )
        state.stir()


def _encoded(left: Vector, sealed: Vector, share: np.float32, loss: Loss) -> tuple[tuple[bytes, ...], bool]:
    """`share * (W_loser - W_winner)`, lossless, and the ids it stands for (executor)."""
    difference = np.multiply(np.subtract(left, sealed), share)
    return (*encode("fp32", difference), *cover_segments(loss.covers)), is_sound(difference)

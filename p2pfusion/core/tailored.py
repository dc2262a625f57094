"""Slices whose width follows the device's own data: what is learnt in the first rounds says which units are kept.

One object is a node's `Scheme` and its `Objective`, for the first remembers what the second learns. In a warm-up round
the beginning of the network that the rate allows trains in its whole width, while `core.units` learns which units
matter for the data at hand; from then on the slice is those units, for good, and the network built of it is dense and
small. Source: Co-S2P, PAPERS.md 2.3.

Nothing that was not trained is contributed: where masks are learnt, the layers' own weights stay as they are, so a
warm-up round gives only what stands before and behind the layers. Knows no peers.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.depth import beginning
from p2pfusion.core.exits import held_by
from p2pfusion.core.objectives import Job, StepLoss
from p2pfusion.core.schemes import Seat
from p2pfusion.core.submodel import SubModel, Vector
from p2pfusion.core.transfer import Transfer
from p2pfusion.core.units import Importance, Kept, Learning, Masks, slice_of

WARM_UP_ROUNDS = 2
"""Rounds in which units are chosen: those of the released code."""
How = Literal["importance", "masks"]
HOW: How = "importance"
"""The default: docs/co_s2p.md has the comparison."""


class Tailored:
    """A `Scheme` and an `Objective`; one object serves one node. `how` says what chooses units (`core.units`).

    `transfer` is what is minimised. Rounds are counted as this node trains them, whatever their index is.
    """

    is_scaled = Transfer.is_scaled
    extra_vectors = Transfer.extra_vectors

    def __init__(self, how: How = HOW, transfer: Transfer | None = None) -> None:
        self._how = how
        self._transfer = Transfer() if transfer is None else transfer
        self._rate = 1.0
        self._learning: Learning | None = None
        self._done = 0
        self._kept: Kept | None = None
        self._held: SubModel | None = None
        """What was learnt about: units are chosen for it alone."""

    def __call__(self, blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        """The beginning of the network in its whole width while it is learnt, then the units chosen of it."""
        rate = seat.rates[seat.rank]
        held = beginning(blueprint, rate)
        if held != self._held or rate != self._rate:
            self._held, self._rate, self._learning, self._done, self._kept = held, rate, None, 0, None
        return held if self._kept is None else slice_of(blueprint, held.blocks, self._kept)

    def trains(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> SubModel:
        """As the transfer has it. In warm-up rounds all of it, or where masks are learnt everything but the layers."""
        if not self._is_learnt_about(sub_model):
            return self._transfer.trains(blueprint, sub_model, round_index)
        if self._how == "importance":
            return sub_model
        layers = held_by(blueprint.exits, sub_model.blocks)[-1].layers
        return replace(sub_model, blocks=tuple(block for block in sub_model.blocks if block not in layers))

    def sees_model(self, blueprint: Blueprint, sub_model: SubModel, round_index: int) -> bool:
        """As the transfer has it."""
        return self._transfer.sees_model(blueprint, sub_model, round_index)

    def begin(self, job: Job) -> StepLoss:
        """The transfer's, learnt from in warm-up rounds."""
        inner = self._transfer.begin(job)
        if not self._is_learnt_about(job.sub_model):
            return inner
        learning = self._learning = self._learning or self._made(job)
        watched: list[StepLoss] = []

        def step_loss(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if not watched:
                watched.append(learning.watched(module, inner))
            return watched[0](module, x, y)

        return step_loss

    def done(self, job: Job, after: Vector) -> None:
        """After the last warm-up round the units are chosen."""
        if self._learning is None or not self._is_learnt_about(job.sub_model):
            return
        self._done += 1
        if self._done >= WARM_UP_ROUNDS:
            self._kept, self._learning = self._learning.kept(self._rate), None

    def _is_learnt_about(self, sub_model: SubModel) -> bool:
        return self._kept is None and sub_model == self._held and self._rate < 1

    def _made(self, job: Job) -> Learning:
        if self._how == "importance":
            return Importance(job.blueprint, job.sub_model)
        return Masks(job.blueprint, job.sub_model, self._rate, job.seed)

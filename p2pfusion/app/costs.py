"""What a slice of each rate costs: its share of the parameters, of the arithmetic, and its bytes on the wire.

FLOPs are counted by torch while one sample goes forward through the slice's network; a training step is about three
times as much per sample. Shares do not depend on the computer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from p2pfusion.algorithms.sliced import Way
from p2pfusion.core.objectives import LATER_ROUND
from p2pfusion.core.schemes import Scheme, Seat
from p2pfusion.core.submodel import SubModel, extract, of_blocks, tensor_sizes
from p2pfusion.core.task import Prepared
from p2pfusion.core.training import loaded, train_members
from p2pfusion.net.choosing import RATES
from p2pfusion.net.settling import experienced
from p2pfusion.wire.compression import Coding, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCost:
    """A slice of this rate. `flops` of one sample's forward pass (a multiply-add counts two).

    Shares are of the task's own model at its full width, whatever the algorithm makes of it.
    """

    rate: float
    parameters: int
    share: float
    flops: int
    flops_share: float
    bytes_per_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How contributions are tried: training this way, so many steps, sparse codecs at this density."""

    prepared: Prepared
    way: Way
    steps: int
    density: float

    def encoded(self, sub_model: SubModel, codecs: Sequence[str]) -> dict[str, int]:
        """What the training changed, encoded with every codec: bytes by name. Raises `TrainingError`.

        An objective that compares with earlier rounds has trained one before, as it has in all rounds but the first.
        """
        blueprint = self.prepared.blueprint
        start = extract(blueprint, self.prepared.genesis, sub_model)
        batches = self.prepared.train.batches(random.Random(0))
        objective = experienced(self.way.objective, self.prepared, sub_model, self.steps)
        recipe = replace(self.prepared.recipe, steps=self.steps, objective=objective, round=LATER_ROUND)
        changed = objective.trains(blueprint, sub_model, recipe.round)
        after = train_members(blueprint, sub_model, start, batches, recipe).after
        covered, delta = self.way.given(blueprint, changed, of_blocks(blueprint, sub_model, changed, after - start))
        coding = Coding(density=self.density, tensors=tensor_sizes(blueprint, covered))
        return {name: sum(memoryview(part).nbytes for part in encode(name, delta, coding)) for name in codecs}


def costs(trial: Trial, own: Prepared, scheme: Scheme, seed: int, codec: str) -> list[RateCost]:
    """One row per rate, of the slice that a node alone would take first; `own`: the task itself.

    Raises `TrainingError`.
    """
    found = []
    blueprint = trial.prepared.blueprint
    whole = flops(own, own.blueprint.whole())
    for rate in reversed(RATES):
        seat = Seat(rank=0, peers=1, round=0, rates=(rate,))
        sub_model = scheme(blueprint, seat, random.Random(seed))
        used = flops(trial.prepared, sub_model)
        found.append(
            RateCost(
                rate=rate,
                parameters=sub_model.size(blueprint),
                share=sub_model.size(blueprint) / own.blueprint.size,
                flops=used,
                flops_share=used / whole if whole else 1.0,
                bytes_per_round=trial.encoded(sub_model, (codec,))[codec],
            )
        )
    return found


def flops(prepared: Prepared, sub_model: SubModel) -> int:
    """FLOPs of one sample's forward pass through the sub-model's network, as torch counts them."""
    # Here, since entering the counter loads torch's compiler (some seconds), which nobody but `check` needs.
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    x, _ = next(prepared.train.batches(random.Random(0)))
    values = extract(prepared.blueprint, prepared.genesis, sub_model)
    module: nn.Module = loaded(prepared.blueprint, sub_model, values, scaled=False).eval()
    # torch counts attention on GPUs only.
    extra = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=extra) as counter:
        module(x[:1])
    return int(counter.get_total_flops())

"""How long training takes across a chain of hops: the formulas of MP-SL's time model, and what we add to them.

An owner holds the first and the last stage, relays hold those between. Batches of different owners fill the chain like
a pipeline, one batch of each owner at a time. Given are seconds of single batches; who holds which stage, and why, is
`core.planning`'s affair. No clock is read here.

`mode="paper"` is the published model: computation only, and links where a batch enters and leaves the chain. `"full"`
adds what a user would see beside it: a hop can be slower than any relay, and few owners do not keep the relays busy.
Source: PAPERS.md 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from p2pfusion.core.profiles import ProfileMode


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerTimes:
    """Seconds of one batch at one owner `d_k`: its first stage (f_1, b_1) and its last (f_P, b_P), loss included.

    `to_chain_s`: an activation to the first relay, or its gradient back; `from_chain_s`: the same with the last relay.
    """

    first_forward_s: float
    first_backward_s: float
    last_forward_s: float = 0.0
    last_backward_s: float = 0.0
    to_chain_s: float = 0.0
    from_chain_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTimes:
    """Seconds of one batch at one relay: f_p, b_p (the optimiser's step, `step_s`, included), and its own link.

    `in_s` is what its link takes for the activation that comes in, or the gradient that goes back; `out_s` for the
    other side. A hop between two relays takes the longer of both ends.
    """

    forward_s: float
    backward_s: float
    in_s: float = 0.0
    out_s: float = 0.0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTimes:
    """One chain: K owners and the relays in order, at least one of each. Raises `ValueError` without them."""

    owners: tuple[OwnerTimes, ...]
    relays: tuple[RelayTimes, ...]
    mode: ProfileMode = "full"

    def __post_init__(self) -> None:
        if not self.owners or not self.relays:
            raise ValueError("a chain needs at least one owner and one relay")

    @property
    def lead_forward_s(self) -> float:
        """`L_fwd`: the slowest relay forward, in full mode also the slowest link."""
        return max(pace(relay.forward_s, relay, self.mode) for relay in self.relays)

    @property
    def lead_backward_s(self) -> float:
        """`L_back`: the same backward."""
        return max(pace(relay.backward_s, relay, self.mode) for relay in self.relays)

    @property
    def full_s(self) -> float:
        """`T_full = L_fwd + L_back`: seconds per batch once the chain is full."""
        return self.lead_forward_s + self.lead_backward_s

    @property
    def empty_s(self) -> float:
        """`T_empty`: the first batch through all relays, forward and back; in full mode with the hops between them."""
        work = math.fsum(relay.forward_s + relay.backward_s for relay in self.relays)
        if self.mode == "paper":
            return work
        hops = zip(self.relays, self.relays[1:], strict=False)
        return work + 2 * math.fsum(max(here.out_s, there.in_s) for here, there in hops)

    @property
    def start_s(self) -> float:
        """`T_start`: mean over the owners of their first stage and the way to the chain."""
        return fmean(owner.first_forward_s + owner.to_chain_s for owner in self.owners)

    @property
    def end_s(self) -> float:
        """`T_end`: mean over the owners of the way back and the first stage's backward pass."""
        return fmean(owner.to_chain_s + owner.first_backward_s for owner in self.owners)

    @property
    def loop_s(self) -> float:
        """One batch of an owner that is alone with the chain, from its input to its optimiser's step; mean. Ours."""
        own = fmean(
            owner.first_forward_s + owner.first_backward_s + owner.last_forward_s + owner.last_backward_s
            + 2 * (owner.to_chain_s + owner.from_chain_s)
            for owner in self.owners
        )  # fmt: skip
        return own + self.empty_s

    @property
    def fill_owners(self) -> int:
        """`K_fill`: how many owners keep the slowest relay busy all the time; 1 where nothing takes time. Ours."""
        return max(1, math.ceil(self.loop_s / self.full_s - 1e-9)) if self.full_s > 0 else 1

    @property
    def batch_s(self) -> float:
        """Seconds per batch of anybody: `T_full`, but in full mode no less than the owners can deliver."""
        return self.full_s if self.mode == "paper" else max(self.full_s, self.loop_s / len(self.owners))

    def all_s(self, batches: int) -> float:
        """`T_all`: training of a round in which every owner takes so many batches (r * B), at least 1."""
        if len(self.relays) == 1 and self.mode == "paper":
            return self.start_s + batches * len(self.owners) * self.full_s + self.end_s
        return self.start_s + self.empty_s + (batches * len(self.owners) - 1) * self.batch_s + self.end_s


def pace(work_s: float, relay: RelayTimes, mode: ProfileMode) -> float:
    """How often a relay can take another batch in one direction: its work, in full mode also its link.

    Work and transfers overlap, so the longest of them counts, not their sum.
    """
    return work_s if mode == "paper" else max(work_s, relay.in_s, relay.out_s)


def aggregation_s(up_s: Sequence[float], work_s: float, down_s: Sequence[float]) -> float:
    """`T_aggr`: owners send their stages at the same time, an aggregator averages, and sends to one after the other.

    For comparison with the paper: our owners average through the ledger and have no aggregator.
    """
    return fmean(up_s) + work_s + math.fsum(down_s)

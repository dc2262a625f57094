"""What `p2pfusion plan --json` prints: a contract with other people's scripts, so it is not the planner's own types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One relay. Seconds of one batch of one owner; `link_s`: the longer of its two transfers, one way.

    `memory_bytes` is for all owners together; `memory_limit_bytes` what it has, None where it was not said.
    """

    relay: str
    blocks: list[str]
    forward_s: float
    backward_s: float
    link_s: float
    memory_bytes: int
    memory_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHop:
    """All that relays would hold on the fastest of them alone; `fits`: whether it has the memory."""

    relay: str
    memory_bytes: int
    fits: bool
    batch_s: float
    round_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Every relay with all that relays would hold, for some owners each; how many, by relay."""

    owners: dict[str, int]
    round_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The forecast. `origin`: where the profile is from; `batch` in samples; `batches` of each owner in a round, each
    cut into `micro_batches`, which count in `round_s` alone.

    Owner: seconds of one batch in its own stages and on its link, both ways; bytes. `full_s`: seconds per batch of a
    full chain, `full_without_limits_s`: if memory were no matter; `batch_s`: what the owners can deliver at most.
    `first_batch_s`: one batch all the way. `fill_owners` keep the chain full, `owners_max` of that many, or of those
    there are, would find room. `round_s`: training; averaging comes on top. `side_by_side`: None without room for it.
    """

    origin: str
    batch: int
    blocks: list[str]
    mode: str
    owners: int
    batches: int
    micro_batches: int
    first: list[str]
    last: list[str]
    owner_forward_s: float
    owner_backward_s: float
    owner_link_s: float
    owner_bytes: int
    stages: list[PlannedStage]
    idle: list[str]
    full_s: float
    full_without_limits_s: float
    batch_s: float
    first_batch_s: float
    fill_owners: int
    round_s: float
    owners_max: int
    one_hop: OneHop
    side_by_side: SideBySide | None

"""What a simulated run says of itself in numbers: the row that an experiment prints and writes.

Numbers only; `sim.tally` counts them while the run proceeds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts of one run. Times in virtual seconds; None where nothing was measured.

    A contribution is *durable* when its author lived one patience longer than its publication. What is not in the final
    chain, neither in a link nor among what a counted graft stands for, is `too_late` while its author lives on (it
    carries the work in its residual), an `orphan` when the author went before one patience was over, else `lost`.
    """

    published: int = 0
    in_chain: int = 0
    """Of the published, in the final chain, grafts' covers included."""
    durable: int = 0
    durable_in_chain: int = 0
    too_late: int = 0
    orphans: int = 0
    lost: int = 0
    forks: int = 0
    """Links sealed next to another link on the same chain, all nodes together."""
    switches: int = 0
    grafts: int = 0
    """Grafts that the final chain counts."""
    deaths: int = 0
    """How often a node held another for dead, all nodes together."""
    false_deaths: int = 0
    """Of these, about a node that was up, awake and within reach of everybody for two suspicion times."""
    crashes: int = 0
    restarts: int = 0
    tip_lag_median: float | None = None
    """Rounds between a node's own round and its tip, as it reports a round."""
    tip_lag_p90: float | None = None
    round_median_s: float | None = None
    """Between two rounds of one node."""
    agreed_s: float | None = None
    """From the last fault (the start, without any) until all who live stood on one tip; None if never."""
    sent_bytes: int = 0
    """Bodies of requests and replies, all nodes together."""
    payload_bytes: int = 0
    """Of what all nodes, in all their lives, say they sent: segments."""
    header_bytes: int = 0
    """Likewise: manifests and links."""
    gossip_bytes: int = 0
    """Likewise: talk, probes included."""
    messages: int = 0
    """Packets put on a link."""

    @property
    def durable_share(self) -> float | None:
        """Share of the durable contributions that the final chain counts."""
        return self.durable_in_chain / self.durable if self.durable else None

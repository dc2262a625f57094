"""Every number of PROTOCOL.md as a field of a frozen dataclass, its unit in its name, its reason beside it.

Values come from here and from nowhere else; presets `lan()` and `loopback()` are complete. Validation names the field.
This module knows no other module but `errors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from p2pfusion.errors import ConfigError

PROTOCOL_VERSION = 1

# Limits of the wire (RELIABILITY.md 5). Each is tested at the limit and one beyond it.
SEGMENT_BYTES_MAX = 1 << 20
"""Encoded segment; small enough to fetch from several holders, large enough to keep per-call cost below 1 %."""
GOSSIP_BYTES_MAX = 64 << 10
"""Body of one gossip call; bounds what one peer can make us decode at once (64x amplification at most)."""
MANIFEST_BYTES_MAX = 1 << 20
"""Manifest of a contribution or snapshot: 65,536 segments do not fit, 20,000 (20 GB) do."""
LINKS_BYTES_MAX = 4 << 20
LINKS_PER_REPLY_MAX = 256
PROBE_BYTES_MAX = 128
"""Body of an indirect probe: two ids, their headers and the tag."""
REPORTS_PER_CALL_MAX = 50
RUMOURS_PER_CALL_MAX = 64
HAVE_PER_CALL_MAX = 256
FRESH_PER_CALL_MAX = 32
INLINE_BYTES_MAX = 32 << 10
"""A contribution of at most this many bytes travels inside the gossip call itself."""
INLINE_SEGMENTS_MAX = 8
"""Segments of such a contribution; more of them would be mostly headers."""
NAME_BYTES_MAX = 32
LABEL_BYTES_MAX = 64
"""Name of an axis or block: they travel in every manifest."""
ADDRESSES_MAX = 4
SHARDS_MAX = 64
MICRO_BATCHES_MAX = 16
"""Of one batch: more than a chain of hops has stages to fill."""
DIGESTS_PER_REPORT_MAX = 64
WEIGHT_MAX = 1 << 32
VALUE_MAX = 1e20
"""Largest magnitude in a contribution: times the largest weight and 1,024 authors it still fits a float32 sum."""
SEGMENTS_MAX = 1 << 16
AXES_MAX = 256
BLOCKS_MAX = 1024
RANGES_PER_AXIS_MAX = 512
LINK_IDS_MAX = 1024
"""Contributions in one sealed round: one per member, and members are bounded by PEERS_MAX."""
PEERS_MAX = 1024
"""Known peers; the oldest dead ones are forgotten first."""
SETTINGS_MAX = 32
PARAMETERS_MAX = 1024
"""Lines of a run's description; what does not fit is still covered by the fingerprint."""
DESCRIPTION_TEXT_BYTES_MAX = 256
ROUND_MAX = 1 << 48
"""Of a sealed round: what follows it must still be told in an integer of 53 bits."""
LINKS_KEPT_MAX = 4096
GRAFTS_KEPT_MAX = 256
"""Counted grafts a chain remembers by key: one for the same fork could count again only after 256 others."""
COVERED_IDS_MAX = 1 << 18
"""Ids they stand for that are remembered (8 MiB): half an hour's partition of 100 nodes at a round a second."""
OPEN_ROUNDS_MAX = 64
"""Open rounds above the tip that are kept: 8 horizons; a contribution beyond is refused until the tip follows."""
AHEAD_ROUNDS_MAX = 4
"""Half a horizon: who trains further ahead would publish to rounds that others may seal without it."""
LIMIT_BYTES_PER_S_MIN = 65536.0
"""Nobody waits for a segment that comes slower."""
CODEC_NAMES = ("auto", "fp32", "bf16", "int8", "int4", "topk", "stc")
"""What may be asked for; all but `auto` are names on the wire (`wire.compression`)."""
ALGORITHM_DEFAULT = "auto"
"""How slices are chosen where nobody says: as `algorithms.presets.fitting` has it for the task."""
COMMON_RATE_DEFAULT = 0.5
"""The width that every device of a run can train, where nobody says otherwise: the default slice."""
EVENTS_MAX = 1024
"""Events waiting for a slow consumer; the oldest are dropped and counted."""


def _check(condition: bool, config: object, name: str, expected: str) -> None:
    if not condition:
        value = getattr(config, name)
        raise ConfigError(f"{type(config).__name__}.{name} = {value!r}: must be {expected}")


def _is_name(text: str, bytes_max: int) -> bool:
    return text.isprintable() and 0 < len(text.encode(errors="replace")) <= bytes_max


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What everybody in a run must share; part of the run id (PROTOCOL.md 1)."""

    swarm: str = "p2pfusion"
    seed: int = 0
    fold_rule: str = "mean"
    horizon_rounds: int = 8
    staleness_max_rounds: int = 64
    snapshot_every_rounds: int = 8

    def __post_init__(self) -> None:
        _check(_is_name(self.swarm, 64), self, "swarm", "1 to 64 bytes of printable text")
        _check(0 <= self.seed < 2**32, self, "seed", "an integer in 0..2^32-1")
        _check(self.fold_rule == "mean", self, "fold_rule", "'mean'")
        _check(1 <= self.horizon_rounds <= 16, self, "horizon_rounds", "1 to 16")
        _check(1 <= self.staleness_max_rounds <= 4096, self, "staleness_max_rounds", "1 to 4096")
        _check(1 <= self.snapshot_every_rounds <= 1024, self, "snapshot_every_rounds", "1 to 1024")


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """How often and to whom (PROTOCOL.md 7); what one node decides for itself."""

    gossip_interval_s: float = 0.5
    gossip_interval_max_s: float = 4.0
    """When nothing happens one call to one peer this often is enough; the dead are found by probes."""
    coalesce_s: float = 0.02
    """A changed tip, floor or digest is told after this much, so that several changes share one call."""
    fan_out: int = 3
    direct_members_max: int = 15
    """Up to so many others everybody tells everybody its own news itself, in calls that serve both sides, and relays
    only at beats: cheaper than relays below some 16 members, whose every call carries what most know already."""
    relays_max: int = 3
    """In a larger swarm a node relays a version of somebody's report in so many calls, and at beats."""
    retry_s: float = 0.25
    """What was not answered within this (or four times the usual time) is told again, and then at every beat. As long a
    small contribution to a new round is not offered by its id: its author's own call with it is on its way."""
    call_deadline_s: float = 2.0
    """A gossip call that takes longer has failed; somebody else is asked."""
    slowest_bytes_per_s: float = LIMIT_BYTES_PER_S_MIN
    """A segment gets `call_deadline_s` and what its bytes take at this rate: 18 s for the largest."""
    fetches_in_flight_max: int = 16
    fetch_bytes_in_flight_max: int = 8 << 20
    """Payload asked for and not here yet: a gigabit link is busy with it for 70 ms, which hides any round trip, and on
    20 Mbit/s what is asked for next waits 3 s and not longer."""
    probe_interval_s: float = 1.0
    """One member is probed this often (SWIM's protocol period; memberlist's LAN default)."""
    probe_timeout_s: float = 0.5
    """A probe without an answer for this long goes on indirectly: many round trips on any LAN."""
    indirect_probes: int = 3
    """Members asked to probe for me (SWIM's k): one broken path, or two, accuses nobody."""
    suspicion_min_s: float = 1.5
    """A suspect that several accuse independently is dead this soon; it has had time to refute."""
    suspicion_max_s: float = 4.0
    """A suspect that only I accuse is dead this soon."""
    awareness_max: int = 8
    """Local health (Lifeguard): how many times longer, at most, I probe and wait while I myself am slow; 0: never."""
    push_pull_s: float = 30.0
    """Everything is told to somebody this often, whatever it is thought to know (memberlist's LAN default)."""
    quiet_s: float = 2.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name not in ("awareness_max", "direct_members_max"):
                _check(getattr(self, item.name) > 0, self, item.name, "above 0")
        for name in ("awareness_max", "direct_members_max"):
            _check(getattr(self, name) >= 0, self, name, ">= 0")
        _check(self.suspicion_min_s <= self.suspicion_max_s, self, "suspicion_min_s", "at most suspicion_max_s")
        _check(self.probe_timeout_s < self.probe_interval_s, self, "probe_timeout_s", "below probe_interval_s")

    @property
    def suspicion_s(self) -> float:
        """The suspicion time of PROTOCOL.md 4: who is silent that long, though asked, is dead to everybody."""
        return self.suspicion_max_s

    def deadline_s(self, size_bytes: int) -> float:
        """How long a call that moves this many bytes may take."""
        return self.call_deadline_s + size_bytes / self.slowest_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CadenceConfig:
    """When a round is ready (PROTOCOL.md 9)."""

    quorum: float = 0.75
    patience_s: float | None = None
    """None: learnt from arrivals."""
    patience_first_s: float = 10.0
    patience_min_s: float = 0.2
    patience_max_s: float = 60.0
    round_min_s: float = 0.3
    ahead_rounds: int | None = None
    """Rounds trained ahead while the last ones still travel. 1 hides a slow network behind the training, at a staleness
    of 2; 0 waits, as PROTOCOL.md 9 says; None: 1 where contributions take long to come (`swarm.ahead`)."""
    grace_s: float = 0.0
    """Waited for the rest once the quorum is there (Co-S2P's released code: 10 s); 0 is PROTOCOL.md 9."""
    grace_share: float = 0.0
    """The same as a share of what a round takes till its quorum is there, if that is longer (PAPERS.md 2.6: 0.25)."""
    deadline_share: float | None = None
    """The wait ends so many times that after the round began (PAPERS.md 2.6: 3); None, and until known: by patience."""
    adapt_steps: bool = True
    """A slow device takes fewer local steps, so that a round takes everybody about as long (PROTOCOL.md 3)."""
    weight_power: float = 0.0
    """By samples: 0 counts contributions alike (MSfusion), 1 samples, -1 steps (docs/measurements.md)."""
    decay: float = 1.0
    """A contribution's weight is multiplied by it for every round of staleness above 1."""
    staleness_power: float = 0.0
    """The same as a power, staleness ** -power: 0.5 is Co-S2P's rule where no weights are kept (PAPERS.md 2.6)."""

    def __post_init__(self) -> None:
        _check(0 <= self.quorum <= 1, self, "quorum", "0 to 1")
        _check(self.patience_s is None or self.patience_s >= 0, self, "patience_s", "None or >= 0")
        _check(self.round_min_s >= 0, self, "round_min_s", ">= 0")
        is_ahead = self.ahead_rounds is None or 0 <= self.ahead_rounds <= AHEAD_ROUNDS_MAX
        _check(is_ahead, self, "ahead_rounds", f"None or 0 to {AHEAD_ROUNDS_MAX}")
        _check(0 <= self.grace_s < float("inf"), self, "grace_s", ">= 0")
        _check(0 <= self.grace_share <= 1, self, "grace_share", "0 to 1")
        is_later = self.deadline_share is None or 1 <= self.deadline_share <= 16
        _check(is_later, self, "deadline_share", "None or 1 to 16")
        _check(-1 <= self.weight_power <= 2, self, "weight_power", "-1 to 2")
        _check(0 < self.decay <= 1, self, "decay", "in (0, 1]")
        _check(0 <= self.staleness_power <= 4, self, "staleness_power", "0 to 4")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node: its run, its name, where it begins and ends."""

    run: RunConfig = field(default_factory=RunConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    cadence: CadenceConfig = field(default_factory=CadenceConfig)
    name: str = "node"
    min_peers: int = 1
    wait_s: float | None = None
    until_rounds: int | None = None
    until_accuracy: float | None = None
    timeout_s: float | None = None
    peers: tuple[str, ...] = ()
    """Addresses to call besides those that discovery finds."""
    evaluate_every_rounds: int = 5
    codec: str = "auto"
    """What my contributions are encoded with; `auto`: by size, measured link, limit and budget (`swarm.thrift`)."""
    codec_density: float = 0.01
    """Share of the elements that the sparse codecs `topk` and `stc` send."""
    limit_bytes_per_s: float | None = None
    """What this node sends in a second, and what it receives, over about a second; None: whatever the link carries."""
    budget_bytes_per_h: float | None = None
    """What this node may send and receive in an hour; the automatic codec keeps within it."""
    ledger_bytes_max: int = 256 << 20
    """Payload of contributions in memory; beyond it the oldest go to disk. Two snapshot periods of 16 nodes that send
    2 MiB a round fit."""

    def __post_init__(self) -> None:
        _check(self.ledger_bytes_max >= 1 << 20, self, "ledger_bytes_max", "1 MiB or more")
        _check(_is_name(self.name, NAME_BYTES_MAX), self, "name", f"1 to {NAME_BYTES_MAX} bytes of printable text")
        _check(self.min_peers >= 1, self, "min_peers", ">= 1 (yourself counts)")
        _check(self.until_rounds is None or self.until_rounds >= 1, self, "until_rounds", ">= 1")
        _check(self.until_accuracy is None or 0 < self.until_accuracy <= 1, self, "until_accuracy", "in (0, 1]")
        _check(self.wait_s is None or self.wait_s > 0, self, "wait_s", "above 0")
        _check(self.timeout_s is None or self.timeout_s > 0, self, "timeout_s", "above 0")
        _check(self.codec in CODEC_NAMES, self, "codec", f"one of {', '.join(CODEC_NAMES)}")
        _check(0 < self.codec_density <= 1, self, "codec_density", "in (0, 1]")
        least = self.gossip.slowest_bytes_per_s
        _check(
            self.limit_bytes_per_s is None or self.limit_bytes_per_s >= least,
            self,
            "limit_bytes_per_s",
            f"None or at least {least:g}: slower, nobody waits for a segment",
        )
        _check(self.budget_bytes_per_h is None or self.budget_bytes_per_h > 0, self, "budget_bytes_per_h", "above 0")

    @classmethod
    def lan(cls, **values: Any) -> NodeConfig:
        """Defaults for laptops and phones on one Wi-Fi."""
        return cls(**values)

    @classmethod
    def loopback(cls, **values: Any) -> NodeConfig:
        """Several nodes on one computer: the same, with no least time between rounds."""
        return cls(cadence=CadenceConfig(round_min_s=0.0), **values)

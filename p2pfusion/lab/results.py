"""What one simulated run gave, as one flat row: the line of `--json`, the row of the CSV, the end of a trace.

Numbers come from `sim`'s result; this module only chooses and rounds them. Nothing in a row depends on the machine's
speed, so that the same run gives the same row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, median
from typing import Any

from p2pfusion.lab.knobs import Order, Value
from p2pfusion.sim.scenario import Outcome, Result

DIGITS = 6
"""Decimals that are kept; hashes, not decimals, say whether two runs are alike."""

COLUMNS: Mapping[str, str] = {
    "name": "the scenario",
    "seed": "of everything that is chance: faults, losses, slices, batches",
    "nodes": "how many nodes the run had",
    "rounds": "the least round in which a node ended",
    "ended": "how many nodes reached the end of the run",
    "virtual_s": "virtual seconds from the start to the last node's end",
    "accuracy": "of the final model on the validation data, 0 to 1; empty without such data or agreement",
    "training_loss": "mean over the nodes of the training loss of their last round",
    "covered": "share of the model's scalars that somebody has trained, as the node says that saw most, 0 to 1",
    "covered_units": "the same of the units of all axes",
    "covered_pairs": "the same of the pairs of units that meet in a parameter",
    "round_median_s": "median virtual seconds between two rounds of a node of full speed",
    "slow_round_median_s": "the same of the slower nodes; empty if all are equally fast",
    "published": "contributions published by all nodes",
    "kept_share": "share of these that the final chain counts, 0 to 1",
    "durable_share": "the same of those whose author lived one patience longer",
    "forks": "rounds sealed next to another on the same chain, all nodes together",
    "switches": "how often a node left its chain for a heavier one",
    "grafts": "left chains whose work the final chain counts again",
    "too_late": "contributions after their round was sealed; their authors carry the work on",
    "orphans": "contributions whose authors crashed before anybody could count them",
    "lost": "contributions that were lost in any other way",
    "crashes": "of nodes",
    "false_deaths": "how often a node that was up and within reach was held for dead",
    "tip_lag_median": "rounds between a node's newest round and its newest sealed one",
    "tip_lag_p90": "the same, 90th percentile",
    "agreed_s": "virtual seconds from the last fault until all who live stood on one chain",
    "bytes_per_node_round": "bodies of requests and replies sent, per node and round",
    "agreed": "whether all who ended have one model and one chain",
    "ended_apart": "whether a node ended while a partition still stood: no agreement is to be expected then",
    "failure": "why the run did not end, such as a violated invariant; empty if it did",
    "model_sha256": "of the final model, if all agree",
    "trace_hash": "of every packet and event with its virtual time: equal hashes, equal histories",
}
"""Column -> what it means; the order of the CSV, after what was varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One run. `COLUMNS` says what the fields mean; None where there is nothing to tell."""

    name: str
    seed: int
    nodes: int
    settings: Mapping[str, Value]
    rounds: int = 0
    ended: int = 0
    virtual_s: float | None = None
    accuracy: float | None = None
    training_loss: float | None = None
    covered: float | None = None
    covered_units: float | None = None
    covered_pairs: float | None = None
    round_median_s: float | None = None
    slow_round_median_s: float | None = None
    published: int | None = None
    kept_share: float | None = None
    durable_share: float | None = None
    forks: int | None = None
    switches: int | None = None
    grafts: int | None = None
    too_late: int | None = None
    orphans: int | None = None
    lost: int | None = None
    crashes: int | None = None
    false_deaths: int | None = None
    tip_lag_median: float | None = None
    tip_lag_p90: float | None = None
    agreed_s: float | None = None
    bytes_per_node_round: int | None = None
    agreed: bool = False
    ended_apart: bool = False
    failure: str | None = None
    model_sha256: str | None = None
    trace_hash: str | None = None

    @property
    def is_good(self) -> bool:
        """All agreed, and no checker objected."""
        return self.agreed and self.failure is None


def row_of(order: Order, result: Result) -> Simulated:
    """The row of a run that came to its end."""
    stats = result.stats
    ends = [outcome.done for outcome in result.outcomes if outcome.done is not None]
    agreed = len(result.model_hashes) == len(result.chains) == 1
    fast, slow = _by_speed(result)
    return Simulated(
        name=order.scenario.name,
        seed=order.seed,
        nodes=order.scenario.nodes,
        settings=dict(order.settings),
        rounds=min((end.round for end in ends), default=0),
        ended=len(ends),
        virtual_s=round(result.virtual_s, 3),
        accuracy=_tidy(ends[0].accuracy) if agreed else None,
        training_loss=_training_loss(result),
        round_median_s=_round_s(fast),
        slow_round_median_s=_round_s(slow),
        kept_share=_tidy(stats.in_chain / stats.published if stats.published else None),
        durable_share=_tidy(stats.durable_share),
        bytes_per_node_round=_traffic(result),
        agreed=agreed,
        ended_apart=_ended_apart(result),
        model_sha256=result.model_hashes[0] if agreed else None,
        trace_hash=result.trace_hash,
        **{name: _tidy(_most(result, name)) for name in _COVERED},
        **{name: _tidy(getattr(stats, name)) for name in _COUNTED},
    )


_COUNTED = ("published", "forks", "switches", "grafts", "too_late", "orphans", "lost", "crashes", "false_deaths",
            "tip_lag_median", "tip_lag_p90", "agreed_s")  # fmt: skip
"""Taken over from `sim.statistics` under the same name."""
_COVERED = ("covered", "covered_units", "covered_pairs")
"""Of the reports; each node's shares grow, but begin anew when it starts anew."""


def failed(order: Order, why: str) -> Simulated:
    """The row of a run that was broken off."""
    return Simulated(
        name=order.scenario.name,
        seed=order.seed,
        nodes=order.scenario.nodes,
        settings=dict(order.settings),
        failure=why,
    )


def _tidy(value: Any) -> Any:
    """Floats rounded, and nothing where there is no number."""
    if not isinstance(value, float):
        return value
    return round(value, DIGITS) if math.isfinite(value) else None


def _by_speed(result: Result) -> tuple[list[Outcome], list[Outcome]]:
    """The nodes of the greatest speed, and the others."""
    speeds = [result.scenario.speed(index) for index in range(len(result.outcomes))]
    fast = [outcome for outcome, speed in zip(result.outcomes, speeds, strict=True) if speed == max(speeds)]
    slow = [outcome for outcome, speed in zip(result.outcomes, speeds, strict=True) if speed < max(speeds)]
    return fast, slow


def _round_s(outcomes: Iterable[Outcome]) -> float | None:
    gaps = [
        later - earlier
        for outcome in outcomes
        for earlier, later in zip(outcome.reported_s, outcome.reported_s[1:], strict=False)
    ]
    return _tidy(float(median(gaps))) if gaps else None


def _ended_apart(result: Result) -> bool:
    """Whether somebody's last round fell into a partition."""
    ends = [outcome.reported_s[-1] for outcome in result.survivors() if outcome.reported_s]
    return any(one.from_s <= end_s < one.to_s for one in result.scenario.partitions for end_s in ends)


def _training_loss(result: Result) -> float | None:
    losses = [outcome.reports[-1].loss for outcome in result.survivors() if outcome.reports]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return _tidy(float(fmean(finite))) if finite else None


def _most(result: Result, name: str) -> float | None:
    """The greatest that any report said."""
    return max((getattr(report, name) for outcome in result.outcomes for report in outcome.reports), default=None)


def _traffic(result: Result) -> int:
    return round(result.stats.sent_bytes / (result.scenario.nodes * result.scenario.rounds))


def flat(row: Simulated, names: Sequence[str]) -> dict[str, Any]:
    """The row for a CSV: what was varied (by the names given) first, then the columns."""
    varied = {name: row.settings.get(name) for name in names if name not in COLUMNS}
    return {**varied, **{column: getattr(row, column) for column in COLUMNS}}


def row_json(row: Simulated) -> dict[str, Any]:
    """The row as JSON takes it: an infinite value, such as the half-life of the calm, is the text "inf"."""
    value = asdict(row)
    value["settings"] = {
        name: "inf" if isinstance(one, float) and math.isinf(one) else one for name, one in row.settings.items()
    }
    return value


def row_from_json(value: Mapping[str, Any]) -> Simulated:
    """The inverse; fields this version does not know are left out. Raises `KeyError`, `TypeError`."""
    known = {item.name: value[item.name] for item in fields(Simulated) if item.name in value}
    settings = {name: math.inf if one == "inf" else one for name, one in known["settings"].items()}
    return Simulated(**{**known, "settings": settings})

"""Rows as runs would give them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2pfusion.lab.knobs import Value
from p2pfusion.lab.results import Simulated

GOOD = Simulated(
    name="churn", seed=0, nodes=4, settings={}, rounds=10, ended=4, virtual_s=40.5, accuracy=0.95, training_loss=0.2,
    covered=0.5, covered_units=1.0, covered_pairs=0.25,
    round_median_s=4.0, published=40, kept_share=0.99, durable_share=1.0, forks=0, switches=0, grafts=0, too_late=0,
    orphans=1, lost=0, crashes=3, false_deaths=0, tip_lag_median=1.0, tip_lag_p90=2.0, agreed_s=3.0,
    bytes_per_node_round=12_345, agreed=True, model_sha256="12" * 32, trace_hash="34" * 32,
)  # fmt: skip


def row(settings: dict[str, Value] | None = None, **changes: Any) -> Simulated:
    """A good run with these changes."""
    return replace(GOOD, settings=settings or {}, **changes)


def broken(settings: dict[str, Value] | None = None, seed: int = 0) -> Simulated:
    """A run that broke an invariant."""
    return Simulated(name="churn", seed=seed, nodes=4, settings=settings or {}, failure="the floor of node 1 fell")

"""Which checkpoints of a folder stay when one more is saved: two of its own run, and one of each other run.

Whoever joins another swarm with the folder of an old one must not lose what the old one learned. This module knows
neither files nor arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

CHECKPOINTS_KEPT = 2
"""Of the run being saved. The newest may turn out damaged; then the one before it is used."""
FOREIGN_RUNS_KEPT = 4
"""Other runs of which the newest checkpoint stays, those saved last: models are large, and old runs are many."""


def to_forget(runs: Sequence[bytes], run_id: bytes) -> list[int]:
    """Indices into `runs`, the run of each checkpoint saved before, newest first: those one more of `run_id` ends."""
    kept: dict[bytes, int] = {run_id: 1}
    forgotten = []
    for index, run in enumerate(runs):
        most = CHECKPOINTS_KEPT if run == run_id else 1
        if kept.get(run, 0) < most and (run in kept or len(kept) <= FOREIGN_RUNS_KEPT):
            kept[run] = kept.get(run, 0) + 1
        else:
            forgotten.append(index)
    return forgotten

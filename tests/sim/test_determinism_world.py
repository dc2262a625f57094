"""One seed is one history of a whole swarm, whatever the process and its hash seed; and all nodes end as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKLOAD = Path(__file__).with_name("swarm_run.py")
PATIENCE_S = 200


def printed(kind: str, nodes: int, rounds: int, runs: list[tuple[int, str]]) -> list[list[str]]:
    """What the workload prints for each (seed, hash seed); all processes at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKLOAD), kind, str(nodes), str(rounds), str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed, hash_seed in runs
    ]
    try:
        ended = [process.communicate(timeout=PATIENCE_S) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, complaints) in zip(started, ended, strict=True):
        assert process.returncode == 0, complaints
    return [out.split() for out, _ in ended]


def test_sixteen_nodes_in_twelve_lossy_rounds_are_one_history():
    one, again = printed("light", 16, 12, [(1, "0"), (1, "4242")])
    assert one == again
    trace, *models = one
    assert len(trace) == 64
    assert len(models) == 1


def test_real_training_is_one_history_and_another_seed_another():
    one, again, other = printed("digits", 4, 5, [(7, "1"), (7, "99"), (8, "1")])
    assert one == again
    assert other[0] != one[0]
    assert [len(found) for found in (one, other)] == [2, 2]


def test_every_fault_there_is_happens_alike_in_every_process():
    one, again, other = printed("storm", 6, 30, [(3, "0"), (3, "4242"), (4, "0")])
    assert one == again
    assert other[0] != one[0]
    assert [len(found) for found in (one, other)] == [2, 2]

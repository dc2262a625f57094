"""One seed is one history, whatever the process, its hash seed and where its objects lie in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WORKLOAD = Path(__file__).with_name("lossy_ping.py")


def trace_hash(seed: int, hash_seed: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(WORKLOAD), str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.strip()) == 64
    return result.stdout


def test_two_hash_seeds_give_one_history():
    assert trace_hash(1, "0") == trace_hash(1, "4242")


def test_another_seed_is_another_history():
    assert trace_hash(1, "0") != trace_hash(2, "0")

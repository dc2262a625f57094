"""Churn: 16 nodes, every round 30 % crash without a word and come back, half of them without their disk.

Each run is a process of its own (`tests/sim/churn_run.py`), two at a time: with churn and without, both with
real training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

SEEDS = range(1, 1 + int(os.environ.get("P2PFUSION_CHURN_SEEDS", "1")))
"""The soak takes five."""
ROUNDS = os.environ.get("P2PFUSION_CHURN_ROUNDS", "30")
"""The soak takes 110; in fewer than 30, noise shows more than the crashes."""
CRASHES_A_ROUND = 2.7
"""At least: 30 % of 16 nodes, less those that are away already."""
TOLD = ("forks", "switches", "grafts", "too_late", "orphans", "lost", "crashes", "tip_lag_median", "tip_lag_p90")
ROOT = Path(__file__).parents[2]


def ran(arguments: tuple[str, ...]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.sim.churn_run", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(arguments, {name: told[name] for name in (*TOLD, "agreed_s", "loss", "real_s")}, flush=True)
    return told


def all_ran(orders: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ran, orders))


def check_nothing_is_lost(churn: dict[str, Any], rounds: int) -> None:
    assert churn["crashes"] > CRASHES_A_ROUND * rounds
    assert churn["agreed"], "one chain, one model"
    assert churn["ended"] == 16
    assert churn["agreed_s"] <= 3 * churn["suspicion_s"] + 10.0
    assert churn["durable_in_chain"] >= 0.95 * churn["durable"]
    assert churn["false_deaths"] == 0
    assert churn["forks"] <= 1, "without partitions there is hardly a fork"


def test_nothing_is_lost_and_learning_hardly_suffers():
    orders = [(str(seed), *calm, "--rounds", ROUNDS) for seed in SEEDS for calm in ((), ("calm",))]
    told = all_ran(orders)
    for churn in told[::2]:
        check_nothing_is_lost(churn, int(ROUNDS))
    crashing, calm = fmean(run["loss"] for run in told[::2]), fmean(run["loss"] for run in told[1::2])
    print(f"final loss {crashing:.4f} with churn, {calm:.4f} without: {crashing / calm:.3f} times")
    assert all(run["agreed"] for run in told)
    assert crashing <= 1.05 * calm

"""What the protocol model does not try: rounds of a tenth of a second, with sleeps of many horizons and restarts."""

from __future__ import annotations

import os

import pytest

from p2pfusion.config import CadenceConfig
from p2pfusion.sim.faults import Crash, Sleep
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.world import simulate


@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("P2PFUSION_SIM_SEEDS", "1"))))
def test_sleepers_and_returners_are_on_one_chain_with_the_fast(seed):
    scenario = Scenario(
        nodes=6,
        rounds=100,
        link=LinkModel(latency_s=0.002, jitter_s=0.002, loss=0.02),
        cadence=CadenceConfig(round_min_s=0.0),
        sleeps=(Sleep(node=1, from_s=2.0, to_s=7.0), Sleep(node=2, from_s=3.0, to_s=9.0)),
        crashes=(Crash(node=3, at_s=2.5, back_s=4.5), Crash(node=4, at_s=4.0, back_s=6.0, disk=False)),
        until_s=300.0,
    )
    result = simulate(scenario, light_learner(cost_s=0.4), seed)
    stats = result.stats
    print(f"round {stats.round_median_s:.2f} s, switches {stats.switches}, too late {stats.too_late}")
    assert stats.round_median_s is not None
    assert stats.round_median_s <= 0.2
    assert len(result.chains) == len(result.model_hashes) == 1
    assert stats.lost == 0
    assert stats.false_deaths == 0

"""A named scenario is data: its setting reaches every field, and a run of it is one history."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from p2pfusion.errors import ConfigError, UsageError
from p2pfusion.lab.simulations import SCENARIOS, Setting, scenario_named, simulate_named
from p2pfusion.zoo.tasks import digits_task

SMALL = Setting(nodes=3, rounds=3, latency_s=0.005, loss=0.05)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_setting_reaches_the_scenario(name):
    setting = Setting(
        nodes=5, rounds=7, rate=0.25, loss=0.1, latency_s=0.3, bandwidth_bytes_per_s=1e6, algorithm="full", run_seed=9
    )
    made = scenario_named(name, setting)
    assert (made.name, made.nodes, made.rounds, made.rate) == (name, 5, 7, 0.25)
    assert (made.link.loss, made.link.latency_s, made.link.bandwidth_bytes_per_s) == (0.1, 0.3, 1e6)
    assert made.run.seed == 9


def test_wrong_names_and_numbers_are_told():
    with pytest.raises(UsageError, match="choose one of latency"):
        scenario_named("storm", SMALL)
    with pytest.raises(ConfigError, match="nodes"):
        scenario_named("latency", replace(SMALL, nodes=0))
    with pytest.raises(UsageError, match="msfusion"):
        simulate_named("latency", replace(SMALL, algorithm="magic"), digits_task(), 1)


def test_the_digits_are_learnt_together_and_again_alike():
    first, again = (simulate_named("latency", SMALL, digits_task(), 4) for _ in range(2))
    assert first.trace_hash == again.trace_hash
    assert len(first.model_hashes) == len(first.chains) == 1
    accuracies = [outcome.done.accuracy for outcome in first.survivors() if outcome.done]
    assert len(accuracies) == 3
    assert min(accuracies) > 0.3

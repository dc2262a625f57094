"""Scenario files: what is written is what runs, and what is wrong is refused with file and field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2pfusion.config import CadenceConfig, GossipConfig
from p2pfusion.errors import ConfigError, UsageError
from p2pfusion.sim import loading
from p2pfusion.sim.faults import Arrival, Churn, Crash, Partition
from p2pfusion.sim.links import LinkModel
from p2pfusion.sim.loading import load, loads, named, names
from p2pfusion.sim.scenario import Scenario
from p2pfusion.sim.timeline import timeline

TEXT = """
nodes = 5
rounds = 7
speeds = [0.5, 1]
learns = "light"

[link]
loss = 0.1

[gossip]
fan_out = 2

[churn]
from_s = 3
to_s = 9
away_s = 1
half_life_s = inf

[[partitions]]
from_s = 1
to_s = 2
sides = [[0, 1], [2]]
hold = true

[[arrivals]]
node = 4
at_s = 2.5
"""


def test_a_text_says_what_the_dataclasses_say():
    assert loads(TEXT, "my.toml", name="my") == Scenario(
        name="my",
        nodes=5,
        rounds=7,
        speeds=(0.5, 1.0),
        learns="light",
        link=LinkModel(loss=0.1),
        gossip=GossipConfig(fan_out=2),
        churn=Churn(from_s=3.0, to_s=9.0, away_s=1.0, half_life_s=float("inf")),
        partitions=(Partition(from_s=1.0, to_s=2.0, sides=((0, 1), (2,)), hold=True),),
        arrivals=(Arrival(node=4, at_s=2.5),),
    )


def test_a_table_does_not_undo_what_a_scenario_sets_by_itself():
    scenario = loads("[cadence]\nquorum = 0.5", "my.toml", name="my")
    assert scenario.cadence == CadenceConfig(quorum=0.5, round_min_s=Scenario().cadence.round_min_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nodes = ", "Invalid value"),
        ("nodse = 3", "nodse does not exist"),
        ('nodes = "3"', "nodes = '3': must be an integer"),
        ("nodes = true", "nodes = True: must be an integer"),
        ("rate = true", "rate = True: must be a number"),
        ("rate = 2.0", "rate = 2.0"),
        ("name = 3", "name = 3: must be a text"),
        ('learns = "nothing"', "learns = 'nothing': must be 'task' or 'light'"),
        ("link = 3", "link = 3: must be a table"),
        ("[link]\nlatency = 3", "link.latency does not exist"),
        ("[link]\nloss = 2", "link: LinkModel.loss = 2.0"),
        ("speeds = 3", "speeds = 3: must be an array"),
        ('speeds = ["fast"]', "speeds[0] = 'fast': must be a number"),
        ("[[sleeps]]\nnode = 1", "sleeps[0] is incomplete"),
        ("nodes = 3\n[[crashes]]\nnode = 9\nat_s = 1", "my.toml: crashes[0].node = 9: must be 0 to 2"),
        ("nodes = 2\n[[partitions]]\nfrom_s = 1\nto_s = 2\nparts = 3", "partitions[0].parts = 3: must be at most 2"),
        ("[[sleeps]]\nnode = 1\nfrom_s = 3\nto_s = 2", "sleeps[0]: Sleep.to_s = 2.0"),
        ("[[partitions]]\nfrom_s = 1\nto_s = 2\nparts = 2\nhold = 1", "partitions[0].hold = 1: must be true or false"),
    ],
)
def test_what_is_wrong_is_refused_with_file_and_field(text, said):
    with pytest.raises(ConfigError) as caught:
        loads(text, "my.toml", name="my")
    assert str(caught.value).startswith("my.toml: ")
    assert said in str(caught.value)


def test_a_file_has_the_name_of_its_scenario(tmp_path):
    file = tmp_path / "storm.toml"
    file.write_text("nodes = 3")
    assert load(file) == Scenario(name="storm", nodes=3)
    file.write_text("name = 'calm'")
    assert load(file).name == "calm"


def test_a_file_that_is_no_scenario_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "nowhere.toml")
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(file)
    monkeypatch.setattr(loading, "FILE_BYTES_MAX", 9)
    file.write_text("nodes = 3")
    assert load(file).nodes == 3
    file.write_text("nodes = 33")
    with pytest.raises(ConfigError, match="longer than 9 bytes"):
        load(file)


def test_the_packaged_scenarios_are_those_the_command_names():
    assert names() == ("churn", "latency", "partition", "scale", "stragglers")
    with pytest.raises(UsageError, match="no scenario is named 'storm': choose one of churn"):
        named("storm")


@pytest.mark.parametrize("name", names())
def test_every_packaged_scenario_can_happen(name):
    scenario = named(name)
    assert scenario.name == name
    assert timeline(scenario, 1) == timeline(scenario, 1)
    with pytest.raises(ConfigError):
        replace(scenario, crashes=(Crash(node=scenario.nodes, at_s=1.0),))

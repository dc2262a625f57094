"""`simulate`: the same seed gives the same line, and disagreement is no success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.app import simulating
from p2pfusion.app.cli import main
from p2pfusion.app.simulating import Simulated
from p2pfusion.lab.simulations import scenario_named

SMALL = ["simulate", "latency", "--nodes", "3", "--rounds", "2", "--latency", "5ms", "--loss", "0%"]


def test_one_seed_gives_one_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--seed", "7", "--json"]) == 0
    first = capsys.readouterr().out
    assert main([*SMALL, "--seed", "7", "--json"]) == 0
    assert capsys.readouterr().out == first
    value = json.loads(first)
    assert (value["v"], value["event"], value["seed"], value["rounds"]) == (1, "simulated", 7, 2)
    assert value["agreed"]
    assert len(value["model_sha256"]) == len(value["trace_hash"]) == 64
    assert value["accuracy"] > 0.1


def made(seed: int, *, agreed: bool = True) -> Simulated:
    return Simulated(
        name="latency", seed=seed, nodes=3, rounds=2, virtual_s=1.5, accuracy=0.9, agreed=agreed,
        model_sha256="12" * 32 if agreed else None, trace_hash="34" * 32,
    )  # fmt: skip


def test_several_seeds_are_lines_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulating, "simulate_once", lambda options, seed: made(seed))
    assert main([*SMALL, "--seed", "5", "--seeds", "3", "--out", str(tmp_path / "new" / "folder")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed 5", "seed 6", "seed 7"]
    assert "all agree on 1212121212121212" in lines[0]
    rows = (tmp_path / "new" / "folder" / "latency.csv").read_text().splitlines()
    assert rows[0] == "name,seed,nodes,rounds,virtual_s,accuracy,agreed,model_sha256,trace_hash"
    assert [row.split(",")[1] for row in rows[1:]] == ["5", "6", "7"]


def test_disagreement_is_no_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulating, "simulate_once", lambda options, seed: made(seed, agreed=seed != 1))
    assert main([*SMALL, "--seeds", "3"]) == 1
    assert "the nodes DISAGREE" in capsys.readouterr().out
    assert main([*SMALL, "--seeds", "3", "-q"]) == 1
    assert capsys.readouterr() == ("", "")


def test_the_options_reach_the_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def once(options: Any, seed: int) -> Simulated:
        seen.append(scenario_named("latency", simulating.setting_of(options)))
        return made(seed)

    monkeypatch.setattr(simulating, "simulate_once", once)
    assert main(["simulate", "latency", "--slice", "25%", "--bandwidth", "1MB/s", "-q"]) == 0
    scenario = seen[0]
    assert (scenario.nodes, scenario.rounds, scenario.rate) == (16, 50, 0.25)
    assert (scenario.link.latency_s, scenario.link.loss, scenario.link.bandwidth_bytes_per_s) == (0.02, 0.05, 1e6)


def test_an_unknown_scenario_and_a_bad_folder_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "storm"]) == 2
    assert capsys.readouterr().err == "error: no scenario is named 'storm': choose one of latency\n"
    monkeypatch.setattr(simulating, "simulate_once", lambda options, seed: made(seed))
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "-q", "--out", str(tmp_path / "file" / "folder")]) == 3
    assert "another folder with --out" in capsys.readouterr().err

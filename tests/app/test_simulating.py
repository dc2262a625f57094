"""`simulate`: the same seed gives the same line, sweeps are tables and folders, and disagreement is no success."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from p2pfusion.app import simulating
from p2pfusion.app.cli import main
from p2pfusion.app.orders import SimulateOptions, learner_of
from p2pfusion.app.runs import plan_words, print_table
from p2pfusion.app.simulating import command_of, orders_of
from p2pfusion.lab import traces
from p2pfusion.lab.knobs import Order, order_of
from p2pfusion.lab.results import Simulated, row_json
from p2pfusion.lab.traces import order_from
from p2pfusion.sim.loading import named
from tests.lab.made import row as made_row

SMALL = ["simulate", "latency", "--nodes", "3", "--rounds", "2", "--latency", "5ms", "--loss", "0%"]
LIGHT = [*SMALL, "--task", "light"]


def fake_work(monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[Order]:
    """Runs that cost nothing and agree; the orders they got."""
    seen: list[Order] = []

    def work(text: str, say: object) -> str:
        order = order_from(text)
        seen.append(order)
        row = Simulated(
            name=order.scenario.name, seed=order.seed, nodes=3, settings=order.settings, rounds=2, ended=3,
            virtual_s=1.5, accuracy=0.9, agreed=True, model_sha256="12" * 32, trace_hash="34" * 32,
        )  # fmt: skip
        return text + "\n" + json.dumps({"event": "result", **row_json(replace(row, **changes))}) + "\n"  # type: ignore[arg-type]

    monkeypatch.setattr(simulating, "work", work)
    return seen


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


def test_several_seeds_are_lines_and_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_work(monkeypatch)
    assert main([*SMALL, "--seed", "5", "--seeds", "3", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["seed 5", "seed 6", "seed 7"]
    assert "all agree on 1212121212121212" in lines[0]
    assert "accuracy %" in "\n".join(lines[3:])
    assert "3/3" in "\n".join(lines[3:])


@pytest.mark.parametrize(("columns", "has_range"), [(72, False), (200, True)])
def test_a_narrow_terminal_shows_whole_numbers_without_their_range(
    columns: int, has_range: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [
        made_row({"half_life": half_life}, seed=seed, accuracy=0.9 + seed / 100, round_median_s=4.0 + seed, forks=1)
        for half_life in (10.0, math.inf)
        for seed in (0, 1)
    ]
    print_table(rows)
    out = capsys.readouterr().out
    assert ("90.5 (90.0-91.0)" in out) == has_range
    assert "90.5" in out
    assert "…" not in out


def test_disagreement_and_violation_are_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_work(monkeypatch, agreed=False, model_sha256=None)
    assert main(SMALL) == 1
    assert "the nodes DISAGREE" in capsys.readouterr().out
    assert main([*SMALL, "-q"]) == 1
    assert capsys.readouterr() == ("", "")
    fake_work(monkeypatch, agreed=False, model_sha256=None, ended_apart=True)
    assert main(SMALL) == 1
    assert "ended while apart: give more --rounds" in capsys.readouterr().out
    fake_work(monkeypatch, failure="the floor of node 1 fell")
    assert main(SMALL) == 1
    assert "seed 0: FAILED: the floor of node 1 fell" in capsys.readouterr().out


def test_a_sweep_is_a_folder_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    line = ["simulate", "latency", "--nodes", "3", "--rounds", "2", "--task", "light", "--latency", "5ms,20ms"]
    assert main([*line, "--seeds", "2", "--jobs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert [text.split(":")[0] for text in printed.out.splitlines()[:4]] == [
        "5ms, seed 0", "5ms, seed 1", "20ms, seed 0", "20ms, seed 1",
    ]  # fmt: skip
    assert f"wrote {out}" in printed.err
    names = [f"trace-{latency}-seed{seed}.jsonl" for latency in ("5ms", "20ms") for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "results.csv", "latency.png", "latency.svg", *names]
    )
    assert len((out / "results.csv").read_text().splitlines()) == 5
    command = "p2pfusion simulate latency --nodes 3 --rounds 2 --task light --latency 5ms,20ms --seeds 2 --out "
    assert command in (out / "README.md").read_text()

    trace = out / names[3]
    assert main(["simulate", "replay", str(trace)]) == 0
    replayed = capsys.readouterr()
    assert f"the same result as in {trace}, bit for bit (trace hash and model hash are equal)" in replayed.out
    assert replayed.err == ""
    assert main(["simulate", "replay", str(trace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"latency": 0.02}


def test_several_processes_give_the_same_as_one(tmp_path: Path) -> None:
    line = [*LIGHT, "--seeds", "2", "-q"]
    assert main([*line, "--jobs", "1", "--out", str(tmp_path / "one")]) == 0
    assert main([*line, "--jobs", "2", "--out", str(tmp_path / "two")]) == 0
    for path in (tmp_path / "one").iterdir():
        if path.name != "README.md":  # names its folder
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_replay_that_differs_says_what_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*LIGHT, "-q", "--out", str(tmp_path)]) == 0
    trace = tmp_path / "trace.jsonl"
    head, *events, last = trace.read_text().splitlines()
    trace.write_text("\n".join([head, *events, last.replace('"trace_hash":"', '"trace_hash":"x')]) + "\n")
    monkeypatch.setattr(traces, "version", lambda name: "9.9")
    assert main(["simulate", "replay", str(trace)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("warning: p2pfusion was ")
    assert err[0].endswith("is 9.9: the result may differ")
    assert err[-1].startswith(f"error: the replay differs from {trace}: trace_hash was x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda events: events[:-1], "events, the replay"),
        (lambda events: [*events[:-1], events[-1].replace('"at_s":', '"at_s":1')], "is another event"),
    ],
    ids=["removed", "altered"],
)
def test_a_trace_whose_events_were_changed_is_not_the_same(
    change: Callable[[list[str]], list[str]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*LIGHT, "-q", "--out", str(tmp_path)]) == 0
    trace = tmp_path / "trace.jsonl"
    head, *events, last = trace.read_text().splitlines()
    trace.write_text("\n".join([head, *change(events), last]) + "\n")
    assert main(["simulate", "replay", str(trace)]) == 1
    assert said in capsys.readouterr().err


def test_an_interrupted_sweep_writes_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def results(*_: object) -> Iterator[tuple[int, str]]:
        for number in (0, 2):
            yield number, simulating.work(texts[number], lambda _: None)
        raise KeyboardInterrupt

    line = [*LIGHT, "--seeds", "4", "--jobs", "2", "--out", str(tmp_path / "out")]
    fake_work(monkeypatch)
    options = SimulateOptions(name="latency", nodes=(3,), rounds=(2,), task=("light",), seeds=4)
    texts = [traces.order_text(order) for order in orders_of(options)]
    monkeypatch.setattr(simulating, "_results", results)
    assert main(line) == 130
    out, err = capsys.readouterr()
    assert [text.split(":")[0] for text in out.splitlines()[:2]] == ["seed 0", "seed 2"]
    assert "2/2" in out
    assert err.splitlines() == [
        "4 runs of 3 nodes, 2 rounds each, on 2 processes",
        f"interrupted: 2 of 4 runs done, written to {tmp_path / 'out'}",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "results.csv", "trace-seed0.jsonl", "trace-seed2.jsonl",
    ]  # fmt: skip
    assert "(interrupted: 2 of 4 runs done)" in (tmp_path / "out" / "README.md").read_text()
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 3


def test_an_interrupt_before_anything_is_done_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(text: str, say: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulating, "work", work)
    assert main([*LIGHT, "--out", str(tmp_path / "new" / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: 0 of 1 run done"
    assert list(tmp_path.iterdir()) == []


def test_results_of_two_sweeps_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_work(monkeypatch)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*LIGHT, "-q", "--jobs", "1", "--seeds", "3", "--out", str(tmp_path)]) == 0
    (tmp_path / "latency.png").write_text("of the earlier sweep")
    (tmp_path / "trace-mine.jsonl").write_text("somebody's own")
    (tmp_path / "notes.txt").write_text("somebody's own")
    assert main([*LIGHT, "-q", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "results.csv", "trace.jsonl", "trace-mine.jsonl", "notes.txt",
    }  # fmt: skip


def test_the_first_line_says_what_is_asked_for() -> None:
    def plan(**more: object) -> str:
        options = SimulateOptions(name="churn", jobs=2, **more)  # type: ignore[arg-type]
        return plan_words(options, orders_of(options))

    assert plan(nodes=(20,), seeds=12) == "12 runs of 20 nodes, 110 rounds each, on 2 processes"
    assert plan(nodes=(4, 20)) == "2 runs of 4 to 20 nodes, 110 rounds each, on 2 processes"
    assert plan(seeds=2, engine="ray") == "2 runs of 16 nodes, 110 rounds each, on Ray"
    assert plan() == "1 run of 16 nodes, 110 rounds"


def test_a_single_run_writes_one_trace_and_its_curve(tmp_path: Path) -> None:
    assert main([*LIGHT, "-q", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "results.csv", "latency.png", "latency.svg", "trace.jsonl",
    }  # fmt: skip


def test_without_matplotlib_everything_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*LIGHT, "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "results.csv", "trace.jsonl"}
    assert capsys.readouterr().err.splitlines() == [
        "1 run of 3 nodes, 2 rounds",
        "no figure: pip install 'p2pfusion[plot]'",
        f"wrote {tmp_path}",
    ]


def test_the_options_reach_the_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_work(monkeypatch)
    line = "simulate latency --slice 25% --bandwidth 1MB/s --common 12.5% --outer-momentum 60% -q"
    assert main(line.split()) == 0
    assert (seen[0].common, seen[0].momentum) == (0.125, 0.6)
    scenario = seen[0].scenario
    assert (scenario.nodes, scenario.rounds, scenario.rate) == (16, 50, 0.25)
    assert (scenario.link.latency_s, scenario.link.loss, scenario.link.bandwidth_bytes_per_s) == (0.02, 0.05, 1e6)
    line = "simulate churn --half-life 10s,inf --algorithm msfusion,full --seeds 2 --jobs 1 -q"
    assert main(line.split()) == 0
    assert [(order.settings["algorithm"], order.settings["half_life"], order.seed) for order in seen[1:]] == [
        (name, half_life, seed) for name in ("msfusion", "full") for half_life in (10.0, math.inf) for seed in (0, 1)
    ]


def test_a_scenario_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_work(monkeypatch)
    file = tmp_path / "mine.toml"
    file.write_text("nodes = 5\n[link]\nloss = 0.25\n[churn]\nfrom_s = 1\nto_s = 9\naway_s = 2\nperiod_s = 3\n")
    assert main(["simulate", str(file), "--half-life", "10s", "-q"]) == 0
    scenario = seen[0].scenario
    assert (scenario.name, scenario.nodes, scenario.link.loss) == ("mine", 5, 0.25)
    assert scenario.churn is not None
    assert scenario.churn.half_life_s == 10.0


def test_the_command_in_the_readme_asks_for_the_same_runs() -> None:
    options = SimulateOptions(
        name="churn", nodes=(4, 8), half_life=(0.5, 30.0, math.inf), rate=(0.25,), task=("light",), loss=(0.0, 0.05),
        bandwidth=(1e6,), common=(0.25, 0.5), momentum=(0.0, 0.6), slow=(2.0,), seed=(3,), seeds=2, engine="ray",
        out=Path("a folder"),
    )  # fmt: skip
    words = (
        "p2pfusion simulate churn --nodes 4,8 --slice 25% --task light --common 25%,50% --outer-momentum 0%,60% "
        "--loss 0%,5% --bandwidth 1MB/s "
        "--half-life 500ms,30s,inf --slow 2 --seed 3 --seeds 2 --engine ray --out 'a folder'"
    )
    assert command_of(options) == words


def test_real_training_takes_the_time_the_scenario_says() -> None:
    order = order_of(named("stragglers"))
    learner = learner_of(replace(order, algorithm="full"))(0)
    assert learner.step_cost_s * learner.prepared.steps_per_round == pytest.approx(3.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("simulate storm", 2, "'storm': choose one of churn, latency, partition, scale, stragglers, or give a file"),
        ("simulate none.toml", 2, "cannot read none.toml: No such file"),
        ("simulate latency trace.jsonl", 2, "a second name goes with replay only"),
        ("simulate latency --half-life 10s", 2, "--half-life needs a scenario with churn"),
        ("simulate latency --nodes 4,0", 2, "'0' is not a whole number from 1 to 256"),
        ("simulate latency --latency 5ms,,20ms", 2, "write it like 500ms"),
        ("simulate latency --task light,", 2, "a name between commas is empty"),
        ("simulate latency --nodes 4,4", 2, "a value is given twice in 4, 4"),
        ("simulate latency --loss 0%,1%,2% --seeds 10000", 2, "10000 at most"),
        ("simulate latency --nodes 3 --algorithm magic --rounds 1", 2, "msfusion"),
        ("simulate latency --algorithm ring", 2, "p2pfusion.lab.rounds only"),
        ("simulate scale --common 50%", 2, "--common goes with real training only"),
        ("simulate scale --algorithm magic", 2, "unknown algorithm 'magic': choose one of auto, nested, "),
        ("simulate latency --task light --algorithm full", 2, "--algorithm goes with real training only"),
        ("simulate latency --nodes 3 --task magic --rounds 1", 3, "no task is named 'magic'"),
        ("simulate replay", 2, "replay needs a trace"),
        ("simulate replay none.jsonl", 2, "cannot read none.jsonl: No such file"),
        ("simulate replay none.jsonl --nodes 3", 2, "give no other options"),
        ("simulate replay none.jsonl --seeds 2", 2, "give no other options"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_fix(
    line: str,
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\xfe", b'{"v":1,"event":"run"}\n'])
def test_what_is_no_trace_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(content)
    assert main(["simulate", "replay", str(file)]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"{file} is not a trace: give a trace-" in err or "UTF-8" in err


def test_a_trace_as_long_as_may_be_and_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from p2pfusion.app import replaying

    file = tmp_path / "trace.jsonl"
    file.write_text("x" * 100)
    monkeypatch.setattr(replaying, "TRACE_BYTES_MAX", 100)
    assert main(["simulate", "replay", str(file)]) == 2
    assert "is not a trace" in capsys.readouterr().err
    monkeypatch.setattr(replaying, "TRACE_BYTES_MAX", 99)
    assert main(["simulate", "replay", str(file)]) == 2
    assert "longer than 99 bytes" in capsys.readouterr().err


def test_a_bad_folder_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = fake_work(monkeypatch)
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "-q", "--out", str(tmp_path / "file" / "folder")]) == 3
    assert "another folder with --out" in capsys.readouterr().err
    assert seen == []


def test_without_ray_the_fix_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*LIGHT, "--engine", "ray"]) == 3
    assert capsys.readouterr().err == "error: --engine ray: ray is not installed: run pip install 'p2pfusion[ray]'\n"


def test_a_light_run_does_without_torch() -> None:
    script = (
        f"import sys\nfrom p2pfusion.app.cli import main\nstatus = main({LIGHT!r})\n"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_every_packaged_scenario_can_be_ordered() -> None:
    for name in ("churn", "latency", "partition", "scale", "stragglers"):
        assert orders_of(SimulateOptions(name=name))[0].scenario.name == name


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_ends_a_sweep_and_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "p2pfusion", "simulate", "latency", "--task", "light", "--nodes", "16", "--rounds",
            "1000,2000", "--jobs", "2", "--seeds", "2", "--out", str(tmp_path / "out")]  # fmt: skip
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        assert "4 runs of 16 nodes" in parent.stderr.readline()
        assert "rounds" in parent.stderr.readline()  # a line of progress: the workers are at work
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.send_signal(number)
        assert parent.wait(10) == 130
        words = parent.stderr.read()
        assert "Traceback" not in words
        assert "leaked" not in words
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.e2e
def test_two_signals_in_a_row_end_a_single_run_without_a_traceback() -> None:
    line = [sys.executable, "-m", "p2pfusion", *LIGHT, "--nodes", "8", "--rounds", "5000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "1 run of 8 nodes" in process.stderr.readline()
        for wait_s in (0.5, 0.002):  # the first in the middle of the run
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
        assert process.stderr.read() == "interrupted: 0 of 1 run done\n"

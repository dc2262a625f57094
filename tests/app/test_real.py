"""The command line as a person and a script meet it: real processes, real sockets, real signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.app import cli
from p2pfusion.app.exporting import export_model

pytestmark = pytest.mark.e2e

ROOT = Path(cli.__file__).parents[2]
PATIENCE_S = 120
"""For everything together in one test; two slow cores import torch in ten seconds."""


@pytest.fixture
def join(tmp_path: Path) -> list[str]:
    """A join on loopback in a swarm and a folder of its own."""
    return [
        sys.executable, "-m", "p2pfusion", "join", "digits", "--listen", "127.0.0.1:0", "--state",
        str(tmp_path / "state"), "--swarm", f"test {tmp_path.name} {os.getpid()}"[:64],
    ]  # fmt: skip


def run(line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S, **options)


def objects(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(value["v"] == 1 for value in found)
    return found


@contextmanager
def running(line: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that has reported its first round; killed if the test forgets it."""
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with process:
            assert process.stdout is not None
            for text in process.stdout:
                if '"event":"round"' in text:
                    break
            yield process
    finally:
        if process.poll() is None:
            process.kill()


def test_a_run_from_the_first_line_to_the_exported_model(join: list[str], tmp_path: Path) -> None:
    done = run([*join, "--until", "rounds=4", "--json", "-q", "--name", "fox", "--data-part", "0/3"])
    assert (done.returncode, done.stderr) == (0, "")
    lines = objects(done.stdout)
    assert [value["event"] for value in lines] == ["round"] * 4 + ["done"]
    end = lines[-1]
    assert (end["status"], end["name"], end["round"]) == ("ok", "fox", 4)
    exported = export_model(tmp_path / "state", tmp_path / "model.safetensors")
    assert (exported.model_sha256, exported.chain, exported.round) == (end["model_sha256"], end["chain"], 4)


def test_without_json_it_speaks_to_people_and_never_escapes_into_a_pipe(join: list[str]) -> None:
    done = run([*join, "--until", "rounds=2", "--name", "fox"], env={**os.environ, "TERM": "xterm", "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("p2pfusion 0.1.0: join digits")
    assert [line.split(" · ")[0] for line in lines if line.startswith("round")] == ["round 1", "round 2"]
    assert lines[-1].startswith("fox: ok at round 2")


def test_on_a_terminal_it_draws_and_gives_the_cursor_back(join: list[str]) -> None:
    parent, child = pty.openpty()
    environ = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [*join, "--until", "rounds=2"], cwd=ROOT, stdin=child, stdout=child, stderr=child, env=environ
    )
    os.close(child)
    seen = b""
    while True:
        try:
            text = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        seen += text
        if not text:
            break
    os.close(parent)
    assert process.wait(PATIENCE_S) == 0
    assert b"\x1b[?25l" in seen
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    assert b"trains" in seen


def test_a_folder_in_use_is_said_and_leaving_an_open_ended_run_is_no_failure(join: list[str]) -> None:
    with running([*join, "--json", "-q"]) as process:
        second = run([*join, "-q"])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (second.returncode, second.stdout) == (3, "")
    assert "--state" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert (process.returncode, err) == (0, "")
    end = objects(out)[-1]
    assert (end["event"], end["status"]) == ("done", "interrupted")
    assert end["model_sha256"]


def test_leaving_before_the_goal_is_status_130(join: list[str]) -> None:
    with running([*join, "--json", "-q", "--until", "rounds=100000"]) as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert objects(out)[-1]["status"] == "interrupted"


def test_the_goal_not_reached_in_time_is_status_8(join: list[str]) -> None:
    done = run([*join, "--json", "-q", "--until", "rounds=100000", "--timeout", "2s"])
    assert done.returncode == 8
    assert objects(done.stdout)[-1]["status"] == "timeout"


def test_too_few_peers_is_status_4(join: list[str]) -> None:
    done = run([*join, "--json", "-q", "--min-peers", "2", "--wait", "1s"])
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "done" not in done.stdout


def test_a_port_in_use_is_status_6(join: list[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run([*join, "--listen", f"127.0.0.1:{port}", "-q"])
    assert (done.returncode, done.stdout) == (6, "")
    assert str(port) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_demo_ends_with_one_model_and_the_comparisons(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "p2pfusion", "demo", "--json", "-q", "--rounds", "4"]
    done = run(line, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    lines = objects(done.stdout)
    assert [value["event"] for value in lines].count("done") == 1
    assert sorted({value["node"] for value in lines[:-1]}) == ["fox", "otter", "wren"]
    end = lines[-1]
    assert (end["event"], end["status"], end["round"]) == ("done", "ok", 4)
    assert len({(node["model_sha256"], node["chain"]) for node in end["nodes"]}) == 1
    assert len(end["nodes"]) == 3
    for figure in ("accuracy", "alone_accuracy", "small_accuracy", "full_accuracy"):
        assert 0.3 < end[figure] <= 1
    assert list(tmp_path.glob("p2pfusion-demo-*")) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["embed.py", "2"], "round 2: loss"),
        (["simulate_latency.py"], "100 ms"),
        (["-m", "p2pfusion", "check", "my_task.py"], "sliced axes: 0.out 16 in 4 groups, 4.out 32 and 8.out 64"),
    ],
)
def test_the_examples_run(line: list[str], words: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *line],
        cwd=ROOT / "examples",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout

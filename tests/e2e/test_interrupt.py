"""Ctrl-C as a person feels it: a graceful end within two seconds, at once the second time, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e

GRACEFUL_S = 2.0
AT_ONCE_S = 0.5
SLOW_TASK = """
import time
import torch
from torch import nn
from torch.nn import functional as F
import p2pfusion as p2p

def loss(output, target):
    print("step", flush=True)
    time.sleep(20)  # a step of a large model on a phone
    return F.cross_entropy(output, target)

def task():
    x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
    return p2p.Task(model=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), train=(x, y), loss=loss)
"""


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`p2pfusion join digits`, open-ended, after its first rounds."""
    process = start(tmp_path, "digits")
    assert process.stdout is not None
    rounds = 0
    while rounds < 3:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        rounds += json.loads(line)["event"] == "round"
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def start(folder: Path, task: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "p2pfusion", "join", task, "--json", "--listen", "127.0.0.1:0"),
            *("--swarm", f"test-{uuid.uuid4().hex[:12]}", "--state", str(folder / "state")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(process: subprocess.Popen[str]) -> tuple[float, str, str]:
    """Seconds from Ctrl-C to the end of the process, and what it wrote meanwhile."""
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return time.monotonic() - began_s, out, err


def test_ctrl_c_is_graceful_and_quick_and_leaves_nothing(joined):
    alive = psutil.Process(joined.pid)
    ports = [c.laddr.port for c in alive.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
    assert ports
    assert alive.children(recursive=True) == []
    took_s, out, err = interrupted(joined)
    print(f"graceful end after {took_s:.2f} s")
    assert took_s <= GRACEFUL_S
    assert joined.returncode == 0, "an open-ended join may end at any time"
    done = json.loads(out.splitlines()[-1])
    assert (done["event"], done["status"]) == ("done", "interrupted")
    assert "Traceback" not in err
    assert "never" not in err, "no task was left pending, no exception unread"
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_ctrl_c_of_a_demo_ends_its_nodes_too(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pfusion", "demo", "--json", "--rounds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stdout is not None
        while '"round"' not in (line := process.stdout.readline()):
            assert line, process.communicate()[1]
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        took_s, _, err = interrupted(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    print(f"demo ended after {took_s:.2f} s")
    assert process.returncode == 130
    assert list(tmp_path.glob("p2pfusion-demo-*")) == []
    assert [child for child in children if child.is_running()] == []
    assert "Traceback" not in err


def test_the_second_ctrl_c_ends_it_at_once(joined):
    joined.send_signal(signal.SIGINT)
    time.sleep(0.05)  # two signals at one moment are one; nobody's fingers are that quick
    took_s, _, err = interrupted(joined)
    print(f"hard end after {took_s:.2f} s")
    assert took_s <= AT_ONCE_S
    assert joined.returncode in (0, 130), "0 when the graceful end was quicker still"
    assert "Traceback" not in err


def test_a_step_that_takes_long_does_not_hold_up_the_end(tmp_path):
    path = tmp_path / "slow_task.py"
    path.write_text(SLOW_TASK)
    process = start(tmp_path, str(path))
    try:
        assert process.stdout is not None
        while "step" not in (line := process.stdout.readline()):
            assert line, process.communicate()[1]
        took_s, _, err = interrupted(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    print(f"end in the middle of a step after {took_s:.2f} s")
    assert took_s <= GRACEFUL_S
    assert "Traceback" not in err

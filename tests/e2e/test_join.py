"""`p2pfusion join` as people and scripts call it: real processes, mDNS and HTTP on loopback, real digits."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.config import NodeConfig

pytestmark = pytest.mark.e2e

WAIT_S = 150.0
SUSPICION_S = NodeConfig().gossip.suspicion_s
ROUND_S = 1.0
"""More than a round of digits takes on a busy machine, training and pace together."""
ROUND_FIELDS = {"round", "loss", "share", "heard", "missing", "patience_s", "bytes_sent", "bytes_received", "head"}


class Swarm:
    """Processes of one swarm; whatever is left is killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self.processes: list[subprocess.Popen[str]] = []

    def join(self, *arguments: str, task: str = "digits") -> subprocess.Popen[str]:
        number = len(self.processes)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "p2pfusion", "join", task, "--json", "--listen", "127.0.0.1:0"),
                *("--swarm", self.name, "--name", f"node-{number}", "--state", str(self.folder / str(number))),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path)
    yield swarm
    swarm.close()


def events_until(process: subprocess.Popen[str], kind: str, count: int = 1) -> list[dict[str, Any]]:
    """Read events until `count` of a kind came."""
    assert process.stdout is not None
    events = []
    while count:
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        events.append(json.loads(line))
        count -= events[-1]["event"] == kind
    return events


def stamped_events(process: subprocess.Popen[str]) -> list[tuple[float, dict[str, Any]]]:
    """All further events of a process, with the time each came."""
    assert process.stdout is not None
    return [(time.monotonic(), json.loads(line)) for line in process.stdout]


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last event and all the others, once the process has ended well."""
    out, err = process.communicate(timeout=WAIT_S)
    events = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, err
    assert all(event["v"] == 1 for event in events)
    assert events[-1]["event"] == "done", err
    assert [event["event"] for event in events].count("done") == 1
    return events[-1], events[:-1]


def same(dones: Sequence[dict[str, Any]]) -> None:
    assert {done["status"] for done in dones} == {"ok"}
    assert len({done["model_sha256"] for done in dones}) == 1
    assert len({done["chain"] for done in dones}) == 1


def test_three_processes_end_with_one_model_that_each_can_export(swarm: Swarm) -> None:
    """Criterion 2, and that what is exported is what they ended with."""
    nodes = [swarm.join("--min-peers", "3", "--until", "rounds=30", "--data-part", f"{i}/3") for i in range(3)]
    results = [ended(node) for node in nodes]
    same([done for done, _ in results])
    for number, (done, events) in enumerate(results):
        assert done["accuracy"] >= 0.93
        assert done["round"] == 30
        rounds = [event for event in events if event["event"] == "round"]
        assert rounds[0].keys() >= ROUND_FIELDS
        exported = subprocess.run(
            [
                *(sys.executable, "-m", "p2pfusion", "export", str(swarm.folder / f"{number}.safetensors"), "--json"),
                *("--state", str(swarm.folder / str(number))),
            ],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert exported.returncode == 0, exported.stderr
        assert json.loads(exported.stdout)["model_sha256"] == done["model_sha256"]


@pytest.mark.parametrize("victim", [0, 2], ids=["the first started", "the last started"])
def test_kill_9_of_one_of_three_leaves_two_that_agree(swarm: Swarm, victim: int) -> None:
    """Criterion 3: no gap between two rounds is longer than patience, one round and the suspicion time."""
    nodes = [swarm.join("--min-peers", "3", "--until", "rounds=30", "--data-part", f"{i}/3") for i in range(3)]
    for node in nodes:
        events_until(node, "round", 5)
    nodes[victim].kill()
    rest = [node for number, node in enumerate(nodes) if number != victim]
    with ThreadPoolExecutor(len(rest)) as readers:
        stamped = list(readers.map(stamped_events, rest))
    for node in rest:
        node.communicate(timeout=WAIT_S)
        assert node.returncode == 0
    for events in stamped:
        rounds = [(at_s, event["patience_s"]) for at_s, event in events if event["event"] == "round"]
        gaps = [(later - earlier, patience_s) for (earlier, patience_s), (later, _) in pairwise(rounds)]
        assert all(gap_s <= patience_s + ROUND_S + SUSPICION_S for gap_s, patience_s in gaps), gaps
    same([events[-1][1] for events in stamped])


def test_a_third_joins_later_and_leaves_with_ctrl_c(swarm: Swarm) -> None:
    first = [swarm.join("--min-peers", "2", "--until", "rounds=80", "--data-part", f"{i}/3") for i in range(2)]
    events_until(first[0], "round", 5)
    late = swarm.join("--min-peers", "2", "--data-part", "2/3")
    seen = events_until(late, "round", 3)
    assert min(event["round"] for event in seen if event["event"] == "round") > 5
    late.send_signal(signal.SIGINT)
    done, _ = ended(late)
    assert done["status"] == "interrupted"
    results = [ended(node) for node in first]
    same([done for done, _ in results])
    for _, events in results:
        states = [event["state"] for event in events if event["event"] == "peer" and event["name"] == "node-2"]
        assert states[:1] == ["alive"]
        assert states[-1:] == ["left"]


def test_a_model_that_differs_from_the_swarms_is_refused_with_the_difference(swarm: Swarm, tmp_path: Path) -> None:
    swarm.join("--until", "rounds=200")
    events_until(swarm.processes[0], "round", 1)
    other = tmp_path / "other.py"
    other.write_text(
        "import torch\nfrom torch import nn\nfrom p2pfusion import Task\n\n\ndef task():\n"
        "    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))\n"
        "    return Task(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), (x, y))\n"
    )
    out, err = swarm.join("--until", "rounds=5", task=str(other)).communicate(timeout=WAIT_S)
    assert swarm.processes[1].returncode == 5, (out, err)
    assert "Traceback" not in err
    assert "swarm has" in err
    assert "you have" in err
    assert swarm.processes[0].poll() is None

"""All cores busy with training and more: nobody may look dead to anybody.

`P2PFUSION_BUSY_S` is how long it is watched (10; the soak takes 60).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BUSY_S = float(os.environ.get("P2PFUSION_BUSY_S", "10"))
NODES = 4
TASK = """
import torch
from torch import nn
import p2pfusion as p2p

def task():
    x, y = torch.randn(4096, 256), torch.randint(0, 10, (4096,))
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    return p2p.Task(model=model, train=(x, y), batch_size=256, steps_per_round=20)
"""


class Watched:
    """One `p2pfusion join`, its events as they come."""

    def __init__(self, folder: Path, swarm: str, number: int) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "p2pfusion", "join", str(folder / "task.py"), "--json"),
                *("--listen", "127.0.0.1:0", "--swarm", swarm, "--name", f"node-{number}"),
                *("--state", str(folder / str(number)), "--min-peers", str(NODES), "--slice", "100%"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.events: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def of(self, kind: str) -> list[dict[str, object]]:
        return [event for event in self.events if event["event"] == kind]

    def end(self) -> None:
        self.process.kill()
        self._reader.join(10.0)
        self.process.communicate()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Watched]]:
    (tmp_path / "task.py").write_text(TASK)
    swarm = f"test-{uuid.uuid4().hex[:12]}"
    started = [Watched(tmp_path, swarm, number) for number in range(NODES)]
    yield started
    for node in started:
        node.end()


@pytest.fixture
def burners() -> Iterator[None]:
    """A process for every core that does nothing but count."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for process in burning:
        process.kill()
        process.wait()


def test_training_that_saturates_all_cores_makes_nobody_look_dead(nodes, burners):
    began_s = time.monotonic()
    while not all(node.of("round") for node in nodes):
        assert time.monotonic() - began_s < 120.0, [node.events[-3:] for node in nodes]
        time.sleep(0.1)
    time.sleep(BUSY_S)
    rounds = [len(node.of("round")) for node in nodes]
    states = [event["state"] for node in nodes for event in node.of("peer")]
    print(f"{rounds} rounds in {BUSY_S:g} s; suspected {states.count('suspect')} times, dead {states.count('dead')}")
    assert states.count("dead") == 0
    assert min(rounds) >= 1

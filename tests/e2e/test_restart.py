"""`kill -9` of random nodes out of five, and the same command again: nothing is lost, nothing is left lying about.

P2PFUSION_KILLS sets how often (3 in CI, 20 in a soak); P2PFUSION_SEED which nodes and when.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import IO, Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NODES = 5
KILLS = int(os.environ.get("P2PFUSION_KILLS", "3"))
SEED = int(os.environ.get("P2PFUSION_SEED", "1"))
WAIT_S = 120.0
TRAINING_AGAIN_S = 5.0
"""From the line that says who the node is to its first finished round; Python and torch were loaded before."""
FIRST_CHECKPOINT_ROUND = 8


class Device:
    """One state folder and the process that uses it now; everything it says is kept with its time."""

    def __init__(self, folder: Path, swarm: str, number: int) -> None:
        self.state = folder / str(number)
        self.command = [
            *(sys.executable, "-m", "p2pfusion", "join", "digits", "--json", "--listen", "127.0.0.1:0"),
            *("--swarm", swarm, "--name", f"node-{number}", "--state", str(self.state)),
            *("--min-peers", "2", "--data-part", f"{number % NODES}/{NODES}"),
        ]
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.notes: list[tuple[float, str]] = []
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            [*self.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._event)),
            threading.Thread(target=self._read, args=(self.process.stderr, self._note)),
        ]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], take: Callable[[str], None]) -> None:
        with stream:
            for line in stream:
                take(line)

    def _event(self, line: str) -> None:
        self.events.append((time.monotonic(), json.loads(line)))

    def _note(self, line: str) -> None:
        self.notes.append((time.monotonic(), line))

    def rounds(self) -> list[tuple[float, int]]:
        return [(at_s, event["round"]) for at_s, event in list(self.events) if event["event"] == "round"]

    def noted(self, words: str) -> float:
        """When it said so."""
        return next(at_s for at_s, line in self.notes if words in line)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            assert self.process is not None
            assert self.process.poll() is None, (what, self.notes)
            assert time.monotonic() < deadline_s, (what, self.notes[-3:], self.events[-3:])
            time.sleep(0.02)

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "identity.json").read_text())
        return found

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.ended()

    def ended(self) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=WAIT_S)
        for reader in self.readers:
            reader.join(timeout=WAIT_S)
        return status

    def left_behind(self) -> list[str]:
        """Files that are none of those a node keeps."""
        kept = sorted(path.name for path in self.state.glob("checkpoint-*.safetensors"))
        known = {"identity.json", "p2pfusion.lock", ".p2pfusion-writing", *kept[:2]}
        odd = [path.name for path in self.state.iterdir() if path.name not in known]
        return odd + [path.name for path in (self.state / ".p2pfusion-writing").iterdir()]


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Device]]:
    swarm = f"test-{uuid.uuid4().hex[:12]}"
    made = [Device(tmp_path, swarm, number) for number in range(NODES + 1)]
    yield made
    for device in made:
        if device.process is not None and device.process.poll() is None:
            device.kill()


def restart(victim: Device) -> dict[str, float]:
    """Kill it, start it again, see that it is the same peer; seconds until it trains again."""
    before, newest = victim.identity(), victim.rounds()[-1][1]
    victim.kill()
    identity = victim.identity()
    assert identity["last"] >= newest
    victim.start()
    victim.until(victim.rounds, "no round after a restart")
    after = victim.identity()
    assert after["peer"] == before["peer"]
    assert after["incarnation"] >> 20 == (before["incarnation"] >> 20) + 1
    assert victim.rounds()[0][1] > identity["last"], "a round was published to twice"
    resumed_s, first_s = victim.noted("resumed from round"), victim.rounds()[0][0]
    return {
        "whole": first_s - victim.started_s,
        "import": victim.noted("you are ") - victim.started_s,
        "resumed": resumed_s - victim.started_s,
        "again": first_s - victim.noted("you are "),
    }


def test_killed_nodes_return_with_the_same_command(devices: list[Device]) -> None:
    rng, nodes = random.Random(SEED), devices[:NODES]
    for device in nodes:
        device.start()
    took: list[dict[str, float]] = []
    for _ in range(KILLS):
        victim = rng.choice(nodes)
        for device in nodes:
            device.until(lambda one=device: one.rounds() and one.rounds()[-1][1] > FIRST_CHECKPOINT_ROUND, "no rounds")
        time.sleep(rng.uniform(0.2, 3.0))
        took.append(restart(victim))
        print({name: round(seconds, 2) for name, seconds in took[-1].items()})
    devices[NODES].start("--until", "accuracy=0.05")  # whoever reaches an accuracy ends the run for all
    for device in devices:
        assert device.ended() == 0, device.notes
    dones = [device.events[-1][1] for device in devices]
    assert {done["status"] for done in dones} == {"ok"}
    assert len({(done["model_sha256"], done["chain"], done["round"]) for done in dones}) == 1, dones
    for device in devices:
        assert device.left_behind() == []
        assert not any("damaged" in line or "cannot be used" in line for _, line in device.notes), device.notes
    print({name: round(median(one[name] for one in took), 2) for name in took[0]}, "medians of", len(took))
    assert max(one["again"] for one in took) <= TRAINING_AGAIN_S, took

"""What an owner keeps to itself: no label and no raw input is in anything that anybody says, while activations are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2pfusion.core.splitting import Ends
from p2pfusion.hops import owning
from p2pfusion.seams import Reply, Request
from p2pfusion.sim.loop import run
from p2pfusion.sim.network import SimTransport
from tests.hops.street import Street, split_of

ROOM = 10**6
INTEGERS = (np.int64, np.int32, np.int16, np.uint8)
FLOATS = (np.float32, np.float64, np.float16)


class Tap:
    """Every body that any device says or answers, and what went through owners' ends."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.paths: set[str] = set()
        self.inputs: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.activations: list[np.ndarray] = []

    def holds(self, needle: bytes) -> bool:
        return any(needle in body for body in self.said)


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    tap, call = Tap(), SimTransport.call

    async def overheard(
        self: SimTransport, address: str, request: Request, *, deadline_s: float, into: memoryview | None = None
    ) -> Reply:
        tap.paths.add(request.path)
        tap.said.append(bytes(request.body))
        reply = await call(self, address, request, deadline_s=deadline_s, into=into)
        tap.said.append(b"".join([bytes(reply.body), *map(bytes, reply.pieces)]))
        return reply

    class Watched(Ends):
        def begin(self, x: torch.Tensor, part: int = 0, parts: int = 1) -> torch.Tensor:
            sent = super().begin(x, part, parts)
            tap.inputs.append(x.numpy().copy())
            tap.activations.append(sent.numpy().copy())
            return sent

        def finish(
            self, activation: torch.Tensor, y: torch.Tensor, part: int = 0, share: float = 1.0
        ) -> tuple[float, torch.Tensor]:
            tap.labels.append(y.numpy().copy())
            return super().finish(activation, y, part, share)

        def evaluate_first(self, x: torch.Tensor) -> torch.Tensor:
            tap.inputs.append(x.numpy().copy())
            return super().evaluate_first(x)

    monkeypatch.setattr(SimTransport, "call", overheard)
    monkeypatch.setattr(owning, "Ends", Watched)
    return tap


def test_no_label_and_no_raw_input_leaves_its_owner(tap: Tap) -> None:
    async def main() -> None:
        async with Street(split_of()) as street:
            for host in (1, 2):
                street.start(host, rounds=2, steps=3)
            for host in (3, 4):
                street.start(host, owns=False, relay_bytes=ROOM)
            await street.owners_done()

    run(main, until_s=1000.0)
    assert {"/v1/hops/forward", "/v1/hops/backward", "/v1/hops/take", "/v1/shards/0/gossip"} <= tap.paths
    assert len(tap.labels) == 12
    assert all(tap.holds(row.tobytes()) for batch in tap.activations for row in batch), "the search finds what is there"
    for batch in tap.inputs:
        for kind in FLOATS:
            assert not any(tap.holds(row.tobytes()) for row in batch.astype(kind))
    for labels in tap.labels:
        for integer in INTEGERS:
            assert not tap.holds(labels.astype(integer).tobytes())
        assert not tap.holds(np.eye(4, dtype=np.float32)[labels].tobytes())


def test_the_search_would_find_a_label_that_was_sent(tap: Tap) -> None:
    labels = np.arange(8) % 4
    tap.said.append(b"in front " + labels.astype(np.int32).tobytes() + b" behind")
    assert tap.holds(labels.astype(np.int32).tobytes())
    assert not tap.holds(labels[::-1].astype(np.int32).tobytes())

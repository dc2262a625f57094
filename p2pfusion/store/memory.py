"""A `Store` in memory: for simulations, and for a node that is meant to leave nothing behind.

It keeps copies, so it behaves as a disk does: nothing the node does to its arrays later changes what was saved. Keep
the object and start another node with it, and that is a restart after a crash; drop it, and it is a new device.
This module knows neither files nor simulators.
"""

from __future__ import annotations

from dataclasses import replace

from p2pfusion.errors import StoreError
from p2pfusion.seams import Body, Checkpoint, Identity
from p2pfusion.store.keeping import to_forget


class MemoryStore:
    """`seams.Store` holding the identity saved last and the checkpoints that a folder would hold."""

    def __init__(self) -> None:
        self._identity: Identity | None = None
        self._checkpoints: list[Checkpoint] = []

    @property
    def place(self) -> str:
        """See `seams.Store.place`."""
        return "memory"

    def load_identity(self) -> Identity | None:
        """The identity last saved, or None when none was."""
        return self._identity

    def save_identity(self, identity: Identity) -> None:
        """Keep it; an `Identity` is immutable."""
        self._identity = identity

    def forget_identity(self) -> None:
        """See `seams.Store.forget_identity`."""
        self._identity = None

    def load_checkpoint(self, run_id: bytes) -> Checkpoint | None:
        """A copy of the checkpoint of that run saved last, or None."""
        for kept in reversed(self._checkpoints):
            if kept.run_id == run_id:
                return _copy(kept)
        return None

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a copy. One of the same run and round takes the place of the one before."""
        run_id, round_ = checkpoint.run_id, checkpoint.round
        others = [kept for kept in reversed(self._checkpoints) if (kept.run_id, kept.round) != (run_id, round_)]
        forgotten = to_forget([kept.run_id for kept in others], run_id)
        older = [kept for index, kept in enumerate(others) if index not in forgotten]
        self._checkpoints = [*reversed(older), _copy(checkpoint)]

    def spill(self, data: Body) -> memoryview:
        """There is no disk here. Raises `StoreError`."""
        raise StoreError("nothing can be moved out of memory without a state folder; give one with --state DIR")


def _copy(checkpoint: Checkpoint) -> Checkpoint:
    return replace(
        checkpoint,
        model={name: values.copy() for name, values in checkpoint.model.items()},
        parts={name: values.copy() for name, values in checkpoint.parts.items()},
    )

"""The store as a node uses it: written in the executor, and when it fails, said once and tried again.

A full disk costs the safety net, never the run: training goes on in memory. An identity still fits now and then where a
checkpoint does not, so an episode lasts until a checkpoint has been written again and nothing else is failing. Nothing
is tried but what is written anyway, and always from memory anew (RELIABILITY.md D4).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint, Compute, Identity, Store


class Disk:
    """One node's store, with one warning per episode of trouble."""

    def __init__(self, store: Store, compute: Compute, warn: Callable[[str, str], None]) -> None:
        self._store = store
        self._compute = compute
        self._warn = warn
        self._failing: dict[str, None] = {}
        self.is_in_trouble = False

    async def save_identity(self, identity: Identity) -> bool:
        """False when it could not be written. Then none is left: who starts here next has not heard of the rounds
        published meanwhile, and must be a new peer (PROTOCOL.md 2).
        """

        def work() -> None:
            try:
                self._store.save_identity(identity)
            except StoreError:
                with suppress(StoreError):
                    self._store.forget_identity()
                raise

        return await self._written("identity", work)

    async def save_checkpoint(self, make: Callable[[], Checkpoint]) -> bool:
        """Make it and write it, both in the executor; False when that failed."""
        return await self._written("checkpoint", lambda: self._store.save_checkpoint(make()))

    async def _written(self, kind: str, work: Callable[[], None]) -> bool:
        try:
            await self._compute.run(work, lane="fold")
        except StoreError as error:
            self.failed(kind, f"{error}")
            return False
        self._failing.pop(kind, None)
        if self.is_in_trouble and kind == "checkpoint" and not self._failing:
            self.is_in_trouble = False
            self._warn("store-recovered", f"{self._store.place} can be written again: a restart loses nothing")
        return True

    def failed(self, kind: str, text: str) -> None:
        """This kind of file could not be read or written; told when all was well before."""
        if not self.is_in_trouble:
            self._warn("store", f"{text}; training goes on in memory")
        self.is_in_trouble, self._failing[kind] = True, None

"""Keeping the ledger's payloads within bounds (PROTOCOL.md 6): the oldest go to disk, or sealed rounds are let go.

Payloads on disk are read through a view of the file, so fold, fetch and serve never know. What was let go of is a 404
to a joiner, who then takes a newer snapshot. When even that is not enough, new work of others is not taken in until the
tip has followed, and a warning says so once. A task of the node; it decides nothing about rounds.
"""

from __future__ import annotations

from functools import partial

from p2pfusion.errors import StoreError
from p2pfusion.node.state import State
from p2pfusion.swarm.ledger import Entry

HARD_SHARE = 2
"""New open work is refused when payloads take this many times `ledger_bytes_max`: room for one round under way."""


class Memory:
    """Watches `ledger.held_bytes`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._has_disk = True

    async def run(self) -> None:
        state = self._state
        while True:
            await state.bells["memory"].wait(state.config.gossip.gossip_interval_s)
            await self._shrink()

    async def _shrink(self) -> None:
        state, ledger, bytes_max = self._state, self._state.ledger, self._state.config.ledger_bytes_max
        self._has_disk = True  # a full disk may have room again: each time it is tried once
        while ledger.held_bytes > bytes_max and (entry := self._oldest()) is not None:
            if not (self._has_disk and await self._spill(entry)):
                break
        self._forget_sealed(bytes_max)
        was_full, state.is_full = state.is_full, ledger.held_bytes > HARD_SHARE * bytes_max
        if state.is_full and not was_full:
            state.warn(
                "memory-full",
                f"contributions take {ledger.held_bytes >> 20} MiB and no disk takes them: others' new work waits "
                "until rounds are sealed; free some disk space, or raise ledger_bytes_max",
            )

    def _forget_sealed(self, bytes_max: int) -> None:
        """Let sealed rounds go, the oldest first, with my own work in them: that matters only if the chain changes its
        mind about it, and then it is told.
        """
        ledger = self._state.ledger
        mine = {entry.manifest.round: entry for entry in ledger.pinned.values()}
        for round_ in sorted({*ledger.sealed_rounds(), *(r for r in mine if r <= ledger.tip.round)}):
            if ledger.held_bytes <= bytes_max:
                return
            ledger.forget_payloads(round_)
            if round_ in mine:
                ledger.unpin(mine[round_].id)

    def _oldest(self) -> Entry | None:
        """The complete contribution of the lowest round that is still in memory."""
        held = [e for e in self._state.ledger.held() if e.is_complete and e.held_bytes]
        return min(held, key=lambda entry: (entry.manifest.round, entry.id), default=None)

    async def _spill(self, entry: Entry) -> bool:
        """Move one contribution's segments to disk; False when the disk does not take them."""
        state = self._state
        for index, segment in entry.in_memory():
            try:
                kept = await state.doors.compute.run(partial(state.doors.store.spill, segment), lane="fold")
            except StoreError:
                self._has_disk = False
                return False
            state.ledger.spilled(entry, index, kept)
        return True

"""Nodes of another run under our swarm's name: what differs is said, and the lesser of two runs goes (PROTOCOL.md 1).

Part of the talking task: `node.gossiping` brings the refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from p2pfusion.errors import Refused
from p2pfusion.node.state import State
from p2pfusion.seams import Reply
from p2pfusion.wire.codec import decode_run
from p2pfusion.wire.description import first_difference
from p2pfusion.wire.messages import PeerId, RunDescription

FOREIGN_MAX = 64
"""Nodes of other runs that are warned about, once each."""


class Foreign:
    """Knows what run this is."""

    def __init__(self, state: State, refuse: Callable[[Refused], None]) -> None:
        """`refuse` is called when we are the ones to go."""
        self._state = state
        self._refuse = refuse
        self._warned: dict[PeerId, None] = {}

    def description(self) -> RunDescription:
        """My run, for whoever came with another."""
        state = self._state
        return replace(state.described, members=len(state.membership.live()) + 1, newest=state.ledger.newest)

    def met(self, reply: Reply) -> None:
        """We met a swarm of our name that is another run: who has not begun and has less to lose goes, and says why.

        Raises `WireError`.
        """
        state, mine, theirs = self._state, self.description(), decode_run(reply.body)
        difference = first_difference(mine, theirs) or "another run"
        text = (
            f"the swarm {state.config.run.swarm!r} runs something else: {difference}. "
            "Use the others' task, algorithm, common width, seed and settings, or choose another --swarm NAME"
        )
        if state.role != "syncing":
            if theirs.sender not in self._warned and len(self._warned) < FOREIGN_MAX:
                self._warned[theirs.sender] = None
                state.warn("other-run", text)
        elif (theirs.newest, theirs.members, theirs.sender) > (mine.newest, mine.members, mine.sender):
            self._refuse(Refused(text))

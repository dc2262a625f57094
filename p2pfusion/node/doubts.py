"""What a restarted node cannot know yet: which of its last rounds reached others before it stopped.

A checkpoint is older than the last contributions. One of them may come back from others, and then it carried the
residual that the checkpoint still holds: given out again it would count twice. So that residual is held back until the
rounds in question are sealed, and whatever of mine is found in them takes its share away (PROTOCOL.md 5).
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pfusion.core.submodel import Vector
from p2pfusion.swarm.ledger import Entry, Ledger


@dataclass(slots=True)
class Doubts:
    """`rounds`, ascending, that I may have published to after my checkpoint; `residual` is what it held."""

    rounds: tuple[int, ...]
    residual: Vector

    def look(self, ledger: Ledger) -> list[Entry] | None:
        """My own work in these rounds as far as it is here; those that are sealed are no longer in doubt.

        None when a sealed one is gone with its contents, so that nobody can tell any more.
        """
        found: list[Entry] = []
        for round_ in self.rounds:
            entries = ledger.counted(round_) if round_ > ledger.tip.round else ledger.sealed_entries(round_)
            if entries is None:
                return None
            found += [e for e in entries if e.manifest.peer == ledger.me and e.manifest.kind == "work"]
        self.rounds = tuple(round_ for round_ in self.rounds if round_ > ledger.tip.round)
        return found

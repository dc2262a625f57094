"""What a relay remembers of an owner that sits there, and what it has to do for it in which order.

Data; `relaying` decides and acts. Knows no queue, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from p2pfusion.core.splitting import Copy
from p2pfusion.wire.hops import Passage, Take

Doing = Literal["forward", "backward", "step", "end", "drop"]
FIRST: Mapping[Doing, int] = {"drop": 0, "backward": 0, "forward": 1, "end": 1, "step": 2}
"""What is done first where several things wait: the way back, for somebody waits for it who then has the next batch;
steps last, for nobody waits for them. A copy's step is made before anything else happens to it in any case."""


@dataclass(slots=True)
class Seat:
    """One owner at this relay: what it asked for, its copy once a batch has come, how it stands."""

    take: Take
    heard_s: float
    copy: Copy | None = None
    numbers: tuple[int, ...] = ()
    """Which rounds of its shards the copy belongs to (`openings.Start`)."""
    samples: int = 0
    """What the copy has learnt from in this round."""
    batch: int = 0
    """Samples of the batch under way."""
    is_queued: bool = False
    """A batch of its waits or is computed."""
    parked: Job | None = None
    """A batch that waits for its shards' rounds to open."""
    is_ending: bool = False
    """What its copy learnt is about to be handed in."""
    is_dropping: bool = False
    """What its copy keeps of a batch is about to be dropped."""
    is_stepping: bool = False
    """A step of its copy waits: never more than one, however long it is overtaken."""
    forwarded: int = 0
    """Number of the newest batch that came forward; an owner's numbers rise."""
    returned: int = 0
    """The same of those that came back."""

    @property
    def shards(self) -> range:
        return range(self.take.first, self.take.last + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Something to do with a seat's copy."""

    seat: Seat
    doing: Doing
    passage: Passage | None = None

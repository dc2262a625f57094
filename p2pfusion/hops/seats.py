"""What a relay remembers of an owner that sits there, what it has to do for it in which order, and what it counts.

Data; `relaying` decides and acts. Knows no queue, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from p2pfusion.core.splitting import Copy
from p2pfusion.wire.hops import Passage, Take

Doing = Literal["forward", "backward", "step", "end", "drop"]
FIRST: Mapping[Doing, int] = {"drop": 0, "backward": 0, "forward": 1, "end": 1, "step": 2}
"""What is done first where several things wait: the way back, for somebody waits for it who then has the next batch;
steps last, for nobody waits for them. A copy's step is made before anything else happens to it in any case."""


@dataclass(slots=True)
class Seen:
    """The newest batch that came one way, by number (an owner's rise), and which micro-batches of it."""

    batch: int = 0
    parts: set[int] = field(default_factory=set)

    def add(self, passage: Passage) -> None:
        if passage.batch != self.batch:
            self.batch, self.parts = passage.batch, set()
        self.parts.add(passage.part)

    def has(self, passage: Passage) -> bool:
        """Whether it came before."""
        return passage.batch == self.batch and passage.part in self.parts


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
    """Samples of the batch under way, as far as they came forward."""
    batch_number: int = 0
    """Which batch that is."""
    queued: int = 0
    """Micro-batches of its that wait or are computed."""
    parked: list[Job] = field(default_factory=list)
    """What waits for its shards' rounds to open."""
    is_ending: bool = False
    """What its copy learnt is about to be handed in."""
    is_leaving: bool = False
    """Its owner goes as soon as that is done."""
    is_dropping: bool = False
    """What its copy keeps of a batch is about to be dropped."""
    is_stepping: bool = False
    """A step of its copy waits: never more than one, however long it is overtaken."""
    forwarded: Seen = field(default_factory=lambda: Seen())
    """What came forward."""
    returned: Seen = field(default_factory=lambda: Seen())
    """What came back."""

    @property
    def ends(self) -> tuple[int, int]:
        """Its first and last shard."""
        return self.take.first, self.take.last

    @property
    def shards(self) -> range:
        return range(self.take.first, self.take.last + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Something to do with a seat's copy."""

    seat: Seat
    doing: Doing
    passage: Passage | None = None


@dataclass(slots=True)
class Figures:
    """What a relay did, for reports."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    batches: int = 0
    copies_most: int = 0
    taken_bytes_most: int = 0
    """Of all seats together, as planned; a stage may be larger while another relay is not here yet."""
    stage: tuple[int, int] | None = None
    """First and last shard of the stage that was asked for last."""
    failures: int = 0
    lost: int = 0
    """Owners that were gone, or went through others."""

"""How large a slice a device trains and where, decided from what a step costs. Pure: numbers in, a choice out.

The rule: the largest rate whose round fits `ROUND_WANTED_S` and whose training fits `MEMORY_SHARE` of the free memory;
where none does, the smallest. Of several places the one that can train the largest rate, then the fastest. Nobody
measures here, and nobody knows torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from p2pfusion.core.footprint import Load, training_bytes

RATES = (0.125, 0.25, 0.5, 1.0)
"""What `--slice auto` chooses from, and `check` shows. Below 1/8 a slice of the usual widths is a handful of units and
no longer saves time: a step's fixed costs remain."""
ROUND_WANTED_S = 5.0
"""A round's training takes at most about this long. The swarm waits for three quarters of its members, and who is much
slower takes fewer steps (`swarm.pace`): rounds of a few seconds keep everybody's work fresh, and the exchange, which
takes tenths of a second on a LAN, stays a small part of them."""
MEMORY_SHARE = 0.5
"""Of the free memory. The other half is for what does not shrink with a slice, the replica and the ledger, for the
working space of single operations, which is not counted, and for whatever else the computer does meanwhile."""
AUTOCAST_GAIN = 1.2
"""A lower precision must be this many times as fast, or float32 stays: it costs digits, and measuring is noisy."""

Limit = Literal["time", "memory"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step of a slice costs: seconds, what is trained, and the bytes that a batch takes.

    `is_measured`: else predicted from a smaller slice, which gives upper limits.
    """

    seconds: float
    load: Load
    batch_bytes: int
    is_measured: bool = True

    @property
    def needed_bytes(self) -> int:
        """Memory while it trains."""
        return training_bytes(self.load, self.batch_bytes)


def predicted(step: Step, factor: float, load: Load) -> Step:
    """At most what a step costs at `factor` (1 or more) times the width and with that load.

    A layer's arithmetic grows with its inputs times its outputs, what a batch takes with its outputs alone.
    """
    return Step(step.seconds * factor**2, load, round(step.batch_bytes * factor), is_measured=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a slice must fit: a round's steps in `round_s`, its memory in a share of what is free (None: unknown)."""

    steps: int
    free_bytes: int | None
    round_s: float = ROUND_WANTED_S

    def limit(self, step: Step) -> Limit | None:
        """Which of the two this step breaks, memory first; None: it fits."""
        if not self.has_room(step):
            return "memory"
        return "time" if self.steps * step.seconds > self.round_s else None

    def has_room(self, step: Step) -> bool:
        """Whether its memory fits, as far as is known."""
        return self.free_bytes is None or step.needed_bytes <= MEMORY_SHARE * self.free_bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """A rate, what a step of it costs, and whether it fits; it is the smallest if it does not.

    `limit` says what is too large: of the rate itself if it does not fit, else of `larger`, the next one; or None.
    """

    rate: float
    step: Step
    fits: bool
    limit: Limit | None = None
    larger: tuple[float, Step] | None = None


def choose_rate(costs: Mapping[float, Step], wanted: Wanted) -> Choice:
    """The largest rate that fits, of those whose costs are given; the smallest if none does. Raises `ValueError`."""
    if not costs:
        raise ValueError("there is no rate to choose from")
    fitting = [rate for rate in costs if wanted.limit(costs[rate]) is None]
    if not fitting:
        rate = min(costs)
        return Choice(rate, costs[rate], False, wanted.limit(costs[rate]))
    rate = max(fitting)
    above = min((other for other in costs if other > rate), default=None)
    if above is None:
        return Choice(rate, costs[rate], True)
    return Choice(rate, costs[rate], True, wanted.limit(costs[above]), (above, costs[above]))


@dataclass(frozen=True, slots=True)
class Option:
    """One place to train at: what would be chosen there, and whether it computes in a lower precision."""

    choice: Choice
    is_autocast: bool = False


def best(options: Sequence[Option]) -> int:
    """Which option fits, trains the largest slice, is the fastest; the first of equals. Raises `ValueError`."""
    if not options:
        raise ValueError("there is no place to train at")

    def rank(index: int) -> tuple[bool, float, float]:
        choice, handicap = options[index].choice, AUTOCAST_GAIN if options[index].is_autocast else 1.0
        return not choice.fits, -choice.rate, handicap * choice.step.seconds

    return min(range(len(options)), key=rank)

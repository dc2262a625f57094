"""How much of the model had been trained by each round: from traces to a line each for scalars, units and pairs.

Of each run counts what the node said that had seen most by then; a line is the mean over the runs, with the least and
the greatest. Runs in which everybody trained the whole model are left out: they have nothing to show. It draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from types import MappingProxyType

COVERED = MappingProxyType({"units": "covered_units", "scalars": "covered", "pairs": "covered_pairs"})
"""What a line is called -> the field of a round in the trace, as a rule from the greatest share to the least."""
Course = list[tuple[float, ...]]
"""One run: by round from 1, the shares of `COVERED` in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One share, 0..1, after rounds 1, 2, 3, ...; the three lists are equally long."""

    label: str
    means: Sequence[float]
    least: Sequence[float]
    greatest: Sequence[float]


def growths(traces: Iterable[str]) -> list[Growth]:
    """A line for each of `COVERED`; none where nobody sliced. A run that is over stays as it ended."""
    courses = [course for trace in traces if (course := _course(trace))]
    rounds = max(map(len, courses), default=0)
    by_round = [[course[min(index, len(course) - 1)] for course in courses] for index in range(rounds)]
    return [
        Growth(
            label=label,
            means=[fmean(shares[place] for shares in runs) for runs in by_round],
            least=[min(shares[place] for shares in runs) for runs in by_round],
            greatest=[max(shares[place] for shares in runs) for runs in by_round],
        )
        for place, label in enumerate(COVERED if courses else ())
    ]


def _course(trace: str) -> Course:
    """Of one run; nothing if nobody sliced."""
    none = tuple(0.0 for _ in COVERED)
    told: dict[int, tuple[float, ...]] = {}
    is_sliced = False
    for line in trace.splitlines():
        event = json.loads(line)
        if event["event"] == "round":
            is_sliced = is_sliced or event["share"] < 1
            shares = tuple(event[name] for name in COVERED.values())
            told[event["round"]] = _greater(told.get(event["round"], none), shares)
    if not is_sliced:
        return []
    return list(accumulate((told.get(round_, none) for round_ in range(1, max(told) + 1)), _greater))


def _greater(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(max, one, other))

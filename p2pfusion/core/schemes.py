"""Split schemes: who trains which sub-model in which round. `(blueprint, seat, rng) -> SubModel`.

Peers need not agree on a plan: every contribution declares its sub-model, so a scheme may use whatever it knows of the
view, and disagreement costs overlap, never correctness. All window arithmetic is in *units* of an axis (whole
normalisation groups, whole heads), with MSfusion's letters: K units, window n, gap g, shift zeta.

Sources: PAPERS.md 1.2 (double shift), 1.3 (overlap schedule), 1.10 (phase), 4.1 to 4.3 (static, rolling, random). This
module does not know training, the wire, or how a seat came about.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from p2pfusion.config import RANGES_PER_AXIS_MAX
from p2pfusion.core.blueprint import Axis, Blueprint, units_kept
from p2pfusion.core.submodel import SubModel

ZETA = 1
"""MSfusion's shift per round, in units."""
HORIZON_ROUNDS = 200
"""Length of the overlap schedule where a run is open-ended (PAPERS.md 1.3)."""
LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""HeteroFL's rates, a to e (PAPERS.md 4.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A place in a round: `rank` among `peers` sorted by id, the round's index, and the rate of every rank.

    Others' rates are as far as known: they shape gaps and nothing else.
    """

    rank: int
    peers: int
    round: int
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.peers or len(self.rates) != self.peers or self.round < 0:
            raise ValueError(f"{self}: needs 0 <= rank < peers, one rate per peer and a round >= 0")
        if not all(0 < rate <= 1 for rate in self.rates):
            raise ValueError(f"{self}: every rate must be above 0 and at most 1")


Scheme = Callable[[Blueprint, Seat, random.Random], SubModel]
Schedule = Callable[[int], float]
"""Round -> overlap control parameter c, 0 <= c < 1."""
GapPolicy = Literal["overlap", "equidistant"]
"""What sets neighbours apart: the overlap wanted, or an equal share of the axis."""
Phase = Literal["aligned", "slip"]
"""Whether a peer's windows start at the same place of every axis."""


def full() -> Scheme:
    """Everybody trains everything, whatever the rate: federated averaging."""

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        return blueprint.whole()

    return scheme


def static() -> Scheme:
    """The first n units of every axis, every round. Source: HeteroFL, PAPERS.md 4.1."""

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        return _windows(blueprint, seat, lambda axis: 0)

    return scheme


def rolling() -> Scheme:
    """A window of n units that moves on by one each round, the same start for everybody.

    Source: FedRolex, PAPERS.md 4.2, paper form; its released code moves downward.
    """

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        return _windows(blueprint, seat, lambda axis: seat.round)

    return scheme


def dynamic(scheme: Scheme) -> Scheme:
    """That scheme at a rate drawn anew each round: of the levels up to the device's own, all equally likely.

    Round 0, which probes play and swarms do not, is at its own: what is measured is the most that it will take. Source:
    HeteroFL's and FedRolex's *dynamic* runs, PAPERS.md 4.1 and 4.2; there any device may draw any level.
    """

    def drawn(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        own = seat.rates[seat.rank]
        rate = rng.choice([own, *(level for level in LEVELS if level < own)]) if seat.round else own
        rates = (*seat.rates[: seat.rank], rate, *seat.rates[seat.rank + 1 :])
        return scheme(blueprint, replace(seat, rates=rates), rng)

    return drawn


def run_of(units: int) -> int:
    """Units of an axis of so many that a scheme which chooses freely must keep or leave together, side by side.

    1 up to 1,024 of them, else more: no choice has more ranges than the wire takes (`RANGES_PER_AXIS_MAX`).
    """
    return -(-units // (2 * RANGES_PER_AXIS_MAX))


def random_dropout() -> Scheme:
    """n random units, drawn once per axis, so that a residual stream keeps one list. Source: PAPERS.md 4.3.

    An axis of more than 1,024 units is drawn in runs of neighbours (`run_of`).
    """

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        kept = {}
        for axis in blueprint.axes:
            count = units_kept(seat.rates[seat.rank], axis.units)
            run = run_of(axis.units)
            starts = list(range(0, axis.units, run))
            rng.shuffle(starts)
            units = [unit for start in starts for unit in range(start, min(start + run, axis.units))][:count]
            kept[axis.name] = [(unit * axis.unit, (unit + 1) * axis.unit) for unit in units]
        return SubModel.of(blueprint, kept)

    return scheme


def double_shift(overlap: Schedule | None = None, *, gaps: GapPolicy = "overlap", phase: Phase = "aligned") -> Scheme:
    """MSfusion's double shift: a gap between neighbours by rank, a shift by one each round, wrap-around.

    `overlap` gives c per round; None is the cosine schedule from 0.5 to 0 over 200 rounds. c = 0 puts neighbours side
    by side (coverage), c near 1 puts them on the same units (agreement). Source: PAPERS.md 1.2 (the gap is our
    choice) and 1.3. `gaps="equidistant"` spreads the starts evenly instead (rank / peers of the axis, whatever c and
    the rates say): RAM-Fed in Co-S2P's repository, PAPERS.md 1.2.

    `phase="aligned"` starts a peer's windows at the same place of every axis, as FedRolex does; of two axes of K units
    only (2n - 1) / K of the pairs ever train together. `phase="slip"` (our extension, PAPERS.md 1.10) lets them slip
    against each other by a window whenever a gap has been walked, for all peers alike, so gaps and overlaps stay.
    Raises `ValueError` for other words.
    """
    if gaps not in get_args(GapPolicy) or phase not in get_args(Phase):
        raise ValueError(f"gaps = {gaps!r}, phase = {phase!r}: choose of {get_args(GapPolicy)}, {get_args(Phase)}")
    schedule = cosine() if overlap is None else overlap

    def scheme(blueprint: Blueprint, seat: Seat, rng: random.Random) -> SubModel:
        c = schedule(seat.round)
        numbers = phase_numbers(blueprint) if phase == "slip" else {}

        def start(axis: Axis) -> int:
            offsets = _offsets(axis.units, seat, c, gaps)
            slipped = _slipped(numbers.get(axis.name, 0), axis.units, seat, offsets)
            return ZETA * seat.round + offsets[seat.rank] + slipped

        return _windows(blueprint, seat, start)

    return scheme


def constant(c: float) -> Schedule:
    """The same overlap in every round. Raises `ValueError` unless 0 <= c < 1."""
    _check_overlap(c)
    return lambda round_index: c


def cosine(start: float = 0.5, end: float = 0.0, rounds: int = HORIZON_ROUNDS) -> Schedule:
    """From `start` in round 0 to `end` in round `rounds - 1` along half a cosine, then `end`. Source: PAPERS.md 1.3."""
    _check_overlap(start)
    _check_overlap(end)
    last = max(1, rounds - 1)

    def schedule(round_index: int) -> float:
        done = min(round_index, last) / last
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))

    return schedule


def sigmoid(start: float = 0.5, end: float = 0.0, rounds: int = HORIZON_ROUNDS) -> Schedule:
    """As `cosine`, along a logistic curve: longer at `start`, longer at `end`, faster between.

    The curve runs from -6 to 6 and is stretched so that the ends are exact. Ours: the paper's own schedule, of this
    kind as far as is remembered, was not available (PAPERS.md 1.3).
    """
    _check_overlap(start)
    _check_overlap(end)
    last, steep = max(1, rounds - 1), 6.0

    def schedule(round_index: int) -> float:
        done = min(round_index, last) / last
        # tanh(x / 2) = 2 * logistic(x) - 1, and odd: both ends come out exact.
        return end + (start - end) * 0.5 * (1 - math.tanh(steep * (done - 0.5)) / math.tanh(steep / 2))

    return schedule


def gap(left: int, right: int, c: float) -> int:
    """Units between the starts of two neighbours whose windows are `left` and `right` long (PAPERS.md 1.2)."""
    return max(1, math.floor((1 - c) * min(left, right) + 0.5))


def phase_numbers(blueprint: Blueprint) -> dict[str, int]:
    """Axis -> 0, 1, 2 ...: different for any two that meet in a parameter, 0 for those that meet most others.

    A residual stream meets all that read or write it, so it keeps 0, and the layers inside blocks get 1 (PAPERS.md
    1.10); consecutive layers without a stream alternate. Follows from the declaration alone: a greedy colouring.
    """
    met: dict[str, dict[str, None]] = {axis.name: {} for axis in blueprint.axes}
    for parameter in blueprint.parameters:
        names = dict.fromkeys(dim.axis for dim in parameter.dims if dim.axis is not None)
        for name in names:
            met[name].update(dict.fromkeys(other for other in names if other != name))
    numbers: dict[str, int] = {}
    for name in sorted(met, key=lambda name: -len(met[name])):
        taken = [numbers[other] for other in met[name] if other in numbers]
        numbers[name] = next(number for number in itertools.count() if number not in taken)
    return numbers


def rate_of(blueprint: Blueprint, sub_model: SubModel) -> float:
    """The rate that a slice shows, 0..1: the smallest share of units kept of any axis.

    Its windows are as long as those of the rate that it was cut with, on every axis: each share is that rate rounded
    up to whole units, so the smallest is nearest.
    """
    sizes = {axis.name: axis.size for axis in blueprint.axes}
    widths = [(name, sum(stop - start for start, stop in ranges)) for name, ranges in sub_model.kept]
    return min((width / sizes[name] for name, width in widths), default=1.0)


def _offsets(units: int, seat: Seat, c: float, gaps: GapPolicy) -> list[int]:
    """Where each rank's window starts, before any shift."""
    if gaps == "equidistant":
        return [rank * units // seat.peers for rank in range(seat.peers)]
    lengths = [units_kept(rate, units) for rate in seat.rates]
    steps = [gap(left, right, c) for left, right in itertools.pairwise(lengths)]
    return list(itertools.accumulate(steps, initial=0))


def _slipped(number: int, units: int, seat: Seat, offsets: list[int]) -> int:
    """How far an axis with this phase number has slipped; the same for every rank.

    By the shortest window each time the smallest gap has been walked. Number 2 slips half as fast as 1, and so on: so
    it slips against both 0 and 1.
    """
    if not number:
        return 0
    window = units_kept(min(seat.rates), units)
    walk = min((b - a for a, b in itertools.pairwise(offsets)), default=window)
    return (window * (seat.round // max(1, walk // ZETA))) >> (number - 1)


def _windows(blueprint: Blueprint, seat: Seat, start: Callable[[Axis], int]) -> SubModel:
    rate = seat.rates[seat.rank]
    return SubModel.of(blueprint, {axis.name: _window(axis, start(axis), rate) for axis in blueprint.axes})


def _window(axis: Axis, start: int, rate: float) -> list[tuple[int, int]]:
    """The window as one range of indices, or two where it wraps."""
    units = axis.units
    first, count = start % units, units_kept(rate, units)
    pieces = [(first, min(first + count, units))]
    if first + count > units:
        pieces.append((0, first + count - units))
    return [(a * axis.unit, b * axis.unit) for a, b in pieces]


def _check_overlap(c: float) -> None:
    if not 0 <= c < 1:
        raise ValueError(f"overlap = {c!r}: must be at least 0 and below 1")

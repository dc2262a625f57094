"""Which elements of a target are which of several other sub-models', cut so that whoever walks over them can go fast.

A *block* is a number of rows of the target's flat vector, all of which the same sub-models share in the same places: a
fold then needs one row of weight sums for all its rows, may cut it into chunks that stay in the processor's cache, and
asks every contribution for one range of its values at a time, in ascending order. Where all hold everything, whole
parameters and then the whole model become one block of rows of one element.

Small parameters, and those that a random scheme cuts into very many cells, become blocks without rows, whose every
element has a weight sum of its own.

Pure index arithmetic on sub-models: no values, no weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from p2pfusion.core.blueprint import Blueprint, Parameter
from p2pfusion.core.overlaps import RECTANGLES_MAX, Common, Cut, Runs, common, rectangles
from p2pfusion.core.submodel import SubModel, layout

CHUNK_ELEMENTS = 1 << 16
"""Elements that are worked on at a time: their sums, what is added to them and what it is read from stay in the second
cache of one core (3 x 256 KiB). Half and twice as many are as fast, an eighth takes half as long again."""
SMALL_ELEMENTS = 1 << 13
"""Parameters up to this size are not cut: walking over their cells would cost more than adding up their weights."""
BANDS_MAX = 64
"""Row ranges with the same holders that one parameter is cut into at most; windows of 16 peers make 32 or so. Where a
random scheme makes more, rows are taken in chunks and every element's weight is summed by itself."""

Shape = tuple[int, ...]


class Part(NamedTuple):
    """What one sub-model shares of a block: of each row these rectangles, (where in the target's, where in theirs).

    `start` is where its first row begins in its own flat vector, `shape` that of one of its rows. `is_whole`: a row of
    the target is a row of its own. `is_gathered`: the rectangles are index arrays, which give copies and not views.

    A named tuple, as `Block`: a simulation makes thousands a second.
    """

    item: int
    start: int
    shape: Shape
    cuts: Sequence[Cut]
    is_whole: bool
    is_gathered: bool


class Block(NamedTuple):
    """`rows` rows of the target from element `start` on, each of `shape`; rows None: one, without a dimension of it."""

    start: int
    rows: int | None
    shape: Shape
    parts: tuple[Part, ...]

    def chunks(self) -> Iterable[tuple[int, int]]:
        """Ranges of rows, each small enough for the cache, of the target and of everybody."""
        if self.rows is None:
            return ((0, 1),)
        widest = max(math.prod(self.shape), *(math.prod(part.shape) for part in self.parts))
        step = max(1, CHUNK_ELEMENTS // widest)
        return ((first, min(first + step, self.rows)) for first in range(0, self.rows, step))


class _Share(NamedTuple):
    """One sub-model's side of a strip: where it begins, its extents, and per dimension what is shared."""

    item: int
    start: int
    lengths: Shape
    runs: tuple[Runs, ...]


class _Strip(NamedTuple):
    """One large parameter, or several that lie behind one another, with dimensions merged where nobody cuts."""

    start: int
    lengths: Shape
    shares: tuple[_Share, ...]

    @property
    def is_plain(self) -> bool:
        """Everybody here holds all of it."""
        everything = (_all_of(self.lengths[0]),)
        return len(self.lengths) == 1 and all(
            share.lengths == self.lengths and share.runs == everything for share in self.shares
        )


def cut(blueprint: Blueprint, target: SubModel, others: Sequence[SubModel]) -> Iterator[Block]:
    """What the target shares with the others, in ascending order of its elements. What is in no block nobody shares."""
    if not others:
        return
    if all(other == target for other in others):
        size = target.size(blueprint)
        yield _plain(_Strip(0, (size,), tuple(_Share(n, 0, (size,), (_all_of(size),)) for n in range(len(others)))))
        return
    theirs = [(common(blueprint, target, other), layout(blueprint, other)) for other in others]
    mine = layout(blueprint, target)
    waiting: _Strip | None = None
    for parameter in blueprint.parameters:
        place = mine.get(parameter.name)
        if place is None:
            continue
        start, lengths = place[0].start, place[1] or (1,)
        if place[0].stop - start <= SMALL_ELEMENTS and waiting is None:
            parts = tuple(_parts(parameter, theirs))
            if parts:
                yield Block(start, None, lengths, parts)
            continue
        strip = _merged(_Strip(start, lengths, tuple(_shares(parameter, theirs))))
        if waiting is not None and _follows(waiting, strip):
            waiting = _joined(waiting, strip)
            continue
        if waiting is not None:
            yield _plain(waiting)
            waiting = None
        if strip.shares and strip.is_plain:
            waiting = strip
        else:
            yield from _blocks(strip)
    if waiting is not None:
        yield _plain(waiting)


# -- small parameters -------------------------------------------------------------------------------------------------

_Theirs = Sequence[tuple[Common, "dict[str, tuple[slice, Shape]]"]]


def _parts(parameter: Parameter, theirs: _Theirs) -> Iterator[Part]:
    for item, (shared, places) in enumerate(theirs):
        place = places.get(parameter.name)
        if place is not None:
            match = shared.match(parameter)
            if match.cuts:
                yield Part(item, place[0].start, place[1] or (1,), match.cuts, match.is_whole, match.is_gathered)


# -- large ones: parameters to strips ---------------------------------------------------------------------------------


def _shares(parameter: Parameter, theirs: _Theirs) -> Iterator[_Share]:
    for item, (shared, places) in enumerate(theirs):
        place = places.get(parameter.name)
        if place is not None:
            runs = shared.runs_of(parameter)
            if all(runs):
                yield _Share(item, place[0].start, place[1] or (1,), tuple(runs) or (_all_of(1),))


def _merged(strip: _Strip) -> _Strip:
    """Dimensions that nobody cuts become one with the dimension before them."""
    lengths, shares = list(strip.lengths), [(list(share.lengths), list(share.runs)) for share in strip.shares]
    for dim in reversed(range(len(lengths) - 1)):
        tail = lengths[dim + 1]
        if all(theirs[dim + 1] == tail and runs[dim + 1] == _all_of(tail) for theirs, runs in shares):
            lengths[dim : dim + 2] = [lengths[dim] * tail]
            for theirs, runs in shares:
                theirs[dim : dim + 2] = [theirs[dim] * tail]
                runs[dim : dim + 2] = [tuple((a * tail, b * tail, n * tail) for a, b, n in runs[dim])]
    merged = tuple(
        share._replace(lengths=tuple(theirs), runs=tuple(runs))
        for share, (theirs, runs) in zip(strip.shares, shares, strict=True)
    )
    return _Strip(strip.start, tuple(lengths), merged)


def _follows(one: _Strip, other: _Strip) -> bool:
    """Whether everybody who holds all of the one holds all of the other, right behind it."""
    size = one.lengths[0]
    return (
        other.is_plain
        and one.start + size == other.start
        and [(share.item, share.start + size) for share in one.shares] == [(s.item, s.start) for s in other.shares]
    )


def _joined(one: _Strip, other: _Strip) -> _Strip:
    size = one.lengths[0] + other.lengths[0]
    shares = tuple(share._replace(lengths=(size,), runs=(_all_of(size),)) for share in one.shares)
    return _Strip(one.start, (size,), shares)


def _all_of(length: int) -> Runs:
    return ((0, 0, length),)


# -- strips to blocks -------------------------------------------------------------------------------------------------


def _plain(strip: _Strip) -> Block:
    everything: Cut = ((slice(None),), (slice(None),))
    parts = (Part(share.item, share.start, (), (everything,), True, False) for share in strip.shares)
    return Block(strip.start, strip.lengths[0], (), tuple(parts))


def _blocks(strip: _Strip) -> Iterator[Block]:
    """Cut along the first dimension whose rows fit a chunk; each index of the dimensions before it by itself."""
    if not strip.shares:
        return
    dim, row = len(strip.lengths) - 1, 1
    while dim > 0 and row * strip.lengths[dim] <= CHUNK_ELEMENTS:
        row *= strip.lengths[dim]
        dim -= 1
    stride = row * strip.lengths[dim]
    for number, before in enumerate(itertools.product(*map(range, strip.lengths[:dim]))):
        shares = tuple(share for one in strip.shares if (share := _at(one, before)) is not None)
        yield from _banded(_Strip(strip.start + number * stride, strip.lengths[dim:], shares))


def _at(share: _Share, before: Shape) -> _Share | None:
    """A share at one index of the first dimensions, if it has it."""
    index = 0
    for place, length, runs in zip(before, share.lengths, share.runs, strict=False):
        there = _find(runs, place)
        if there is None:
            return None
        index = index * length + there
    rest = share.lengths[len(before) :]
    return _Share(share.item, share.start + index * math.prod(rest), rest, share.runs[len(before) :])


def _find(runs: Runs, place: int) -> int | None:
    """Where an index of the target is in theirs."""
    return next((there + place - here for here, there, length in runs if here <= place < here + length), None)


def _banded(strip: _Strip) -> Iterator[Block]:
    """Rows in ranges that the same sub-models hold."""
    borders = {0, strip.lengths[0]}
    for share in strip.shares:
        borders.update(border for here, _, length in share.runs[0] for border in (here, here + length))
    rectangles_most = max((math.prod(map(len, share.runs[1:])) for share in strip.shares), default=0)
    if len(borders) > BANDS_MAX + 1 or rectangles_most > RECTANGLES_MAX:
        yield from _loose(strip)
        return
    shape, row = strip.lengths[1:], math.prod(strip.lengths[1:])
    patterns = [_pattern(share, shape) for share in strip.shares]
    for first, stop in itertools.pairwise(sorted(borders)):
        parts = []
        for share, pattern in zip(strip.shares, patterns, strict=True):
            there = _find(share.runs[0], first)
            if there is not None:
                parts.append(pattern._replace(start=share.start + there * math.prod(pattern.shape)))
        if parts:
            yield Block(strip.start + first * row, stop - first, shape, tuple(parts))


def _pattern(share: _Share, shape: Shape) -> Part:
    """What a share has of every row that it has anything of."""
    theirs, runs = share.lengths[1:], share.runs[1:]
    cuts = tuple(((slice(None), *here), (slice(None), *there)) for here, there in rectangles(runs))
    is_whole = theirs == shape and all(one == _all_of(length) for one, length in zip(runs, shape, strict=True))
    return Part(share.item, 0, theirs, cuts, is_whole, False)


def _loose(strip: _Strip) -> Iterator[Block]:
    """Rows in chunks, whatever borders lie between them."""
    row = math.prod(strip.lengths[1:])
    step = max(1, CHUNK_ELEMENTS // row)
    for first in range(0, strip.lengths[0], step):
        stop = min(first + step, strip.lengths[0])
        parts = tuple(part for share in strip.shares if (part := _between(share, first, stop)) is not None)
        if parts:
            yield Block(strip.start + first * row, None, (stop - first, *strip.lengths[1:]), parts)


def _between(share: _Share, first: int, stop: int) -> Part | None:
    """What a share has of some rows, as one part."""
    runs = tuple(
        (max(a, first) - first, b + max(a, first) - a, min(a + length, stop) - max(a, first))
        for a, b, length in share.runs[0]
        if max(a, first) < min(a + length, stop)
    )
    if not runs:
        return None
    begin, end = runs[0][1], runs[-1][1] + runs[-1][2]
    found = rectangles((tuple((a, b - begin, length) for a, b, length in runs), *share.runs[1:]))
    start = share.start + begin * math.prod(share.lengths[1:])
    is_gathered = not isinstance(found[0][0][0], slice)
    return Part(share.item, start, (end - begin, *share.lengths[1:]), found, False, is_gathered)

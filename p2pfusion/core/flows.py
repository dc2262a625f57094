"""Axes while they are being found: dimensions that must be sliced alike are joined, until nothing is left to join.

Every dimension of every parameter opens a class of its own. Where the network adds two tensors, multiplies a weight
with an activation, or normalises, two dimensions turn out to be the same thing and their classes are joined
(union-find). A class can be told to move in whole units (groups, heads), or to stay whole, with the reason. What is
left at the end, and is not whole, is an axis.

A `Part` says what a tensor's dimension is: a class, and how many entries one index of it spans. The span is a fraction
where several indices share an entry: in (batch, heads, time, head width) one head is 1/width of an index, and the
class must then move in whole heads. Knows no tensors and no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Part:
    """A dimension that may be sliced: its class by key, and how many entries one index of it spans."""

    key: str
    span: Fraction = ONE


Flow = tuple[Part | None, ...]
"""What a tensor's dimensions are, in order; None cannot be sliced."""


@dataclass(slots=True)
class Class:
    """Dimensions that are one. `size` in indices of the root, which move in whole units."""

    size: int
    unit: int = 1
    whole: bool = False
    reason: str | None = None
    """Why it stays whole; None where that goes without saying: the network's input or output."""
    is_mixed: bool = False
    """Something averages over it, as a LayerNorm does: a slice is then near the masked network, but not equal."""


@dataclass(slots=True)
class Classes:
    """All of them, joined step by step."""

    _parents: dict[str, tuple[str, Fraction]] = field(default_factory=dict)
    _roots: dict[str, Class] = field(default_factory=dict)

    def open(self, key: str, size: int) -> Part:
        """A new class, or the one of that key."""
        if key not in self._parents:
            self._parents[key] = (key, ONE)
            self._roots[key] = Class(size)
        return Part(key)

    def find(self, part: Part) -> Part:
        """The same dimension in terms of the class's root."""
        key, span = part.key, part.span
        while (parent := self._parents[key])[0] != key:
            key, span = parent[0], span * parent[1]
        return Part(key, span)

    def of(self, part: Part) -> Class:
        """The class it belongs to."""
        return self._roots[self.find(part).key]

    def extent(self, part: Part) -> int:
        """Entries of the dimension when nothing is sliced."""
        root = self.find(part)
        return int(self._roots[root.key].size * root.span)

    def keep_whole(self, parts: Iterable[Part | None], reason: str | None) -> None:
        """These are never sliced. The first reason counts."""
        for part in parts:
            if part is not None:
                found = self.of(part)
                if not found.whole:
                    found.whole, found.reason = True, reason

    def mix(self, parts: Iterable[Part | None]) -> None:
        """Something averages over these."""
        for part in parts:
            if part is not None:
                self.of(part).is_mixed = True

    def spanning(self, part: Part, span: Fraction) -> Part:
        """The same indices as another dimension's, `span` entries each; a fraction makes whole units necessary."""
        root = self.find(Part(part.key, span))
        found = self._roots[root.key]
        found.unit = math.lcm(found.unit, root.span.denominator)
        return root

    def grouped(self, part: Part, entries: int) -> Part:
        """The dimension whose entries are groups of `entries` of this one; it then moves in whole groups."""
        return self.spanning(part, part.span / entries)

    def meet(self, left: Part | None, right: Part | None, reason: str | None) -> Part | None:
        """Two dimensions turn out to be one; where only one of them can be sliced, it stays whole for this reason."""
        if left is None or right is None:
            self.keep_whole((left, right), reason)
            return None
        return self._join(self.find(left), self.find(right), reason)

    def _join(self, left: Part, right: Part, reason: str | None) -> Part | None:
        if left.key == right.key:
            if left.span != right.span:
                self.keep_whole((left,), reason)
                return None
            return left
        if self.extent(left) != self.extent(right):
            self.keep_whole((left, right), reason)
            return None
        if self._roots[left.key].size > self._roots[right.key].size:
            left, right = right, left
        ratio = left.span / right.span
        if ratio.denominator != 1:
            self.keep_whole((left, right), reason)
            return None
        self._merge(left.key, right.key, int(ratio))
        return self.find(left)

    def _merge(self, root: str, other: str, ratio: int) -> None:
        """One index of `root` is `ratio` indices of `other`, and takes over what was known of them."""
        into, gone = self._roots[root], self._roots.pop(other)
        self._parents[other] = (root, Fraction(ratio))
        into.unit = math.lcm(into.unit, gone.unit // math.gcd(gone.unit, ratio))
        into.is_mixed |= gone.is_mixed
        if gone.whole and not into.whole:
            into.whole, into.reason = True, gone.reason
        if into.reason is None and gone.reason is not None and gone.whole:
            into.reason = gone.reason

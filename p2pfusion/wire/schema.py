"""Shapes: what a decoded value may look like, written as a table and walked strictly in both directions.

A `Shape` turns a *plain* value (nested tuples of int, bool, str, bytes, None) into one of ours and back, and refuses
everything that is not exactly as declared: `True` is no integer, a list that is one too long is no list. The same walk
runs before sending, so nothing leaves this node that another one would refuse. A record is an array in the order of its
fields, never a map: a value has one encoding only.

This module knows neither bytes nor messages; `codec` declares the shapes. Only `WireError` leaves it. Error texts name
our own fields and never repeat what came from outside.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, Generic, TypeVar

from p2pfusion.errors import WireError

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

INTEGER_MAX = 2**53 - 1
"""The largest integer on the wire: exact as a double as well, for readers in languages that have nothing else."""

ADDRESS_BYTES_MAX = 47
"""`[` + 39 characters of an IPv6 address + `]:65535`, and none to spare."""

_CONTROLS = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x1F),
        (0x7F, 0x9F),
        (0x200E, 0x200F),  # direction marks, line separators, embeddings and isolates: they rearrange a terminal's line
        (0x2028, 0x202E),
        (0x2066, 0x2069),
        (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)
# Fixed code points rather than `str.isprintable`, whose answer depends on the Python version's Unicode tables: a name
# with a new emoji must not make an older node refuse the whole message.


@dataclass(frozen=True, slots=True)
class Shape(Generic[T]):
    """`load` checks a plain value and builds ours, `dump` checks ours and takes it apart; both raise `WireError`."""

    load: Callable[[object], T]
    dump: Callable[[T], object]


def integer(low: int = 0, high: int = INTEGER_MAX) -> Shape[int]:
    """An `int` (no `bool`) in low..high, both included."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WireError(f"not an integer in {low}..{high}")
        return value

    return Shape(check, check)


def flag() -> Shape[bool]:
    """True or False, not 0 or 1."""

    def check(value: object) -> bool:
        if type(value) is not bool:
            raise WireError("not a boolean")
        return value

    return Shape(check, check)


def binary(least: int, most: int | None = None) -> Shape[bytes]:
    """Between `least` and `most` bytes; exactly `least` when there is no `most`."""
    high = least if most is None else most

    def check(value: object) -> bytes:
        if type(value) is not bytes or not least <= len(value) <= high:
            raise WireError(f"not {least}..{high} bytes")
        return value

    return Shape(check, check)


def is_clean(value: str) -> bool:
    """Whether a text is safe in a line of a terminal: no control characters, nothing that rearranges the line."""
    return _CONTROLS.isdisjoint(value)


def text(bytes_max: int, least: int = 1) -> Shape[str]:
    """A clean string (see `is_clean`) of `least` to `bytes_max` bytes of UTF-8."""

    def check(value: object) -> str:
        if type(value) is not str or not is_clean(value):
            raise WireError("not a text without control characters")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise WireError("not a text that UTF-8 can hold") from None
        if not least <= size <= bytes_max:
            raise WireError(f"not a text of {least}..{bytes_max} bytes")
        return value

    return Shape(check, check)


def choice(options: tuple[str, ...]) -> Shape[Any]:
    """One of these words."""

    def check(value: object) -> str:
        if type(value) is not str or value not in options:
            raise WireError("not one of the known words")
        return value

    return Shape(check, check)


@lru_cache(maxsize=1024)
def _is_address(value: str) -> bool:
    """Remembered, for the same few addresses come in every report."""
    host, _, port = value.rpartition(":")
    if not value.isascii() or not port.isdigit() or port[0] == "0" or int(port) > 65535:
        return False
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def address() -> Shape[str]:
    """`ip-literal:port`, `192.0.2.7:4711` or `[2001:db8::7]:4711`: no host names, no scopes, port 1..65535."""

    def check(value: object) -> str:
        if type(value) is not str or len(value) > ADDRESS_BYTES_MAX or not _is_address(value):
            raise WireError("not an address: an IP literal and a port")
        return value

    return Shape(check, check)


def where(item: Shape[T], holds: Callable[[T], bool], otherwise: str) -> Shape[T]:
    """What `item` says, if `holds` of it; refused with the text `otherwise`."""

    def check(value: T) -> T:
        if not holds(value):
            raise WireError(otherwise)
        return value

    return Shape(lambda value: check(item.load(value)), lambda value: item.dump(check(value)))


def optional(item: Shape[T]) -> Shape[T | None]:
    """None, or what `item` says."""
    return Shape(
        lambda value: None if value is None else item.load(value),
        lambda value: None if value is None else item.dump(value),
    )


def pair(first: Shape[A], second: Shape[B]) -> Shape[tuple[A, B]]:
    """A tuple of two."""

    def load(value: object) -> tuple[A, B]:
        left, right = _array(value, 2, 2)
        return first.load(left), second.load(right)

    def dump(value: tuple[A, B]) -> object:
        left, right = _array(value, 2, 2)
        return first.dump(left), second.dump(right)

    return Shape(load, dump)


def many(
    item: Shape[T], most: int, least: int = 0, ascending: Callable[[T], Any] | None = None
) -> Shape[tuple[T, ...]]:
    """A tuple of `least` to `most`; with `ascending`, that key rises strictly, so no two have the same."""

    def ordered(values: tuple[T, ...]) -> None:
        if ascending is not None:
            keys = [ascending(value) for value in values]
            if any(left >= right for left, right in pairwise(keys)):
                raise WireError("not in strictly ascending order")

    def load(value: object) -> tuple[T, ...]:
        values = tuple([item.load(each) for each in _array(value, least, most)])
        ordered(values)
        return values

    def dump(values: tuple[T, ...]) -> object:
        plain = tuple([item.dump(each) for each in _array(values, least, most)])
        ordered(values)
        return plain

    return Shape(load, dump)


def ranges(most: int) -> Shape[tuple[tuple[int, int], ...]]:
    """One to `most` half-open ranges, sorted, disjoint and merged: on the wire one flat, strictly rising list."""
    flat = many(integer(), 2 * most, least=2, ascending=lambda bound: bound)
    items = many(pair(integer(), integer()), most, least=1)

    def load(value: object) -> tuple[tuple[int, int], ...]:
        bounds = flat.load(value)
        if len(bounds) % 2:
            raise WireError("a range without an end")
        return tuple(zip(bounds[::2], bounds[1::2], strict=True))

    def dump(value: tuple[tuple[int, int], ...]) -> object:
        items.dump(value)
        return flat.dump(tuple(chain.from_iterable(value)))

    return Shape(load, dump)


def record(kind: Callable[..., T], /, **fields: Shape[Any]) -> Shape[T]:
    """A dataclass as an array of exactly these fields in this order."""
    names, count, get = tuple(fields), len(fields), attrgetter(*fields)
    loads, dumps = [shape.load for shape in fields.values()], [shape.dump for shape in fields.values()]

    def load(value: object) -> T:
        plain = _array(value, count, count)
        return kind(**dict(zip(names, walked(loads, plain), strict=True)))

    def dump(value: T) -> object:
        return tuple(walked(dumps, get(value) if count > 1 else (get(value),)))

    def walked(walks: Sequence[Callable[[Any], Any]], values: Sequence[Any]) -> list[Any]:
        try:
            return [walk(value) for walk, value in zip(walks, values, strict=True)]
        except WireError:  # which field it was is worth a second walk only now
            for name, walk, value in zip(names, walks, values, strict=True):
                _named(kind, name, walk, value)
            raise

    return Shape(load, dump)


def _named(kind: Callable[..., Any], name: str, walk: Callable[[Any], Any], value: object) -> Any:
    try:
        return walk(value)
    except WireError as error:
        raise WireError(f"{kind.__name__}.{name}: {error}") from None


def _array(value: object, least: int, most: int) -> tuple[Any, ...]:
    if type(value) is not tuple or not least <= len(value) <= most:
        raise WireError(f"not a list of {least}..{most}")
    return value

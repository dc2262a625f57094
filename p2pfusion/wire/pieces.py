"""Messages made of pieces that were said before: every piece is checked and built once, and remembered both ways.

In a swarm the same reports and manifests come from many peers and go to many more. `Pieces` remembers their encodings:
by the exact bytes, so that equal bytes get an equal verdict, and by the value's identity, which nobody else can have
while it is remembered. So a report is walked when it is first heard, and passed on without a second look. `Assembled`
is a record whose long fields are lists of such pieces; what it accepts and gives is exactly what `schema.record` would.

Values are frozen all the way down (the shapes see to that: tuples, bytes, text, integers), so sharing one is safe. What
is remembered is bounded by number and by bytes, whatever peers send. This module knows no message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from p2pfusion.errors import WireError
from p2pfusion.wire.packing import array_header, pack, split, unpack
from p2pfusion.wire.schema import Shape

T = TypeVar("T")

PIECES_MAX = 4096
"""Pieces of one shape in a generation: several reports of everybody in the largest swarm."""
PIECES_BYTES_MAX = 1 << 20
"""Bytes of their encodings in a generation; the values take some ten times that, and there are two generations."""
PIECE_BYTES_MAX = 4096
"""A longer one is not remembered: hashing it would cost what it saves, and a few would crowd out all others."""


class Whole(Generic[T]):
    """Values of one shape to canonical bytes and back, remembering nothing."""

    def __init__(self, shape: Shape[T], array_max: int) -> None:
        """`array_max` is the longest array in an encoding, as for `packing.unpack`."""
        self._shape = shape
        self._array_max = array_max

    def encode(self, value: T) -> bytes:
        """The canonical encoding. Raises `WireError` for what `decode` would refuse."""
        return pack(self._shape.dump(value))

    def decode(self, data: bytes) -> T:
        """The value with exactly this canonical encoding. Raises `WireError`."""
        plain = unpack(data, self._array_max)
        value = self._shape.load(plain)
        if pack(plain) != data:
            raise WireError("not the canonical encoding")
        return value


class Pieces(Whole[T]):
    """The same, remembering both ways. Of two generations the older is forgotten when the newer is full."""

    def __init__(self, shape: Shape[T], array_max: int) -> None:
        super().__init__(shape, array_max)
        self._bytes = 0
        self._values: dict[bytes, T] = {}
        self._encodings: dict[int, tuple[T, bytes]] = {}
        self._old_values: dict[bytes, T] = {}
        self._old_encodings: dict[int, tuple[T, bytes]] = {}

    def __len__(self) -> int:
        """How many are remembered, both generations together."""
        return len(self._values) + len(self._old_values)

    def encode(self, value: T) -> bytes:
        number = id(value)
        known = self._encodings.get(number)
        if known is not None:
            return known[1]
        old = self._old_encodings.get(number)
        data = super().encode(value) if old is None else old[1]
        self._remember(value, data)
        return data

    def decode(self, data: bytes) -> T:
        known = self._values.get(data)
        if known is not None:
            return known
        old = self._old_values.get(data)
        value = super().decode(data) if old is None else old
        self._remember(value, data)
        return value

    def _remember(self, value: T, data: bytes) -> None:
        if len(data) > PIECE_BYTES_MAX:
            return
        if len(self._encodings) >= PIECES_MAX or self._bytes + len(data) > PIECES_BYTES_MAX:
            self._old_values, self._values = self._values, {}
            self._old_encodings, self._encodings = self._encodings, {}
            self._bytes = 0
        self._bytes += len(data)
        self._values[data] = value
        self._encodings[id(value)] = value, data  # keeps the value, so that its number stays its own


class Assembled(Generic[T]):
    """A record of single fields and lists of pieces; the encoding is that of `schema.record` with the same shapes."""

    def __init__(
        self,
        kind: Callable[..., T],
        single: Mapping[str, Whole[Any]],
        lists: Mapping[str, tuple[Whole[Any], int]],
    ) -> None:
        """All fields of `kind` in wire order, the single ones first; each list with its most items."""
        self._kind = kind
        self._single = dict(single)
        self._lists = dict(lists)
        self._most = [*(None for _ in single), *(most for _, most in lists.values())]
        self._header = array_header(len(self._most))
        self._headers = [array_header(n) for n in range(1 + max(most for _, most in lists.values()))]

    def encode(self, value: T) -> bytes:
        """Raises `WireError` for what `decode` would refuse."""
        parts = [self._header]
        name = ""
        try:
            for name, piece in self._single.items():
                parts.append(piece.encode(getattr(value, name)))
            for name, (pieces, most) in self._lists.items():
                items = getattr(value, name)
                if type(items) is not tuple or len(items) > most:
                    raise WireError(f"not a list of 0..{most}")
                parts.append(self._headers[len(items)])
                parts += map(pieces.encode, items)
        except WireError as error:
            raise self._named(name, error) from None
        return b"".join(parts)

    def decode(self, payload: bytes) -> T:
        """Raises `WireError` unless these are exactly the bytes that `encode` gives for the result."""
        fields = split(payload, self._most)
        values: dict[str, Any] = {}
        parts = [self._header]
        name = ""
        try:
            for (name, piece), [data] in zip(self._single.items(), fields, strict=False):
                values[name] = piece.decode(data)
                parts.append(data)
            for (name, (pieces, _)), items in zip(self._lists.items(), fields[len(self._single) :], strict=True):
                values[name] = tuple(map(pieces.decode, items))
                parts.append(self._headers[len(items)])
                parts += items
        except WireError as error:
            raise self._named(name, error) from None
        if b"".join(parts) != payload:
            raise WireError("not the canonical encoding")
        return self._kind(**values)

    def _named(self, name: str, error: WireError) -> WireError:
        return WireError(f"{getattr(self._kind, '__name__', 'message')}.{name}: {error}")

"""Plain values to msgpack and back, under explicit caps: nested tuples, integers, text, bytes, booleans, None.

One-shot both ways. Maps, extension types and trailing bytes are refused, and so is whatever allocates far more than
the bytes that announce it. This module knows no message and no shape; only `WireError` leaves it for what came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

from p2pfusion.config import DESCRIPTION_TEXT_BYTES_MAX, INLINE_BYTES_MAX
from p2pfusion.errors import WireError

ARRAY_BYTES_MIN = 3
"""No message has more arrays than one per so many bytes (`["a", [0, 1]]` is the densest); bombs have one per byte."""
SHORT_ARRAY_MAX = 15
"""Longest array whose header is one byte."""


def pack(plain: object) -> bytes:
    """The canonical encoding."""
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed


def array_header(count: int) -> bytes:
    """What stands before `count` packed items (below 65,536) to make them one array."""
    return bytes((0x90 | count,)) if count <= SHORT_ARRAY_MAX else b"\xdc" + count.to_bytes(2, "big")


def unpack(payload: bytes, array_max: int) -> object:
    """One plain value of nested tuples. Their number is bounded too: a million empty ones fit in 1 MiB."""
    left = 1 + len(payload) // ARRAY_BYTES_MIN

    def count(array: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("too many arrays")
        return array

    try:
        return msgpack.unpackb(
            payload,
            use_list=False,
            list_hook=count,
            object_pairs_hook=_refuse,
            ext_hook=_refuse,
            max_array_len=min(array_max, len(payload)),  # memory is taken before the items are looked for
            max_map_len=0,
            max_str_len=DESCRIPTION_TEXT_BYTES_MAX,
            max_bin_len=INLINE_BYTES_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException):
        raise WireError("not one msgpack value within the limits") from None


def split(payload: bytes, lists_most: Sequence[int | None]) -> list[list[bytes]]:
    """The packed items of an array's fields, in order, without building any of them.

    `lists_most[i]` is None for a field that is one item, and the most items of one that is a list of them. The pieces
    are not looked into: they may hold anything, and headers may be longer than need be.
    """
    reader = msgpack.Unpacker(max_buffer_size=len(payload))
    reader.feed(payload)
    try:
        if reader.read_array_header() != len(lists_most):
            raise WireError(f"not a list of {len(lists_most)}")
        fields = [_items(reader, payload, most) for most in lists_most]
        if reader.tell() != len(payload):
            raise WireError("bytes after the message")
    except (ValueError, TypeError, msgpack.UnpackException):
        raise WireError("not one msgpack value within the limits") from None
    return fields


def _items(reader: Any, payload: bytes, most: int | None) -> list[bytes]:
    count = 1 if most is None else reader.read_array_header()
    if most is not None and count > most:
        raise WireError(f"not a list of 0..{most}")
    skip, tell = reader.skip, reader.tell
    items, start = [], tell()
    for _ in range(count):
        skip()
        end = tell()
        items.append(payload[start:end])
        start = end
    return items


def _refuse(*_: object) -> object:
    raise ValueError("maps and extension types are not part of the protocol")

"""How large each route's bodies may be (PROTOCOL.md 10, RELIABILITY.md 5), and what they count as, at both ends.

The server refuses a request above its limit before reading it; the client stops reading an answer at its limit. Routes
that are not in the table get the limits of a control call. Who accounts for bytes sorts them into three kinds: what the
model is made of, what says where that is, and talk. A path may begin with the shard it is about, `/v1/shards/3/gossip`:
it has the limits and the kind of the path without it. This module knows neither sockets nor what bodies mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfusion.config import (
    GOSSIP_BYTES_MAX,
    LINKS_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    PROBE_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SHARDS_MAX,
)

PREFIX = "/v1/"
SHARDS_PREFIX = f"{PREFIX}shards/"
"""Then the shard's number, a slash and the rest of a path behind `PREFIX`."""

Kind = Literal["payload", "header", "gossip"]
"""`payload`: segments of contributions and snapshots, batches between stages; `header`: manifests, links, and answers
that are no segment; `gossip`: what members say of themselves and each other, probes and orders to hops included."""
KINDS: tuple[Kind, ...] = ("payload", "header", "gossip")

HOP_BYTES_MAX = 16 << 20
"""Activations or gradients of one batch between two stages (MP-SL)."""
SEGMENT_SLACK_BYTES = 1 << 10
"""Compression may make a segment this much longer than its limit; never more."""
REPLY_BYTES_MAX = 4 << 20
"""An answer on a route that is not in the table."""
ERROR_BYTES_MAX = 1 << 20
"""An answer that is not a success: a short code, or the description of another run (one line a parameter)."""


@dataclass(frozen=True, slots=True)
class Route:
    """The largest body of a POST and of its or a GET's answer, and what they count as. A GET has no body."""

    request_bytes_max: int
    reply_bytes_max: int
    kind: Kind = "gossip"


_SEGMENT = Route(0, SEGMENT_BYTES_MAX + SEGMENT_SLACK_BYTES, "payload")
_MANIFEST = Route(0, MANIFEST_BYTES_MAX, "header")
_CONTROL = Route(GOSSIP_BYTES_MAX, GOSSIP_BYTES_MAX)
_PASSAGE = Route(HOP_BYTES_MAX, HOP_BYTES_MAX, "payload")
_OTHER = Route(GOSSIP_BYTES_MAX, REPLY_BYTES_MAX)

_ROUTES: dict[tuple[str, int], Route] = {
    ("gossip", 0): _CONTROL,
    ("probe", 0): Route(PROBE_BYTES_MAX, PROBE_BYTES_MAX),
    ("ping", 0): Route(0, PROBE_BYTES_MAX),
    ("links", 0): Route(0, LINKS_BYTES_MAX, "header"),
    ("contributions", 1): _MANIFEST,
    ("contributions", 2): _SEGMENT,
    ("snapshots", 1): _MANIFEST,
    ("snapshots", 2): _SEGMENT,
    ("hops", 1): _CONTROL,
}
"""By the first word behind the prefix and the number of words behind that."""
_PASSAGES: dict[str, Route] = {f"{PREFIX}hops/forward": _PASSAGE, f"{PREFIX}hops/backward": _PASSAGE}
"""By the whole path, before the table of words is asked: of what hops say only this carries tensors."""
_SHARDS: dict[str, int] = {str(shard): shard for shard in range(SHARDS_MAX)}
"""By how a shard is written in a path: decimal, without leading zeros."""


def route(path: str) -> Route:
    """The limits of a path that begins with `/v1/`, of a shard or not, without its query."""
    _, plain = split_shard(path)
    word, *rest = plain.removeprefix(PREFIX).split("/")
    return _PASSAGES.get(plain) or _ROUTES.get((word, len(rest)), _OTHER)


def shard_path(shard: int, path: str) -> str:
    """The path of the same thing within a shard: 3 and `/v1/gossip` give `/v1/shards/3/gossip`.

    Raises `ValueError` for a shard that is not in 0..SHARDS_MAX - 1, and for a path that does not begin with `/v1/`,
    ends there, or is of a shard already.
    """
    rest = path.removeprefix(PREFIX)
    if not 0 <= shard < SHARDS_MAX:
        raise ValueError(f"shard {shard}: must be 0 to {SHARDS_MAX - 1}")
    if not rest or rest == path or path.startswith(SHARDS_PREFIX):
        raise ValueError(f"path {path!r}: must be one behind {PREFIX} that is of no shard yet")
    return f"{SHARDS_PREFIX}{shard}/{rest}"


def split_shard(path: str) -> tuple[int | None, str]:
    """The shard that a path is of, and the path of the same thing without it; None and the path where it is of none.

    A shard that does not exist or is written in another way is none: the path is then one that nobody serves.
    """
    if not path.startswith(SHARDS_PREFIX):
        return None, path
    number, _, rest = path.removeprefix(SHARDS_PREFIX).partition("/")
    if number not in _SHARDS or not rest:
        return None, path
    return _SHARDS[number], PREFIX + rest


def request_bytes_max(method: str, path: str) -> int:
    """The largest request body on this route, in bytes."""
    return 0 if method == "GET" else route(path).request_bytes_max


def reply_bytes_max(path: str, status: int) -> int:
    """The largest reply body on this route, in bytes."""
    return route(path).reply_bytes_max if status == 200 else ERROR_BYTES_MAX


def kind(path: str, status: int = 200) -> Kind:
    """What a body on this route counts as; an answer that is not a success is no segment."""
    found = route(path).kind
    return "header" if found == "payload" and status != 200 else found

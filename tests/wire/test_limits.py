"""Every limit of the wire: accepted at the limit, refused one beyond."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pfusion import config
from p2pfusion.errors import WireError
from p2pfusion.wire import codec, shapes
from p2pfusion.wire.messages import (
    Link,
)
from p2pfusion.wire.schema import INTEGER_MAX
from tests.wire.plain import KINDS, decodes_or_refuses, framed, paths, plain_of, put
from tests.wire.strategies import HASH, PEER

GOSSIP, MANIFEST, LINKS, RUN = (plain_of(kind) for kind in ("gossip", "contribution", "links", "run"))
LABELS = tuple(f"{i:04}" for i in range(2000))


def copies(path: tuple[int, ...]) -> Callable[[object, int], object]:
    """A plain message in which the first item of the list at `path` stands there so often."""

    def build(plain: object, count: int) -> object:
        here = plain
        for step in path:
            here = here[step]
        return put(plain, path, (here[0],) * count)

    return build


def numbered(path: tuple[int, ...], item: Callable[[int], object]) -> Callable[[object, int], object]:
    return lambda plain, count: put(plain, path, tuple(item(i) for i in range(count)))


def value(path: tuple[int, ...], make: Callable[[int], object] = lambda n: n) -> Callable[[object, int], object]:
    return lambda plain, count: put(plain, path, make(count))


SHARD_PLAIN = GOSSIP[2][0][8][0]
HAVE_PLAIN = GOSSIP[4][0]
LIMITS = {
    "REPORTS_PER_CALL_MAX": ("gossip", config.REPORTS_PER_CALL_MAX, copies((2,))),
    "RUMOURS_PER_CALL_MAX": ("gossip", config.RUMOURS_PER_CALL_MAX, copies((3,))),
    "HAVE_PER_CALL_MAX": ("gossip", config.HAVE_PER_CALL_MAX, copies((4,))),
    "bitmap of SEGMENTS_MAX": ("gossip", config.SEGMENTS_MAX // 8, value((4, 0, 1), bytes)),
    "FRESH_PER_CALL_MAX": ("gossip", config.FRESH_PER_CALL_MAX, copies((5,))),
    "inline FRESH_PER_CALL_MAX": ("gossip", config.FRESH_PER_CALL_MAX, copies((6,))),
    "INLINE_SEGMENTS_MAX": ("gossip", config.INLINE_SEGMENTS_MAX, copies((6, 0, 1))),
    "INLINE_BYTES_MAX": ("gossip", config.INLINE_BYTES_MAX, value((6, 0, 1, 0), bytes)),
    "INLINE_BYTES_MAX in two": (
        "gossip",
        config.INLINE_BYTES_MAX,
        value((6, 0, 1), lambda n: (bytes(n - 9), bytes(9))),
    ),
    "NAME_BYTES_MAX": ("gossip", config.NAME_BYTES_MAX, value((2, 0, 1), lambda n: "é" * (n // 2) + "x" * (n % 2))),
    "ADDRESSES_MAX": ("gossip", config.ADDRESSES_MAX, copies((2, 0, 2))),
    "SHARDS_MAX": ("gossip", config.SHARDS_MAX, numbered((2, 0, 8), lambda i: put(SHARD_PLAIN, (0,), i))),
    "shard number": ("gossip", config.SHARDS_MAX - 1, value((2, 0, 8, 0, 0))),
    "DIGESTS_PER_REPORT_MAX": (
        "gossip",
        config.DIGESTS_PER_REPORT_MAX,
        numbered((2, 0, 8, 0, 7), lambda i: (i, PEER)),
    ),
    "floor": ("gossip", INTEGER_MAX, value((2, 0, 8, 0, 5))),
    "beat": ("gossip", INTEGER_MAX, value((2, 0, 4))),
    "port": ("gossip", 65535, value((2, 0, 2, 0), lambda n: f"192.0.2.7:{n}")),
    "WEIGHT_MAX": ("contribution", config.WEIGHT_MAX, value((6,))),
    "round": ("contribution", INTEGER_MAX, value((1,))),
    "BLOCKS_MAX": ("contribution", config.BLOCKS_MAX, numbered((8, 0), lambda i: LABELS[i])),
    "LABEL_BYTES_MAX of a block": ("contribution", config.LABEL_BYTES_MAX, value((8, 0, 0), lambda n: "x" * n)),
    "LABEL_BYTES_MAX of an axis": ("contribution", config.LABEL_BYTES_MAX, value((8, 1, 0, 0), lambda n: "a" * n)),
    "AXES_MAX": ("contribution", config.AXES_MAX, numbered((8, 1), lambda i: (LABELS[i], (0, 4)))),
    "RANGES_PER_AXIS_MAX": (
        "contribution",
        config.RANGES_PER_AXIS_MAX,
        value((8, 1, 0, 1), lambda n: tuple(range(2 * n))),
    ),
    "codec name": ("contribution", shapes.CODEC_NAME_BYTES_MAX, value((9,), lambda n: "z" * n)),
    "SEGMENT_BYTES_MAX": ("contribution", config.SEGMENT_BYTES_MAX, value((10, 0, 1))),
    "LINKS_PER_REPLY_MAX": ("links", config.LINKS_PER_REPLY_MAX, numbered((), lambda i: (i, HASH, 1, (), None))),
    "LINK_IDS_MAX": ("links", config.LINK_IDS_MAX, numbered((0, 3), lambda i: i.to_bytes(32, "big"))),
    "GRAFTS_KEPT_MAX": ("snapshot", config.GRAFTS_KEPT_MAX, copies((6,))),
    "SETTINGS_MAX": ("run", config.SETTINGS_MAX, copies((0,))),
    "PARAMETERS_MAX": ("run", config.PARAMETERS_MAX, copies((1,))),
    "DESCRIPTION_TEXT_BYTES_MAX": ("run", config.DESCRIPTION_TEXT_BYTES_MAX, value((1, 0, 1), lambda n: "x" * n)),
    "GOSSIP_BYTES_MAX": ("gossip", config.GOSSIP_BYTES_MAX, lambda plain, n: padded(plain, n)),
}


def padded(plain: object, size: int) -> object:
    """A gossip message of exactly so many bytes on the wire."""
    big, small = (HASH, (bytes(config.INLINE_BYTES_MAX),)), (HASH, (bytes(20_000),))
    rest = 20_000 + size - len(framed(put(plain, (6,), (big, small))))
    return put(plain, (6,), (big, (HASH, (bytes(rest),))))


@pytest.mark.parametrize("limit", LIMITS)
def test_limit(limit):
    kind, most, build = LIMITS[limit]
    plain = plain_of(kind)
    assert decodes_or_refuses(kind, framed(build(plain, most)))
    assert not decodes_or_refuses(kind, framed(build(plain, most + 1)))


def test_the_least_of_what_must_be_there():
    for kind, path, none in (
        ("contribution", (6,), 0),
        ("contribution", (8, 0), ()),
        ("contribution", (8, 1, 0, 1), ()),
        ("contribution", (10,), ()),
        ("contribution", (10, 0, 1), 0),
        ("contribution", (9,), ""),
        ("gossip", (2, 0, 1), ""),
        ("gossip", (6, 0, 1), ()),
        ("gossip", (6, 0, 1, 0), b""),
        ("gossip", (2, 0, 2, 0), "192.0.2.7:0"),
    ):
        assert not decodes_or_refuses(kind, framed(put(plain_of(kind), path, none)))


def test_exact_lengths_of_hashes_and_peer_ids():
    for kind in KINDS:
        plain = plain_of(kind)
        for path in paths(plain):
            here = plain
            for step in path:
                here = here[step]
            if here in (HASH, PEER):
                for other in (here[:-1], here + b"\x00"):
                    assert not decodes_or_refuses(kind, framed(put(plain, path, other)))


def test_segments_max():
    """More than a manifest of MANIFEST_BYTES_MAX can hold, so the shape itself is asked."""
    plain = put(plain_of("contribution"), (10,), ((HASH, 4),) * config.SEGMENTS_MAX)
    assert len(shapes.CONTRIBUTION.load(plain).segments) == config.SEGMENTS_MAX
    with pytest.raises(WireError):
        shapes.CONTRIBUTION.load(put(plain, (10,), ((HASH, 4),) * (config.SEGMENTS_MAX + 1)))


@pytest.mark.parametrize("kind", ["contribution", "snapshot"])
def test_manifest_bytes_max(kind):
    plain, at = plain_of(kind), (10 if kind == "contribution" else 4,)
    small, large = (HASH, 1), (HASH, 200)
    room = config.MANIFEST_BYTES_MAX - len(framed(put(plain, at, (small,) * 25_000)))
    count = 25_000 + room // 36
    exact = put(plain, at, (large,) * (room % 36) + (small,) * (count - room % 36))
    assert len(framed(exact)) == config.MANIFEST_BYTES_MAX
    assert decodes_or_refuses(kind, framed(exact))
    assert not decodes_or_refuses(kind, framed(put(exact, (*at, count - 1), large)))


def test_links_bytes_max():
    full = [(i, HASH, 1, tuple(j.to_bytes(32, "big") for j in range(1024)), None) for i in range(120)]
    data = framed(tuple(full))
    assert len(data) < config.LINKS_BYTES_MAX < len(framed((*full, full[0])))
    assert decodes_or_refuses("links", data)
    assert not decodes_or_refuses("links", framed((*full, (120, *full[0][1:]))))
    assert len(codec.decode_links(data, links_max=120, bytes_max=len(data))) == 120
    for limit in ({"links_max": 119}, {"bytes_max": len(data) - 1}):
        with pytest.raises(WireError):
            codec.decode_links(data, **limit)
        with pytest.raises(ValueError, match="not fit for the wire"):
            codec.encode_links(codec.decode_links(data), **limit)


def test_a_checkpoint_may_keep_more_links_than_a_reply():
    links = [Link(round=r, chain=HASH, weight=r, ids=(HASH,)) for r in range(config.LINKS_KEPT_MAX)]
    data = codec.encode_links(links, links_max=config.LINKS_KEPT_MAX)
    assert codec.decode_links(data, links_max=config.LINKS_KEPT_MAX) == tuple(links)


@pytest.mark.parametrize(
    ("kind", "path", "unordered"),
    [
        ("links", (), ((2, HASH, 1, (), None), (1, HASH, 1, (), None))),
        ("links", (), ((2, HASH, 1, (), None), (2, HASH, 1, (), None))),
        ("links", (0, 3), (HASH, bytes(32))),
        ("links", (0, 3), (HASH, HASH)),
        ("gossip", (2, 0, 8), (SHARD_PLAIN, SHARD_PLAIN)),
        ("gossip", (2, 0, 8, 0, 7), ((6, PEER), (5, PEER))),
        ("gossip", (2, 0, 8, 0, 7), ((6, PEER), (6, PEER))),
        ("contribution", (8, 1), (("h2", (0, 4)), ("h1", (0, 4)))),
        ("contribution", (8, 1), (("h1", (0, 4)), ("h1", (4, 8)))),
        ("contribution", (8, 1, 0, 1), (0, 4, 4, 8)),
        ("contribution", (8, 1, 0, 1), (4, 0)),
        ("contribution", (8, 1, 0, 1), (0, 4, 6)),
    ],
)
def test_order_where_order_matters(kind, path, unordered):
    assert not decodes_or_refuses(kind, framed(put(plain_of(kind), path, unordered)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.7",
        "192.0.2.7:",
        ":4711",
        "192.0.2.7:04711",
        "192.0.2.7:65536",
        "192.0.2.7:-1",
        "192.0.2.7:٣",
        "192.0.2:80",
        "192.0.2.007:80",
        "localhost:80",
        "a.b:80",
        "2001:db8::7:80",
        "[2001:db8::7]",
        "[fe80::1%eth0]:80",
        "[192.0.2.7]:80",
        "[]:80",
        "[2001:db8::7:80",
        "192.0.2.7:80 ",
        " 192.0.2.7:80",
        "192.0.2.7:80\n",
        "http://192.0.2.7:80",
        "x" * 48,
    ],
)
def test_what_is_no_address(text):
    assert not decodes_or_refuses("gossip", framed(put(plain_of("gossip"), (2, 0, 2, 0), text)))


def test_the_longest_address():
    longest = "[" + ":".join(["ffff"] * 8) + "]:65535"
    assert decodes_or_refuses("gossip", framed(put(plain_of("gossip"), (2, 0, 2, 0), longest)))


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[2J", "\x7f", "\x85", "\u202eabc", "\u2066", "\u200f", "\ufeff", "\u2028"]
)
def test_names_cannot_move_the_cursor(name):
    assert not decodes_or_refuses("gossip", framed(put(plain_of("gossip"), (2, 0, 1), name)))


@pytest.mark.parametrize("name", ["fox", "Füchsin", "狐", "👩\u200d🔬", "a b", "'; DROP", "\U0001fae9"])
def test_names_people_have(name):
    assert decodes_or_refuses("gossip", framed(put(plain_of("gossip"), (2, 0, 1), name)))

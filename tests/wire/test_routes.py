"""Paths of shards, and what of a chain of hops is large. Other routes are tested where bodies meet their limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import GOSSIP_BYTES_MAX, SHARDS_MAX
from p2pfusion.wire.routes import (
    HOP_BYTES_MAX,
    PREFIX,
    kind,
    reply_bytes_max,
    request_bytes_max,
    route,
    shard_path,
    split_shard,
)

ID = "ab" * 32
PLAIN = (
    "gossip", "probe", "ping", "links", f"contributions/{ID}", f"contributions/{ID}/3", f"snapshots/{ID}",
    f"snapshots/{ID}/3", "hops/forward", "hops/backward", "hops/offers", "hops", "elsewhere", "a/b/c/d",
)  # fmt: skip
words = st.lists(st.text("abz09-%", min_size=1, max_size=5), min_size=1, max_size=4)
rests = st.one_of(st.sampled_from(PLAIN), words.map("/".join))


@given(st.integers(0, SHARDS_MAX - 1), rests)
def test_there_and_back(shard, rest):
    path = PREFIX + rest
    inside = shard_path(shard, path)
    assert inside == f"/v1/shards/{shard}/{rest}"
    assert split_shard(inside) == (shard, path)
    assert split_shard(path) == (None, path)
    assert route(inside) == route(path)


@given(st.text(max_size=30))
def test_any_path_is_split_in_one_way_or_is_of_no_shard(text):
    for path in (text, PREFIX + text, f"/v1/shards/{text}"):
        shard, plain = split_shard(path)
        assert plain == path if shard is None else path == f"/v1/shards/{shard}{plain[3:]}"
        assert isinstance(route(path).request_bytes_max, int)


@pytest.mark.parametrize("number", ["64", "-1", "03", "00", "+3", " 3", "3 ", "٣", "", "x", "3.0", "0x3", "1_0", "999"])
def test_shards_that_are_none(number):
    path = f"/v1/shards/{number}/snapshots/{ID}/3"
    assert split_shard(path) == (None, path)
    assert route(path) == route("/v1/elsewhere")


@pytest.mark.parametrize("path", ["/v1/shards", "/v1/shards/", "/v1/shards/3", "/v1/shards/3/", "/v2/shards/3/gossip"])
def test_paths_that_are_of_no_shard(path):
    assert split_shard(path) == (None, path)


def test_a_shard_within_a_shard_is_a_path_that_nobody_serves():
    path = f"/v1/shards/3/shards/4/snapshots/{ID}/3"
    assert split_shard(path) == (3, f"/v1/shards/4/snapshots/{ID}/3")
    assert route(path) == route("/v1/elsewhere")


def test_shards_max():
    assert split_shard(shard_path(SHARDS_MAX - 1, "/v1/gossip")) == (SHARDS_MAX - 1, "/v1/gossip")
    assert split_shard(shard_path(0, "/v1/gossip")) == (0, "/v1/gossip")
    for shard in (-1, SHARDS_MAX):
        with pytest.raises(ValueError, match="must be 0 to 63"):
            shard_path(shard, "/v1/gossip")
        path = f"/v1/shards/{shard}/gossip"
        assert split_shard(path) == (None, path)


@pytest.mark.parametrize("path", ["/v1/", "/v2/gossip", "gossip", "", "/v1", "/v1/shards/3/gossip", "/v1/shards/"])
def test_paths_that_cannot_be_of_a_shard(path):
    with pytest.raises(ValueError, match="of no shard yet"):
        shard_path(3, path)


@pytest.mark.parametrize("prefix", ["/v1/", "/v1/shards/7/"])
def test_only_tensors_of_hops_are_large(prefix):
    for topic in ("forward", "backward"):
        path = f"{prefix}hops/{topic}"
        assert request_bytes_max("POST", path) == reply_bytes_max(path, 200) == HOP_BYTES_MAX
        assert (kind(path), kind(path, 404)) == ("payload", "header")
    for topic in ("offers", "take", "back", "end", "leave", "failed", "", "Forward", "forwards"):
        path = f"{prefix}hops/{topic}"
        assert request_bytes_max("POST", path) == reply_bytes_max(path, 200) == GOSSIP_BYTES_MAX
        assert kind(path) == "gossip"
    assert kind(f"{prefix}hops/forward/1") == "gossip"

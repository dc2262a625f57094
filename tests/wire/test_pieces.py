"""Remembered pieces: the same verdicts and values as without memory, whatever is said in whatever order; bounded."""

from __future__ import annotations

from dataclasses import fields, replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.errors import WireError
from p2pfusion.wire import codec, pieces, shapes
from p2pfusion.wire.messages import Gossip, Have
from p2pfusion.wire.packing import array_header, pack, split
from p2pfusion.wire.pieces import Assembled, Pieces, Whole
from p2pfusion.wire.schema import Shape, binary, integer
from tests.wire import strategies as wire
from tests.wire.plain import EXAMPLES, REPORT, plain_of
from tests.wire.strategies import HASH

PLAIN = Whole(shapes.GOSSIP, 2048)
"""The same message in one walk, remembering nothing: what the remembering one must agree with."""


def remembering() -> Assembled[Gossip]:
    lists = {item.name: shapes.GOSSIP_ITEMS[item.name] for item in fields(Gossip) if item.name in shapes.GOSSIP_ITEMS}
    return Assembled(
        Gossip,
        {name: Pieces(shape, 0) for name, shape in shapes.GOSSIP_HEAD.items()},
        {name: (Pieces(shape, 2048), most) for name, (shape, most) in lists.items()},
    )


def verdict(form: Whole[Gossip] | Assembled[Gossip], payload: bytes) -> Gossip | None:
    try:
        return form.decode(payload)
    except WireError:
        return None


# -- the same as without memory ---------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(wire.gossips, min_size=1, max_size=3))
def test_remembered_or_not_the_bytes_and_values_are_the_same(said):
    form = remembering()
    for gossip in (*said, *said):
        payload = PLAIN.encode(gossip)
        assert form.encode(gossip) == payload
        assert form.decode(payload) == PLAIN.decode(payload) == gossip
        assert form.encode(form.decode(payload)) == payload


@settings(max_examples=60, deadline=None)
@given(wire.gossips, st.data())
def test_what_was_heard_before_excuses_nothing(gossip, data):
    """After the whole message is remembered, every changed one gets the verdict that a stranger to it would give."""
    form, payload = remembering(), PLAIN.encode(gossip)
    form.decode(payload)
    for _ in range(40):
        at = data.draw(st.integers(0, len(payload) - 1))
        kept = data.draw(st.sampled_from((1, 0)))
        changed = payload[:at] + data.draw(st.binary(max_size=2)) + payload[at + kept :]
        assert verdict(form, changed) == verdict(PLAIN, changed)


@pytest.mark.parametrize("position", range(7))
def test_true_is_not_one_though_one_was_heard(position):
    """Equal values of other types have other bytes, and it is the bytes that are remembered."""
    form, plain = remembering(), plain_of("gossip")
    form.decode(pack(plain))
    for wrong in (True, 1.0, None, (), b"", plain[position][:0], (plain[position],)):
        changed = pack((*plain[:position], wrong, *plain[position + 1 :]))
        assert verdict(form, changed) == verdict(PLAIN, changed)
    beat = pack(plain).replace(b"\x01\x02\xa6trains", b"\xc3\x02\xa6trains")
    assert beat != pack(plain)
    assert verdict(form, beat) is None


def test_long_headers_are_refused_around_known_pieces():
    form, gossip = remembering(), EXAMPLES["gossip"]
    payload = PLAIN.encode(gossip)
    form.decode(payload)
    assert payload[0] == 0x97
    assert verdict(form, b"\xdc\x00\x07" + payload[1:]) is None
    report = pack(shapes.REPORT.dump(REPORT))
    assert payload.count(b"\x91" + report) == 1
    assert verdict(form, payload.replace(b"\x91" + report, b"\xdc\x00\x01" + report)) is None
    assert verdict(form, payload + b"\xc0") is None


def test_errors_name_the_field():
    form, plain = remembering(), plain_of("gossip")
    with pytest.raises(WireError, match=r"^Gossip\.sender: not 16\.\.16 bytes$"):
        form.decode(pack((plain[0], b"short", *plain[2:])))
    with pytest.raises(WireError, match=r"^Gossip\.reports: not a list of 0\.\.50$"):
        form.encode(replace(EXAMPLES["gossip"], reports=[REPORT]))
    with pytest.raises(ValueError, match=r"Gossip\.have: Have\.id: not 32"):
        codec.encode_gossip(replace(EXAMPLES["gossip"], have=(Have(b"", b""),)))


def test_array_headers_are_those_of_msgpack():
    for count in (0, 1, 15, 16, 255, 256, 4096):
        assert pack((None,) * count) == array_header(count) + b"\xc0" * count


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x92", b"\x92\x01", b"\x92\x01\x01", b"\x93\x01\x90\x01", b"\x92\x01\x91", b"\x92\x01\x90\x01", b"\xc1"],
)
def test_split_refuses_what_is_no_such_array(payload):
    with pytest.raises(WireError):
        split(payload, [None, 4])


def test_split_gives_every_item_and_no_more_than_the_limit():
    payload = msgpack.packb([1, ["ab", {"a": 1}, [[2]]]])
    assert split(payload, [None, 3]) == [[b"\x01"], [b"\xa2ab", b"\x81\xa1a\x01", b"\x91\x91\x02"]]
    with pytest.raises(WireError, match=r"not a list of 0\.\.2"):
        split(payload, [None, 2])


# -- what is remembered -----------------------------------------------------------------------------------------------


def counting(shape: Shape) -> tuple[Shape, list[str]]:
    walks: list[str] = []

    def noted(name, walk):
        def call(value):
            walks.append(name)
            return walk(value)

        return call

    return Shape(noted("load", shape.load), noted("dump", shape.dump)), walks


def test_a_piece_is_walked_once_whoever_says_it_and_whoever_hears_it():
    shape, walks = counting(shapes.REPORT)
    reports = Pieces(shape, 2048)
    data = reports.encode(REPORT)
    assert reports.decode(bytes(bytearray(data))) is REPORT
    assert reports.encode(REPORT) is data
    assert walks == ["dump"]
    other = Pieces(shape, 2048)
    heard = other.decode(data)
    assert other.encode(heard) == data
    assert walks == ["dump", "load"]


def test_an_equal_value_is_walked_by_itself():
    """A list equals no tuple, yet True equals 1: only the very same value is excused."""
    numbers = Pieces(integer(), 0)
    assert numbers.encode(1) == b"\x01"
    with pytest.raises(WireError):
        numbers.encode(True)
    with pytest.raises(WireError):
        numbers.decode(b"\xc3")


def test_what_is_refused_is_not_remembered():
    numbers = Pieces(integer(0, 5), 0)
    for _ in range(2):
        for data in (b"\x06", b"\xcc\x05", b"\x90", b""):
            with pytest.raises(WireError):
                numbers.decode(data)
    assert len(numbers) == 0


def test_pieces_max(monkeypatch):
    monkeypatch.setattr(pieces, "PIECES_MAX", 8)
    shape, walks = counting(integer())
    numbers = Pieces(shape, 0)
    for value in range(1000):
        assert numbers.decode(pack(value)) == value
        assert len(numbers) <= 2 * 8
    walks.clear()
    for value in range(999, 999 - 8, -1):
        numbers.decode(pack(value))
    assert not walks, "the last ones are still known"
    numbers.decode(pack(1))
    assert walks == ["load"]


def test_pieces_bytes_max(monkeypatch):
    monkeypatch.setattr(pieces, "PIECES_BYTES_MAX", 1000)
    blobs = Pieces(binary(0, 4000), 0)
    for number in range(100):
        blobs.decode(pack(bytes((number,)) * 98))
        assert len(blobs) <= 2 * 10
    assert len(blobs) == 20


@pytest.mark.parametrize(
    ("size", "is_remembered"), [(pieces.PIECE_BYTES_MAX - 3, True), (pieces.PIECE_BYTES_MAX - 2, False)]
)
def test_piece_bytes_max(size, is_remembered):
    shape, walks = counting(binary(0, 5000))
    blobs = Pieces(shape, 0)
    data = pack(bytes(size))
    assert blobs.decode(data) == blobs.decode(data) == bytes(size)
    assert len(walks) == (1 if is_remembered else 2)
    assert len(blobs) == is_remembered


def test_what_is_used_survives_what_is_not(monkeypatch):
    monkeypatch.setattr(pieces, "PIECES_MAX", 8)
    shape, walks = counting(integer())
    numbers = Pieces(shape, 0)
    for value in range(100):
        numbers.decode(pack(7000))
        numbers.decode(pack(value))
    assert len(walks) == 101


def test_a_forgotten_value_gives_its_number_to_nobody(monkeypatch):
    """The number of a value is used again when the value is gone: it is kept as long as its number is known."""
    monkeypatch.setattr(pieces, "PIECES_MAX", 4)
    haves = Pieces(shapes.GOSSIP_ITEMS["have"][0], 2048)
    for number in range(200):
        bitmap = bytes((number,))
        assert haves.encode(Have(HASH, bitmap)) == pack((HASH, bitmap))

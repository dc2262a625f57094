"""A tensor's payload: there and back bit for bit, and whatever else arrives is a tensor of that shape or refused."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import compression, tensors
from p2pfusion.wire.routes import HOP_BYTES_MAX
from p2pfusion.wire.tensors import CODECS, DIMS_MAX, ELEMENTS_MAX, decode, encode, size_range

codecs = st.sampled_from(CODECS)
every_codec = pytest.mark.parametrize("codec", CODECS)
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=DIMS_MAX).map(tuple)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).normal(size=shape).astype(np.float32)


def piecewise(codec: str, payload: bytes, elements: int) -> np.ndarray:
    """What `compression` makes of the segments, cut out by hand."""
    out, at = np.empty(elements, np.float32), 0
    step = compression.elements_per_segment(codec)
    for start in range(0, elements, step):
        size = int.from_bytes(payload[at : at + 4], "big")
        compression.decode_into(codec, payload[at + 4 : at + 4 + size], out[start : start + step])
        at += 4 + size
    assert at == len(payload)
    return out


@given(shapes, st.data())
def test_fp32_keeps_every_bit(shape, data):
    size_bytes = 4 * prod(shape)
    drawn = data.draw(st.binary(min_size=size_bytes, max_size=size_bytes))
    array = np.frombuffer(drawn, np.float32).reshape(shape)
    payload = encode("fp32", array)
    back = decode("fp32", payload, shape)
    assert (back.shape, back.tobytes()) == (shape, array.tobytes())
    assert encode("fp32", back) == payload


@given(codecs, shapes, st.integers(0, 99), st.floats(0.01, 1))
def test_both_sides_compute_with_the_same_bits(codec, shape, seed, density):
    array = normal(*shape, seed=seed)
    payload = encode(codec, array, seed, density)
    back = decode(codec, payload, shape)
    assert (back.dtype, back.shape) == (np.float32, shape)
    assert back.flags.c_contiguous
    assert back.flags.writeable
    assert back.flags.owndata or back.base.flags.owndata
    assert back.tobytes() == decode(codec, bytearray(payload), shape).tobytes()
    assert back.tobytes() == piecewise(codec, payload, array.size).tobytes()
    assert np.abs(back - array).max() <= np.abs(array).max() / (100 if codec != "topk" else 1)
    least, most = size_range(codec, array.size)
    assert least <= len(payload) <= most


@every_codec
def test_several_segments(codec):
    elements = 2 * compression.elements_per_segment(codec) + 3
    array = normal(elements)
    payload = encode(codec, array)
    assert int.from_bytes(payload[:4], "big") <= SEGMENT_BYTES_MAX
    assert decode(codec, payload, (elements,)).tobytes() == piecewise(codec, payload, elements).tobytes()
    least, most = size_range(codec, elements)
    assert least <= len(payload) <= most


def test_the_layout_does_not_matter_and_nothing_is_changed():
    whole = normal(6, 8)
    for view in (whole.T, whole[::2, 1::3], whole[:, ::-1], np.asfortranarray(whole)):
        before = view.tobytes()
        assert decode("fp32", encode("fp32", view), view.shape).tobytes() == before
        assert encode("int8", view) == encode("int8", np.ascontiguousarray(view))
        assert view.tobytes() == before


def test_golden_payload():
    assert encode("fp32", np.array([[1, -2]], np.float32)).hex() == "000000080000803f000000c0"
    assert encode("bf16", np.array([1, -2], np.float32)).hex() == "00000004803f00c0"
    assert decode("bf16", bytes.fromhex("00000004803f00c0"), (2, 1)).tolist() == [[1], [-2]]


def test_the_same_seed_gives_the_same_bytes():
    array = normal(1000)
    for codec in ("int8", "topk"):
        assert encode(codec, array) == encode(codec, array, seed=0)
        assert encode(codec, array, seed=1) == encode(codec, array, seed=1) != encode(codec, array)


def test_topk_keeps_about_the_share_that_was_asked_for():
    array = normal(100, 100)
    for density, kept in ((tensors.DENSITY_DEFAULT, 1000), (0.01, 100), (1.0, 10_000)):
        payload = encode("topk", array) if kept == 1000 else encode("topk", array, density=density)
        back = decode("topk", payload, (100, 100))
        assert kept / 2 <= np.count_nonzero(np.abs(back)) <= 2 * kept
    assert len(encode("topk", array)) < len(encode("int8", array)) / 3


# -- limits -----------------------------------------------------------------------------------------------------------


@every_codec
def test_elements_max(codec):
    most = np.zeros((1, ELEMENTS_MAX), np.float32)
    payload = encode(codec, most)
    assert len(payload) <= size_range(codec, ELEMENTS_MAX)[1] <= HOP_BYTES_MAX - tensors.AROUND_BYTES_MAX
    assert not decode(codec, payload, most.shape).any()
    for beyond in ((ELEMENTS_MAX + 1,), (ELEMENTS_MAX // 2 + 1, 2)):
        with pytest.raises(ValueError, match="use smaller batches"):
            encode(codec, np.zeros(beyond, np.float32))
        with pytest.raises(WireError):
            decode(codec, payload, beyond)


def test_nothing_is_wasted_of_what_one_body_holds():
    assert size_range("fp32", ELEMENTS_MAX + 1)[1] > HOP_BYTES_MAX - tensors.AROUND_BYTES_MAX


@every_codec
def test_dims_max(codec):
    array = normal(3, 2)
    for dims in (1, DIMS_MAX):
        shape = (1,) * (dims - 1) + (6,)
        assert decode(codec, encode(codec, array.reshape(shape)), shape).shape == shape
    payload = encode(codec, array)
    for shape in ((), (1,) * DIMS_MAX + (6,)):
        with pytest.raises(ValueError, match="1 to 6 dimensions"):
            encode(codec, np.zeros(shape, np.float32))
        with pytest.raises(WireError):
            decode(codec, payload, shape)


@pytest.mark.parametrize("shape", [(0, 6), (-1, -6), (6.0,), (True, 6), ("6",), [6], None, 6, (2**24, 2**24), (2**99,)])
def test_what_is_no_shape(shape):
    with pytest.raises(WireError):
        decode("fp32", encode("fp32", normal(6)), shape)


@pytest.mark.parametrize("name", ["int4", "stc", "auto", "zip", ""])
def test_other_codecs_are_not_for_tensors(name):
    for call in (lambda: encode(name, normal(4)), lambda: size_range(name, 4)):
        with pytest.raises(ValueError, match="must be one of fp32, bf16, int8, topk"):
            call()
    with pytest.raises(WireError):
        decode(name, bytes(8), (4,))


@pytest.mark.parametrize("name", [None, b"fp32", 1, ["fp32"]])
def test_what_is_no_name_of_a_codec(name):
    with pytest.raises(WireError):
        decode(name, bytes(8), (1,))


def test_our_own_mistakes_raise_value_error():
    for wrong in (np.zeros(4), np.zeros(4, np.int32), np.zeros(4, ">f4")):
        with pytest.raises(ValueError, match="of float32"):
            encode("fp32", wrong)
    with pytest.raises(ValueError, match="dimensions of at least 1"):
        encode("fp32", np.zeros((3, 0), np.float32))
    for settings_ in ({"seed": -1}, {"density": 0.0}, {"density": 1.01}):
        with pytest.raises(ValueError, match="must be"):
            encode("topk", normal(4), **settings_)
    for codec in ("int8", "topk"):
        with pytest.raises(ValueError, match="not finite"):
            encode(codec, np.array([0, np.nan], np.float32))


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def decodes_or_refuses(codec: str, payload: bytes, shape: tuple[int, ...]) -> bool:
    try:
        found = decode(codec, payload, shape)
    except WireError:
        return False
    assert (found.shape, found.dtype) == (shape, np.float32)
    return True


@settings(max_examples=300)
@given(codecs, shapes, st.binary(max_size=80), st.booleans())
def test_any_bytes(codec, shape, data, is_framed):
    decodes_or_refuses(codec, len(data).to_bytes(4, "big") + data if is_framed else data, shape)


@every_codec
def test_every_prefix_and_one_byte_more(codec):
    array = normal(30)
    payload = encode(codec, array)
    for end in range(len(payload)):
        assert not decodes_or_refuses(codec, payload[:end], array.shape)
    for more in (b"\0", bytes(4)):
        assert not decodes_or_refuses(codec, payload + more, array.shape)


@every_codec
def test_every_bit_flip_is_another_tensor_or_refused(codec):
    payload = encode(codec, normal(30))
    for bit in range(8 * len(payload)):
        data = bytearray(payload)
        data[bit // 8] ^= 1 << bit % 8
        accepted = decodes_or_refuses(codec, bytes(data), (30,))
        assert not (accepted and bit < 32), "another length never fits"


@every_codec
def test_a_payload_of_another_shape(codec):
    payload = encode(codec, normal(600))
    assert not decodes_or_refuses(codec, payload, (10,))
    if codec != "topk":  # whose indices alone tell nothing of what follows the last one
        assert not decodes_or_refuses(codec, payload, (601,))


def test_lengths_that_lead_astray():
    step = compression.elements_per_segment("fp32")
    payload = encode("fp32", np.zeros(step + 1, np.float32))
    second = 4 + SEGMENT_BYTES_MAX
    assert payload[:4] + payload[second : second + 4] == bytes.fromhex("0010000000000004")
    for first, last in ((SEGMENT_BYTES_MAX - 1, 5), (SEGMENT_BYTES_MAX + 8, 0), (0xFFFFFFFF, 4), (0, 0), (4, 4)):
        wrong = first.to_bytes(4, "big") + payload[4:second] + last.to_bytes(4, "big") + payload[second + 4 :]
        assert not decodes_or_refuses("fp32", wrong, (step + 1,))
    assert decodes_or_refuses("fp32", payload, (step + 1,))


def test_a_few_bytes_make_no_more_than_one_tensor():
    """The least payload of the sparse codec: nothing kept. A length that no encoder gives allocates nothing at all."""
    empty = encode("topk", np.zeros(ELEMENTS_MAX, np.float32))
    assert len(empty) == size_range("topk", ELEMENTS_MAX)[0]
    assert decode("topk", empty, (ELEMENTS_MAX,)).nbytes == 4 * ELEMENTS_MAX
    assert not decodes_or_refuses("topk", empty[:-1], (ELEMENTS_MAX,))

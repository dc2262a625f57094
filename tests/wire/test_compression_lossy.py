"""Lossy codecs: error bounds, rounding that is right on average, the share kept, damage, and error feedback."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import SEGMENT_BYTES_MAX
from p2pfusion.errors import WireError
from p2pfusion.wire import gaps
from p2pfusion.wire.blocks import _dither
from p2pfusion.wire.compression import (
    CODECS,
    Coding,
    decode_into,
    elements_per_segment,
    encode,
    encoded,
    opened,
    segment_elements,
    size_range,
)
from p2pfusion.wire.selecting import selected

LOSSY = ("int8", "int4", "topk", "stc")
SPARSE = ("topk", "stc")
LEVELS = {"int8": 127, "int4": 7}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
reasonable = st.floats(-(2.0**60), 2.0**60, width=32)


def decoded(codec: str, segments: tuple[bytes, ...], elements: int) -> np.ndarray:
    out = np.full(elements, 7, np.float32)
    step = elements_per_segment(codec)
    for index, segment in enumerate(segments):
        decode_into(codec, segment, out[index * step : (index + 1) * step])
    return out


def through(codec: str, flat: np.ndarray, coding: Coding) -> np.ndarray:
    return decoded(codec, encode(codec, flat, coding), flat.size)


def heavy(size: int, seed: int = 0) -> np.ndarray:
    """Like an update: heavy tails, small."""
    return (np.random.default_rng(seed).standard_t(3, size) * 1e-3).astype(np.float32)


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("lossless", [True, False])
def test_a_full_segment_and_a_rest_fit_their_range_whatever_is_kept(codec, lossless):
    step = elements_per_segment(codec)
    assert step % 256 == 0
    assert size_range(codec, step)[1] <= SEGMENT_BYTES_MAX
    flat = np.random.default_rng(0).integers(1, 2**31, step + 3).astype(np.float32)
    for density, tensors in ((1.0, ()), (0.5, ()), (0.0001, ()), (0.01, (255,) * (step // 255) + (3 + step % 255,))):
        segments = encode(codec, flat, Coding(density=density, tensors=tensors, lossless=lossless))
        assert len(segments) == 2
        for segment, elements in zip(segments, segment_elements(codec, flat.size), strict=True):
            least, most = size_range(codec, elements)
            assert least <= len(segment) <= most


def test_zstd_follows_where_it_saves_a_tenth():
    """int8 of normally distributed numbers saves a twentieth: not worth two decompressions by everybody."""
    even = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    for flat, is_squeezed in ((even, False), (heavy(1 << 18), True)):
        raw, stored = (encode("int8", flat, Coding(lossless=lossless)) for lossless in (False, True))
        assert (stored != raw) == is_squeezed
        assert not is_squeezed or len(stored[0]) <= 0.9 * len(raw[0])


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("elements", [0, 1, 2, 3, 255, 256, 257, 513, 70_000])
def test_zeros_of_any_number_stay_zeros(codec, elements):
    for zero in (0.0, -0.0):
        flat = np.full(elements, zero, np.float32)
        assert through(codec, flat, Coding()).tobytes() == bytes(4 * elements)
        assert sum(map(len, encode(codec, flat))) <= max(600, elements // 30)


@pytest.mark.parametrize("codec", LOSSY)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(codec):
    flat = heavy(70_000)
    one, same, other = (encode(codec, flat, Coding(seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert codec == "stc" or one != other
    assert all(type(segment) is bytes for segment in one)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_vector_that_is_no_run_of_memory(codec):
    flat = heavy(3000)
    assert encode(codec, flat[::3]) == encode(codec, flat[::3].copy())
    assert (flat == heavy(3000)).all()


# -- blocks -----------------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(LEVELS)), st.lists(finite, max_size=600), st.integers(0, 9), st.booleans())
def test_an_element_is_less_than_one_step_off(codec, values, seed, lossless):
    flat = np.array(values, np.float32)
    back = through(codec, flat, Coding(seed=seed, lossless=lossless)).astype(np.float64)
    assert np.isfinite(back).all()
    for start in range(0, flat.size, 256):
        block = np.clip(flat[start : start + 256].astype(np.float64), -(2.0**126), 2.0**126)
        step = np.abs(block).max() / LEVELS[codec]
        assert step < 2.0**-125 or (np.abs(back[start : start + 256] - block) <= step * 1.0001).all()
        assert (np.abs(back[start : start + 256]) <= np.abs(block).max() * 1.0001).all()


@pytest.mark.parametrize("codec", ["int8", "int4", "topk"])
def test_rounding_is_right_on_average(codec):
    """Mean over 1,500 seeds against its own standard error, for every position and in all: no drift either way."""
    flat = np.array([1.0, 0.001, -0.3, 0.7777, -0.0042, 0.5, -1.0, 0.123456], np.float32)
    many = np.array([through(codec, flat, Coding(density=1, seed=seed)) for seed in range(1500)], np.float64)
    step = 1 / LEVELS.get(codec, 127)
    assert (np.abs(many.mean(0) - flat) < 5 * step / 2 / np.sqrt(1500)).all()
    assert (many[:, [0, 6]] == [1, -1]).mean() == pytest.approx(1, abs=0.01)


def test_over_all_beginnings_every_element_meets_every_dither_equally_often():
    """Which makes rounding unbiased exactly, to the dither's own step."""
    dither = _dither()
    period = dither.size // 2
    assert (dither[:period] == dither[period:]).all()
    steps, times = np.unique(dither[:period], return_counts=True)
    assert (times == times[0]).all()
    assert np.allclose(steps, (np.arange(steps.size) + 0.5) / steps.size)


@pytest.mark.parametrize("codec", LOSSY)
def test_the_smallest_and_the_largest(codec):
    """What is too small for a normal scale becomes zero, what is beyond 2^126 becomes 2^126."""
    for value, back in ((1e-40, 0.0), (2.0**-126, None), (2.0**126, 2.0**126), (3.4e38, 2.0**126)):
        flat = np.full(300, value, np.float32)
        out = through(codec, np.concatenate((flat, -flat)), Coding(density=1))
        assert np.isfinite(out).all()
        if back is not None:
            assert np.allclose(out[:300], back, rtol=1e-6)
            assert np.allclose(out[300:], -back, rtol=1e-6)


@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan, -1.0, -0.0, 1e-40, 3e38])
@pytest.mark.parametrize("codec", sorted(LEVELS))
def test_scales_that_no_encoder_makes_are_refused(codec, scale):
    segment = bytearray(encode(codec, np.ones(5, np.float32), Coding(lossless=False))[0])
    segment[:4] = np.array([scale], "<f4").tobytes()
    with pytest.raises(WireError):
        decode_into(codec, segment, np.empty(5, np.float32))


def test_half_a_byte_too_many_is_refused():
    segment = bytearray(encode("int4", np.ones(5, np.float32), Coding(lossless=False))[0])
    segment[-1] |= 0x10
    with pytest.raises(WireError):
        decode_into("int4", segment, np.empty(5, np.float32))


# -- what is kept -----------------------------------------------------------------------------------------------------


def adversarial(size: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    one_huge = np.full(size, 1e-6, np.float32)
    one_huge[size // 3] = 1e30
    few = np.zeros(size, np.float32)
    few[random.choice(size, size // 1000, replace=False)] = 1
    two = np.ones(size, np.float32)
    two[: size // 50] = 2
    sorted_ = np.sort(heavy(size))
    periodic = np.tile(np.array([9, 1, 1, 1, 1, 1, 1, 1, 1], np.float32), size // 9 + 1)[:size]
    hidden = np.zeros(size, np.float32)
    hidden[: size // 64] = np.arange(1, size // 64 + 1)
    return {
        "all equal": np.ones(size, np.float32), "almost all zero": few, "one huge": one_huge, "two values": two,
        "sorted": sorted_, "periodic": periodic, "hidden": hidden, "heavy": heavy(size),
        "subnormal": heavy(size) * np.float32(1e-37), "signs": np.where(random.random(size) < 0.5, -1, 1).astype("f4"),
    }  # fmt: skip


@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("size", [256, 5000, 200_000])
def test_the_number_kept_is_never_far_off(size, density):
    for name, flat in adversarial(size).items():
        kept = selected(flat, Coding(density=density), Random(0))
        wanted = min(np.ceil(density * size), np.count_nonzero(flat))
        assert wanted / 2 <= kept.size <= 2 * np.ceil(density * size), name
        assert (np.diff(kept) > 0).all()
        assert (flat[kept] != 0).all()
        if 0 < kept.size < size:  # None that is left out is larger than one that is kept.
            rest = np.delete(np.abs(flat), kept)
            assert rest.max() <= np.abs(flat[kept]).min(), name


def test_each_tensor_is_judged_by_itself_and_a_small_one_is_kept_whole():
    """A tensor with values a thousand times smaller still sends its share, a bias of 255 all of it."""
    sizes = (40_000, 255, 256, 40_000, 0, 1)
    flat = heavy(sum(sizes))
    flat[40_511:80_511] *= 1e-3
    kept = selected(flat, Coding(tensors=sizes), Random(0))
    edges = np.cumsum((0, *sizes))
    counts = [int(((kept >= a) & (kept < b)).sum()) for a, b in pairwise(edges)]
    assert counts[1:3] == [255, 3]
    assert counts[4:] == [0, 1]
    assert all(300 <= counts[index] <= 520 for index in (0, 3))


@given(st.lists(reasonable, max_size=700), st.sampled_from((0.01, 0.3, 1.0)), st.integers(0, 3))
def test_topk_keeps_values_and_stc_signs(values, density, seed):
    flat = np.array(values, np.float32)
    coding = Coding(density=density, seed=seed)
    kept = selected(flat, coding, Random(seed))
    for codec in SPARSE:
        back = through(codec, flat, coding)
        assert not back[np.setdiff1d(np.arange(flat.size), kept)].any()
        if np.abs(flat[kept]).min(initial=1) < 1e-30:
            continue
        for start in range(0, kept.size, 256):
            block, found = flat[kept[start : start + 256]].astype(np.float64), back[kept[start : start + 256]]
            if codec == "stc":
                assert np.allclose(found, np.sign(block) * np.abs(block).mean(), rtol=1e-6)
            else:
                assert (np.abs(found - block) <= np.abs(block).max() / 127 * 1.0001).all()


# -- indices ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200_000), st.lists(st.integers(0, 199_999), max_size=40))
def test_indices_there_and_back_in_every_way(elements, found):
    indices = np.array(sorted({index % elements for index in found}), np.int64)
    for kind, piece in gaps.candidates(indices, elements).items():
        least, most = gaps.bytes_range(kind, indices.size, elements)
        assert least <= len(piece) <= most
        assert gaps.read(kind, piece, indices.size, elements).tolist() == indices.tolist()


def test_each_way_is_the_shortest_somewhere():
    random = np.random.default_rng(0)
    for density, kind in ((0.0001, gaps.GAPS16), (0.01, gaps.GAPS8), (0.6, gaps.MASK)):
        flat = np.where(random.random(200_000) < density, 1, 0).astype(np.float32)
        assert encode("stc", flat, Coding(density=1))[0][0] == kind


@pytest.mark.parametrize(
    ("kind", "piece", "count"),
    [
        (gaps.GAPS8, b"\xff", 1),
        (gaps.GAPS8, b"\x01\xff", 1),
        (gaps.GAPS8, b"\x01\x02", 1),
        (gaps.GAPS8, b"\x01", 2),
        (gaps.GAPS8, b"\x64", 1),
        (gaps.GAPS8, b"\x62\x01", 2),
        (gaps.GAPS16, b"\x01", 1),
        (gaps.GAPS16, b"\xff\xff", 1),
        (gaps.GAPS16, b"\x64\x00", 1),
        (gaps.MASK, bytes(12) + b"\x10", 1),
        (gaps.MASK, bytes(12) + b"\x08", 2),
    ],
)
def test_indices_that_do_not_fit(kind, piece, count):
    with pytest.raises(WireError):
        gaps.read(kind, piece, count, 100)


def test_indices_of_an_unknown_kind():
    with pytest.raises(WireError):
        gaps.bytes_range(3, 1, 100)


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("density", [0.01, 0.3])
def test_damaged_segments_are_refused_or_decode_to_finite_values(codec, lossless, density):
    """Every prefix, every byte changed in two ways, and lengths forged to the extremes."""
    flat = heavy(800, seed=5)
    flat[200:500] = 0
    segment = encode(codec, flat, Coding(density=density, lossless=lossless))[0]
    out = np.empty(800, np.float32)
    fine = 0
    for change in damaged(segment):
        try:
            decode_into(codec, change, out)
        except WireError:
            continue
        fine += 1
        assert np.isfinite(out).all()
    assert fine < 2 * len(segment) + 21
    for prefix in range(len(segment)):
        with pytest.raises(WireError):
            decode_into(codec, segment[:prefix], out)
    with pytest.raises(WireError):
        decode_into(codec, segment + b"\0", out)


def damaged(segment: bytes) -> list[bytes]:
    changes = []
    for at in range(len(segment)):
        for bit in (1, 0x80):
            changed = bytearray(segment)
            changed[at] ^= bit
            changes.append(bytes(changed))
    words = [word.to_bytes(4, "little") for word in (0, 1, 799, 800, 801, 2**31, 2**32 - 1)]
    return changes + [segment[:at] + word + segment[at + 4 :] for at in (1, 5, 9) for word in words]


@given(st.sampled_from(LOSSY), st.binary(max_size=200), st.integers(1, 400))
def test_any_bytes_at_all(codec, segment, elements):
    out = np.empty(elements, np.float32)
    try:
        decode_into(codec, segment, out)
    except WireError:
        return
    assert np.isfinite(out).all()


# -- opened segments --------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(CODECS)), st.integers(1, 1300), st.integers(0, 4), st.integers(1, 5), st.booleans())
def test_what_is_read_from_any_block_on_is_what_is_read_at_once(codec, elements, first, blocks, lossless):
    flat = heavy(elements, seed=elements)
    segment = encode(codec, flat, Coding(density=0.2, lossless=lossless))[0]
    start = min(256 * first, elements - elements % 256)
    stop = min(start + 256 * blocks, elements)
    part = np.full(stop - start, 7, np.float32)
    opened(codec, segment, elements).read(start, part)
    assert part.tobytes() == decoded(codec, (segment,), elements)[start:stop].tobytes()


@given(st.sampled_from(sorted(CODECS)), st.lists(finite, min_size=1, max_size=600))
def test_the_largest_magnitude_is_known_without_decoding(codec, values):
    flat = np.array(values, np.float32)
    segment = encode(codec, flat, Coding(density=1))[0]
    found, largest = np.abs(decoded(codec, (segment,), flat.size)).max(), opened(codec, segment, flat.size).largest()
    found, largest = float(found), float(largest)  # in float64: the products may be above float32's largest
    assert found <= largest * (1 + 2.0**-20)
    # Rounding at random may leave all of a block a step below its largest.
    assert largest <= found * (1 if codec not in ("int4", "int8", "topk") else 7 / 6 + 1e-6)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_of_what_is_not_finite_is_not(codec, sign):
    for value in (np.inf, np.nan):
        flat = np.array([1, sign * value, -2], np.float32)
        assert not opened(codec, encode(codec, flat)[0], 3).largest() <= 3e38


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=200), st.integers(1, 400))
def test_what_can_be_opened_can_be_read_and_is_as_large_as_it_says(codec, segment, elements):
    try:
        found = opened(codec, segment, elements)
    except WireError:
        return
    out = np.empty(elements, np.float32)
    found.read(0, out)
    assert not np.abs(out).max() > found.largest() * 8 / 7 * (1 + 2.0**-20)


def test_segments_are_made_when_they_are_asked_for():
    """And their elements are the caller's again."""
    flat = heavy(elements_per_segment("int8") + 10)
    whole = encode("int8", flat, Coding(seed=1))
    one = encoded("int8", flat, Coding(seed=1))
    assert next(one) == whole[0]
    flat[: elements_per_segment("int8")] = np.nan
    assert list(one) == [whole[1]]


# -- error feedback ---------------------------------------------------------------------------------------------------


def missing(codec: str, *, feedback: bool, rounds: int) -> float:
    """How far the sum of what arrived is from the sum of what was meant, in rounds' worth of the steady part (L2).

    Deltas have a steady part, whose small elements a sparse codec never chooses by themselves, and noise.
    """
    random = np.random.default_rng(7)
    steady = heavy(1000, seed=8)
    meant, arrived = np.zeros(1000), np.zeros(1000)
    residual = np.zeros(1000, np.float32)
    for round_ in range(rounds):
        delta = steady + (random.standard_normal(1000) * 3e-4).astype(np.float32)
        produced = delta + residual
        sent = through(codec, produced, Coding(density=0.05, seed=round_))
        if feedback:
            residual = produced - sent
        meant += delta
        arrived += sent
    return float(np.linalg.norm(meant - arrived) / np.linalg.norm(steady))


@pytest.mark.parametrize(("codec", "most"), [("int8", 0.05), ("int4", 0.5), ("topk", 8), ("stc", 8)])
def test_with_error_feedback_the_sum_follows(codec, most):
    """What is missing is one residual, however many rounds there were."""
    assert missing(codec, feedback=True, rounds=80) < most
    assert missing(codec, feedback=True, rounds=240) < most


@pytest.mark.parametrize("codec", SPARSE)
def test_without_it_the_sum_does_not(codec):
    assert missing(codec, feedback=False, rounds=80) > 40


def test_every_lossy_codec_is_tested_here():
    assert {"fp32", "bf16", *LOSSY} == set(CODECS)

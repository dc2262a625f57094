"""The gate: one test per reason, at the edge of each rule, and no way past it that raises."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import COVERED_IDS_MAX, LINK_IDS_MAX, SEGMENT_BYTES_MAX, VALUE_MAX, WEIGHT_MAX, RunConfig
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.submodel import SubModel
from p2pfusion.swarm.gate import RULES, is_sound, judge, judge_segment
from p2pfusion.wire.compression import CODECS, Coding, decode_into, encode, size_range
from p2pfusion.wire.lossless import zstd
from p2pfusion.wire.messages import Contribution, Graft, SegmentInfo
from tests.wire import strategies as wire
from tests.wire.strategies import BLUEPRINT, HASH, RUN, work

WORK = work(round=80).manifest
SIZE = BLUEPRINT.size
BOTH = BLUEPRINT.blocks
ALL = Coding(density=1)
LOSSY = ("int8", "int4", "topk", "stc")


def sized(*sizes: int) -> tuple[SegmentInfo, ...]:
    return tuple(SegmentInfo(HASH, size) for size in sizes)


FORK = Graft(fork_chain=HASH, lost_chain=bytes(32), length=80, weight_lost=5, weight_kept=5, covers=2, after=0)
GRAFT = replace(
    WORK,
    kind="graft",
    weight=1,
    samples=0,
    codec="fp32",
    sub_model=BLUEPRINT.whole(),
    segments=sized(4 * SIZE, 64),
    graft=FORK,
)


def forked(**changes: int) -> Contribution:
    return replace(GRAFT, graft=replace(FORK, **changes))


def kept(*axes: tuple[str, tuple[tuple[int, int], ...]], blocks: tuple[str, ...] = BOTH) -> Contribution:
    return replace(WORK, sub_model=SubModel(blocks, axes))


REFUSED = {
    "shard": [replace(WORK, shard=1)],
    "graft": [
        replace(WORK, kind="graft"),
        replace(WORK, graft=FORK),
        replace(GRAFT, kind="work"),
        replace(GRAFT, weight=2),
        replace(GRAFT, samples=1),
        replace(GRAFT, codec="bf16"),
        replace(GRAFT, sub_model=SubModel(BOTH, (("h1", ((0, 4),)),))),
        forked(weight_lost=0),
        forked(weight_lost=6),
        forked(weight_lost=2 * WEIGHT_MAX + 1, weight_kept=2 * WEIGHT_MAX + 1),
        forked(length=0),
        forked(length=81),
        forked(covers=0),
        forked(covers=COVERED_IDS_MAX + 1),
    ],
    "round": [replace(WORK, round=0, base_round=0)],
    "staleness": [replace(WORK, base_round=81), replace(WORK, base_round=80 - RUN.staleness_max_rounds - 1)],
    "weight": [replace(WORK, weight=0), replace(WORK, weight=WEIGHT_MAX + 1)],
    "samples": [replace(WORK, samples=0)],
    "codec": [replace(WORK, codec="zip"), replace(WORK, codec="")],
    "sub-model": [
        kept(blocks=()),
        kept(blocks=("body", "body")),
        kept(blocks=("head", "body")),
        kept(blocks=("tail",)),
        kept(("h3", ((0, 4),))),
        kept(("h2", ((0, 3),)), ("h1", ((0, 4),))),
        kept(("h1", ((0, 4),)), ("h1", ((0, 4),))),
        kept(("h1", ())),
        kept(("h1", ((0, 8),))),
        kept(("h1", ((0, 9),))),
        kept(("h1", ((4, 4),))),
        kept(("h1", ((0, 2), (2, 4)))),
        kept(("h1", ((2, 4), (0, 1)))),
        kept(("h2", ((0, 4),))),
        kept(("h2", ((1, 3),))),
        kept(("h1", ((0, 2**53 - 1),))),
    ],
    "segments": [
        replace(WORK, segments=()),
        replace(WORK, segments=sized(4 * SIZE - 4)),
        replace(WORK, segments=sized(4 * SIZE + 4)),
        replace(WORK, segments=sized(4 * SIZE, 4)),
        replace(WORK, segments=sized(4, 4 * SIZE - 4)),
        replace(WORK, codec="bf16"),
        kept(("h1", ((0, 4),))),
        forked(covers=3),
        replace(GRAFT, segments=sized(4 * SIZE)),
        *(replace(WORK, codec=codec, segments=sized(size_range(codec, SIZE)[0] - 1)) for codec in LOSSY),
        *(replace(WORK, codec=codec, segments=sized(size_range(codec, SIZE)[1] + 1)) for codec in LOSSY),
        *(replace(WORK, codec=codec, segments=sized(50, 50)) for codec in LOSSY),
    ],
}

ACCEPTED = [
    WORK,
    replace(WORK, base_round=80),
    replace(WORK, base_round=80 - RUN.staleness_max_rounds),
    replace(WORK, round=1, base_round=0),
    replace(WORK, weight=1),
    replace(WORK, weight=WEIGHT_MAX),
    replace(WORK, samples=1),
    replace(WORK, codec="bf16", segments=sized(2 * SIZE)),
    *(replace(WORK, codec=codec, segments=sized(size)) for codec in LOSSY for size in size_range(codec, SIZE)),
    GRAFT,
    forked(weight_lost=2 * WEIGHT_MAX, weight_kept=2 * WEIGHT_MAX),
    forked(length=1),
    replace(
        forked(covers=COVERED_IDS_MAX),
        segments=sized(4 * SIZE, *[SEGMENT_BYTES_MAX] * (32 * COVERED_IDS_MAX // SEGMENT_BYTES_MAX)),
    ),
]


def test_ids_that_a_graft_stands_for_are_listed_once_in_order():
    ids = [bytes([i]) * 32 for i in range(3)]
    for listed, reason in ((ids, None), (ids[::-1], "covers"), ([ids[0], ids[0], ids[1]], "covers")):
        data = b"".join(listed)
        segments = (*sized(4 * SIZE), SegmentInfo(blake3(data).digest(), len(data)))
        assert judge_segment(replace(forked(covers=3), segments=segments), 1, data, BLUEPRINT) == reason


def test_every_rule_is_tested():
    assert list(REFUSED) == [reason for reason, _ in RULES]


@pytest.mark.parametrize(("reason", "manifest"), [(r, m) for r, manifests in REFUSED.items() for m in manifests])
def test_refused(reason, manifest):
    assert judge(manifest, BLUEPRINT, RUN) == reason


@pytest.mark.parametrize("manifest", ACCEPTED)
def test_accepted(manifest):
    assert judge(manifest, BLUEPRINT, RUN) is None


def test_staleness_is_the_runs():
    old = replace(WORK, base_round=70)
    assert judge(old, BLUEPRINT, RunConfig(staleness_max_rounds=10)) is None
    assert judge(old, BLUEPRINT, RunConfig(staleness_max_rounds=9)) == "staleness"


@given(wire.slices(), st.sampled_from(sorted(CODECS)), st.integers(0, 9))
def test_honest_work_on_any_slice_passes(sub_model, codec, seed):
    honest = work(sub_model, codec=codec, seed=seed)
    assert judge(honest.manifest, BLUEPRINT, RUN) is None
    assert [judge_segment(honest.manifest, i, data, BLUEPRINT) for i, data in enumerate(honest.segments)] == [None]


@given(wire.contributions)
def test_whatever_the_wire_carries_gets_a_verdict(manifest):
    assert judge(manifest, BLUEPRINT, RUN) in [reason for reason, _ in RULES]
    assert judge(replace(WORK, sub_model=manifest.sub_model), BLUEPRINT, RUN) == "sub-model"


def test_a_block_without_parameters_has_nothing_to_contribute():
    parameters = (Parameter("w", "a", (Dim("h"),), Init(None)),)
    blueprint = Blueprint(("a", "flatten"), (Axis("h", 4),), parameters, BLUEPRINT.factory)
    empty = replace(WORK, sub_model=SubModel(("flatten",)), segments=())
    assert judge(empty, blueprint, RUN) == "segments"


def test_large_work_is_cut_where_everybody_cuts_it():
    blueprint = line(600_000)
    rest = 4 * 600_000 - 2 * SEGMENT_BYTES_MAX
    cut = replace(WORK, sub_model=blueprint.whole(), segments=sized(SEGMENT_BYTES_MAX, SEGMENT_BYTES_MAX, rest))
    assert judge(cut, blueprint, RUN) is None
    assert judge(replace(cut, segments=cut.segments[::-1]), blueprint, RUN) == "segments"


# -- segments ---------------------------------------------------------------------------------------------------------


def line(elements: int) -> Blueprint:
    """A model of one parameter of that many elements."""
    return Blueprint(("a",), (Axis("h", elements),), (Parameter("w", "a", (Dim("h"),), Init(None)),), BLUEPRINT.factory)


def of_values(values: np.ndarray, codec: str, coding: Coding = ALL) -> tuple[Contribution, bytes, Blueprint]:
    data = b"".join(encode(codec, values, coding))
    blueprint = line(values.size)
    info = SegmentInfo(blake3(data).digest(), len(data))
    return replace(WORK, codec=codec, segments=(info,), sub_model=blueprint.whole()), data, blueprint


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_what_is_wrong_with_a_segment(codec):
    manifest, data, blueprint = of_values(np.arange(8, dtype=np.float32), codec)
    assert judge_segment(manifest, 0, data, blueprint) is None
    assert judge_segment(manifest, 0, bytearray(data), blueprint) is None
    assert judge_segment(manifest, 0, memoryview(data), blueprint) is None
    assert judge_segment(manifest, 1, data, blueprint) == "index"
    assert judge_segment(manifest, -1, data, blueprint) == "index"
    assert judge_segment(manifest, 0, data[:-1], blueprint) == "size"
    assert judge_segment(manifest, 0, data + b"\x00", blueprint) == "size"
    assert judge_segment(manifest, 0, b"", blueprint) == "size"
    assert judge_segment(manifest, 0, b"\x01" + data[1:], blueprint) == "hash"


def test_a_lossy_segment_of_fitting_size_and_hash_that_is_none():
    """One scale that is no number, an index beyond the end, a frame that swells: refused before it is in the ledger."""
    scale = np.array([np.nan], "<f4").tobytes() + bytes(SIZE)
    beyond = struct.pack("<BIII", 0, 1, 1, 1) + bytes([SIZE]) + np.ones(1, "<f4").tobytes() + b"\1"
    for codec, data in (("int8", scale), ("int8", zstd.compress(bytes(1 << 20))), ("topk", beyond)):
        info = SegmentInfo(blake3(data).digest(), len(data))
        manifest = replace(WORK, codec=codec, segments=(info,))
        assert judge(manifest, BLUEPRINT, RUN) is None
        assert judge_segment(manifest, 0, data, BLUEPRINT) == "encoding"


def test_the_last_segment_of_a_sparse_contribution_is_judged_as_long_as_it_is():
    blueprint = line((7 << 17) + 5)
    segments = encode("topk", np.ones(blueprint.size, np.float32))
    infos = tuple(SegmentInfo(blake3(segment).digest(), len(segment)) for segment in segments)
    manifest = replace(WORK, codec="topk", sub_model=blueprint.whole(), segments=infos)
    assert judge(manifest, blueprint, RUN) is None
    assert [judge_segment(manifest, i, data, blueprint) for i, data in enumerate(segments)] == [None, None]


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("at", [0, 500, 1023])
def test_one_value_that_is_not_finite(codec, bad, at):
    values = np.zeros(1024, np.float32)
    values[at] = bad
    manifest, data, blueprint = of_values(values, codec)
    assert judge_segment(manifest, 0, data, blueprint) == "finite"


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_large_values_whose_squares_overflow(codec):
    """At the limit and beyond it: bf16 has no number between 0.999 and 1.001 of it, lossy codecs have no infinity."""
    for factor, verdict in ((0.99, None), (1.01, "finite")):
        manifest, data, blueprint = of_values(np.full(1024, VALUE_MAX * factor, np.float32), codec)
        assert judge_segment(manifest, 0, data, blueprint) == verdict


EXTREMES = (VALUE_MAX, -VALUE_MAX, 0.9999 * VALUE_MAX, 0.0, -0.0, 1e-45, 2.0**-126, 1.0)
sound = st.sampled_from(EXTREMES) | st.floats(-(2.0**66), 2.0**66, width=32)


@given(st.sampled_from(sorted(CODECS)), st.lists(sound, min_size=1, max_size=300), st.integers(0, 99), st.booleans())
def test_what_a_codec_makes_of_sound_numbers_passes_everybodys_gate(codec, values, seed, lossless):
    """Rounding puts some an ulp above what the author checked."""
    flat = np.array(values, np.float32)
    assert is_sound(flat)
    coding = Coding(density=1, seed=seed, lossless=lossless)
    manifest, data, blueprint = of_values(flat, codec, coding)
    assert judge(manifest, blueprint, RUN) is None
    assert judge_segment(manifest, 0, data, blueprint) is None


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_the_largest_numbers_of_all_pass_in_every_block(codec):
    """64 blocks whose largest lies at or just below the limit, where scales round in every way."""
    flat = np.full(64 * 256, VALUE_MAX, np.float32)
    for block in range(64):
        flat[256 * block : 256 * (block + 1)] -= np.float32(block * 2.0**43)
    for sign in (1, -1):
        manifest, data, blueprint = of_values(sign * flat, codec)
        assert judge_segment(manifest, 0, data, blueprint) is None


def test_integers_that_no_encoder_writes_pass_and_do_no_harm():
    """-128 and -8 at the largest scale: what a round of them sums up to is finite."""
    for codec, low, levels in (("int8", b"\x80", 127), ("int4", b"\x88", 7)):
        data = np.array([VALUE_MAX / levels], "<f4").tobytes() + low * (256 // (2 if codec == "int4" else 1))
        info = SegmentInfo(blake3(data).digest(), len(data))
        manifest = replace(WORK, codec=codec, segments=(info,), sub_model=line(256).whole())
        assert judge_segment(manifest, 0, data, line(256)) is None
        values = np.empty(256, np.float32)
        decode_into(codec, data, values)
        assert (np.abs(values) <= 8 / 7 * VALUE_MAX * 1.000001).all()
        assert np.isfinite(values[0] * np.float32(WEIGHT_MAX) * np.float32(LINK_IDS_MAX))


def test_a_round_of_the_largest_values_and_weights_stays_finite():
    assert np.isfinite(np.float32(VALUE_MAX) * np.float32(WEIGHT_MAX) * np.float32(LINK_IDS_MAX))


@given(st.lists(st.floats(width=32), max_size=70))
def test_the_fast_check_is_exact(values):
    flat = np.array(values, np.float32)
    assert is_sound(flat) == all(abs(value) <= VALUE_MAX for value in flat)

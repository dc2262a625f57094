"""What a contribution is made of: nothing is lost between delta, residual and what everybody decodes."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import VALUE_MAX
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.replica import Lent, Owed
from p2pfusion.core.submodel import SubModel, Vector, extract, scatter
from p2pfusion.core.values import as_values
from p2pfusion.node import outgoing
from p2pfusion.node.decoding import Encoded
from p2pfusion.node.outgoing import Outgoing, prepare
from p2pfusion.swarm.thrift import Choice
from p2pfusion.wire.compression import CODECS, elements_per_segment
from tests.node.parts import BLUEPRINT, SLICES, WHOLE

codecs = st.sampled_from(sorted(CODECS))
slices = st.sampled_from(SLICES)
seeds = st.integers(0, 2**32)


def line(size: int) -> Blueprint:
    """A model of one parameter."""
    return Blueprint(("a",), (Axis("h", size),), (Parameter("w", "a", (Dim("h"),), Init(None)),), lambda *_: None)


def noise(size: int, seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def lent(kind: str, seed: int, blueprint: Blueprint = BLUEPRINT) -> Lent:
    """No residual, one, one that is owed something, or nothing but what is owed."""
    vector = noise(blueprint.size, seed) if kind in ("some", "both") else None
    owed = [Owed(one, lambda one=one: as_values(noise(one.size(blueprint), seed)), -1.0) for one in SLICES[1:]]  # type: ignore[misc]
    return Lent(blueprint, vector, tuple(owed) if kind in ("owed", "both") else ())


kinds = st.sampled_from(("none", "some", "both", "owed"))


def decoded(codec: str, made: Outgoing, size: int) -> Vector:
    values = Encoded(codec, made.segments, size)
    return np.array(values.span(0, size))


def books(before: Lent, sub_model: SubModel, delta: Vector, codec: str, made: Outgoing) -> Vector:
    """How far the residual afterwards is from what it should be, in float64, for every element of the model."""
    expected = np.zeros(before.blueprint.size) if before.vector is None and not before.owed else before.settled()
    inside = extract(before.blueprint, np.asarray(expected, np.float32), sub_model).astype(np.float64)
    after = np.zeros(before.blueprint.size, np.float32) if made.residual is None else made.residual
    inside += delta
    inside -= decoded(codec, made, delta.size)
    outside = np.array(expected, np.float32)
    scatter(before.blueprint, outside, sub_model, inside.astype(np.float32))
    return np.abs(outside - after)


@settings(max_examples=150, deadline=None)
@given(codecs, slices, kinds, st.booleans(), seeds)
def test_residual_before_and_delta_are_what_is_decoded_and_the_residual_after(codec, sub_model, kind, lossless, seed):
    before, delta = lent(kind, seed), noise(sub_model.size(BLUEPRINT), seed + 1)
    was, given_ = None if before.vector is None else before.vector.copy(), delta.copy()
    made = prepare(before, sub_model, delta, Choice(codec, 0.2, lossless), seed)
    assert made is not None
    assert [(info.hash, info.size) for info in made.infos] == [(blake3(s).digest(), len(s)) for s in made.segments]
    assert books(before, sub_model, delta, codec, made).max() < 1e-5
    # How the residual differs is what is added to another one that took its place.
    settled = np.zeros(BLUEPRINT.size, np.float32) if kind == "none" else before.settled()
    after = np.zeros(BLUEPRINT.size, np.float32) if made.residual is None else made.residual
    assert np.abs(extract(BLUEPRINT, after - settled, sub_model) - made.change()).max() < 1e-6
    # Others may look at what was given, and at what is left.
    assert delta.tobytes() == given_.tobytes()
    assert before.vector is None or before.vector.tobytes() == was.tobytes()
    for theirs in (delta, before.vector):
        assert theirs is None or made.residual is None or not np.shares_memory(theirs, made.residual)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_without_a_residual_only_what_is_lossy_makes_one(codec):
    for sub_model in SLICES:
        made = prepare(lent("none", 0), sub_model, noise(sub_model.size(BLUEPRINT), 1), Choice(codec, 0.2), 0)
        assert made is not None
        assert (made.residual is None) == (codec == "fp32")


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4", "topk"])
def test_many_chunks_and_segments_are_the_same_as_one(codec):
    """Longer than a segment and no multiple of anything; values decoded in pieces are lost in the same pieces."""
    blueprint = line(size := elements_per_segment(codec) + 70_001)
    residual, delta = noise(size, 0), noise(size, 1)
    made = prepare(Lent(blueprint, residual, ()), blueprint.whole(), delta, Choice(codec, 0.05), 3)
    assert made is not None
    assert len(made.segments) == 2
    assert made.residual is not None
    expected = delta + residual - decoded(codec, made, size)
    assert made.residual.tobytes() == expected.tobytes()


BAD = (np.nan, np.inf, -np.inf, 2 * VALUE_MAX, -1.5 * VALUE_MAX)


@given(codecs, slices, kinds, st.sampled_from(BAD), st.integers(0, 10**6))
def test_unsound_numbers_give_nothing(codec, sub_model, kind, bad, at):
    delta = noise(sub_model.size(BLUEPRINT), 0)
    delta[at % delta.size] = bad
    assert prepare(lent(kind, 1), sub_model, delta, Choice(codec), 0) is None


def test_a_sum_that_is_unsound_gives_nothing():
    """Neither the delta nor the residual is; a bad number far from the first is found in its chunk."""
    vector = np.zeros(BLUEPRINT.size, np.float32)
    vector[-1] = 0.7 * VALUE_MAX
    for values, is_sound in ((vector, False), (-vector, True)):
        made = prepare(Lent(BLUEPRINT, values, ()), WHOLE, vector.copy(), Choice("int8"), 0)
        assert (made is not None) == is_sound


def test_one_element_is_found_in_every_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outgoing, "_CHUNK", 256)
    blueprint = line(size := 700)
    for at in (0, 255, 256, 511, 512, 699):
        delta = np.ones(size, np.float32)
        delta[at] = np.inf
        before = Lent(blueprint, np.ones(size, np.float32), ())
        assert prepare(before, blueprint.whole(), delta, Choice("int8"), 0) is None


def test_the_choice_reaches_the_codec():
    blueprint = line(5000)
    before, delta = lent("none", 0, blueprint), noise(5000, 0)
    few, many = (prepare(before, blueprint.whole(), delta, Choice("topk", density), 0) for density in (0.05, 0.5))
    assert few is not None
    assert many is not None
    assert few.infos[0].size < many.infos[0].size

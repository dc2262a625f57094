"""The fold: equal sets give equal bits; what is not covered does not change; a slice of it costs a slice."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core.fold import Weighted, fold, model_sha256
from p2pfusion.core.genesis import genesis
from p2pfusion.core.submodel import SubModel, extract
from p2pfusion.zoo.blueprints import mlp
from tests.core.strategies import blueprints, contributions, dumb_fold, sub_models, vectors


def bits(vector: object) -> bytes:
    return np.asarray(vector, np.float32).tobytes()


@given(st.data())
def test_equal_sets_give_equal_bits_in_any_order_with_any_duplication(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    items = data.draw(contributions(blueprint))
    base = data.draw(vectors(blueprint.size))
    again = data.draw(
        st.permutations(items + data.draw(st.lists(st.sampled_from(items), max_size=3) if items else st.just([])))
    )
    copies = [Weighted(item.peer, item.weight, item.sub_model, item.values.copy()) for item in again]
    expected = bits(fold(blueprint, blueprint.whole(), base, items))
    assert bits(fold(blueprint, blueprint.whole(), base, iter(again))) == expected
    assert bits(fold(blueprint, blueprint.whole(), base, [*copies, *again])) == expected


@given(st.data())
def test_fold_is_its_dumb_twin(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    items = data.draw(contributions(blueprint))
    base = data.draw(vectors(blueprint.size))
    assert bits(fold(blueprint, blueprint.whole(), base, items)) == bits(dumb_fold(blueprint, base, items))


@given(st.data())
def test_a_slice_of_the_fold_is_the_fold_of_a_slice(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    items = data.draw(contributions(blueprint))
    base = data.draw(vectors(blueprint.size))
    target = data.draw(sub_models(blueprint))
    whole = fold(blueprint, blueprint.whole(), base, items)
    assert bits(fold(blueprint, target, extract(blueprint, base, target), items)) == bits(
        extract(blueprint, whole, target)
    )


@given(st.data())
def test_folding_untouched_copies_is_the_identity(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    base = data.draw(vectors(blueprint.size)) + np.float32(0)  # adding a delta of 0.0 makes +0.0 of -0.0, as IEEE says
    items = [
        Weighted(
            bytes([n]) * 16, n + 1, sub_model, extract(blueprint, base, sub_model) - extract(blueprint, base, sub_model)
        )
        for n, sub_model in enumerate(data.draw(st.lists(sub_models(blueprint), max_size=4)))
    ]
    assert bits(fold(blueprint, blueprint.whole(), base, items)) == bits(base)


@given(st.data())
def test_what_nothing_covers_keeps_its_bits(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    items = data.draw(contributions(blueprint))
    base = np.full(blueprint.size, -0.0, np.float32)
    covered = np.zeros(blueprint.size, bool)
    for item in items:
        covered[item.sub_model.positions(blueprint)] = True
    after = fold(blueprint, blueprint.whole(), base, items)
    assert np.signbit(after[~covered]).all()
    assert base.tobytes() == np.full(blueprint.size, -0.0, np.float32).tobytes()


def test_with_one_common_base_it_is_the_weighted_mean_of_the_copies() -> None:
    blueprint = mlp(2, (4,), 2)
    base = genesis(blueprint, 3)
    left = SubModel.of(blueprint, {"hidden1": [(0, 3)]})
    right = SubModel.of(blueprint, {"hidden1": [(1, 4)]})
    items = [
        Weighted(b"a" * 16, 1, left, np.full(left.size(blueprint), 4, np.float32)),
        Weighted(b"b" * 16, 3, right, np.full(right.size(blueprint), 8, np.float32)),
    ]
    delta = fold(blueprint, blueprint.whole(), np.zeros_like(base), items)
    assert extract(blueprint, delta, SubModel.of(blueprint, {"hidden1": [0]}, ["hidden1"])).tolist() == [4] * 3
    assert extract(blueprint, delta, SubModel.of(blueprint, {"hidden1": [1, 2]}, ["hidden1"])).tolist() == [7] * 6
    assert extract(blueprint, delta, SubModel.of(blueprint, {"hidden1": [3]}, ["hidden1"])).tolist() == [8] * 3


def test_weights_are_integers_within_the_wire_limits() -> None:
    blueprint = mlp(2, (4,), 2)
    values = np.ones(blueprint.size, np.float32)
    for weight in (1, WEIGHT_MAX):
        item = Weighted(b"a" * 16, weight, blueprint.whole(), values)
        assert (fold(blueprint, blueprint.whole(), values, [item]) == 2).all()
    for weight in (0, WEIGHT_MAX + 1):
        with pytest.raises(ValueError, match="weight"):
            Weighted(b"a" * 16, weight, blueprint.whole(), values)


def test_misuse_is_refused() -> None:
    blueprint = mlp(2, (4,), 2)
    whole, values = blueprint.whole(), np.ones(blueprint.size, np.float32)
    with pytest.raises(ValueError, match="float32"):
        Weighted(b"a" * 16, 1, whole, values.astype(np.float64))
    with pytest.raises(ValueError, match="values"):
        fold(blueprint, whole, values, [Weighted(b"a" * 16, 1, whole, values[1:])])
    with pytest.raises(ValueError, match="base"):
        fold(blueprint, whole, values[1:], [])
    with pytest.raises(ValueError, match="two different"):
        fold(blueprint, whole, values, [Weighted(b"a" * 16, 1, whole, values), Weighted(b"a" * 16, 2, whole, values)])
    with pytest.raises(ValueError, match="two different"):
        fold(blueprint, whole, values, [Weighted(b"a" * 16, 1, whole, values), Weighted(b"a" * 16, 1, whole, -values)])


def test_overflow_gives_infinity_without_a_warning() -> None:
    blueprint = mlp(2, (4,), 2)
    huge = Weighted(b"a" * 16, WEIGHT_MAX, blueprint.whole(), np.full(blueprint.size, 3e38, np.float32))
    assert np.isinf(fold(blueprint, blueprint.whole(), np.zeros(blueprint.size, np.float32), [huge])).all()


def test_model_sha256_is_of_little_endian_float32() -> None:
    vector = np.array([1.5, -0.0], np.float32)
    assert model_sha256(vector) == hashlib.sha256(bytes.fromhex("0000c03f00000080")).hexdigest()
    assert model_sha256(vector.astype(">f4")) == model_sha256(vector)

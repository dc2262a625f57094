"""The fold: equal sets give equal bits; what is not covered does not change; a slice of it costs a slice."""

from __future__ import annotations

import hashlib
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfusion.config import WEIGHT_MAX
from p2pfusion.core import cells, overlaps
from p2pfusion.core import fold as folding
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.cells import cut
from p2pfusion.core.fold import Weighted, add, fold, fold_into, model_sha256
from p2pfusion.core.genesis import genesis
from p2pfusion.core.schemes import Scheme, Seat, constant, double_shift, full, random_dropout, static
from p2pfusion.core.submodel import SubModel, Vector, extract, layout, scatter_add
from p2pfusion.core.values import Plain
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from tests.core.dense import dense_fold
from tests.core.strategies import blueprints, contributions, dumb_fold, no_module, sub_models, vectors, wild_vector


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


# -- the same bits as the dense fold, whichever way it is cut ---------------------------------------------------------

LIMITS = st.fixed_dictionaries(
    {
        "CHUNK_ELEMENTS": st.sampled_from([1, 3, 8, 1 << 16]),
        "SMALL_ELEMENTS": st.sampled_from([0, 4, 1 << 13]),
        "BANDS_MAX": st.sampled_from([1, 3, 64]),
        "RECTANGLES_MAX": st.sampled_from([1, 2, 64]),
        "COVERED_RUNS_MAX": st.sampled_from([0, 1, 16]),
    }
)
"""Small ones, so that small models take every way."""


def limited(patch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    for name, value in limits.items():
        for module in (cells, overlaps, folding):
            if hasattr(module, name):
                patch.setattr(module, name, value)


def extreme_vector(size: int, seed: int) -> Vector:
    """Any finite float32: the largest, which overflow when weighted, denormals, zeros of both signs, powers of two."""
    raw = np.random.Philox(key=seed).random_raw(size)
    found = (raw & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    kind = (raw >> np.uint64(40)) % np.uint64(8)
    found[kind < 2] &= np.uint32(0x80000000)
    found[kind == 2] &= np.uint32(0x807FFFFF)
    found[kind == 3] &= np.uint32(0xFF800000)
    return np.where(np.isfinite(found.view(np.float32)), found.view(np.float32), np.float32(-0.0))


WEIGHTS = st.integers(1, WEIGHT_MAX) | st.integers(0, 32).map(lambda power: 2**power)
SEEDS = st.integers(0, 2**32 - 1)


class Halting:
    """Values that are gone as soon as the next ones are asked for, and are read in ascending order."""

    def __init__(self, vector: Vector) -> None:
        self.vector, self.given, self.last = vector, np.empty(0, np.float32), 0
        self.size = vector.size

    def span(self, start: int, stop: int) -> Vector:
        assert self.last <= start <= stop <= self.size
        self.last, self.given[:] = start, np.float32(np.nan)
        self.given = self.vector[start:stop].copy()
        return self.given


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fold_is_the_dense_fold_bit_for_bit(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    target = data.draw(st.just(blueprint.whole()) | sub_models(blueprint))
    parts = data.draw(st.lists(st.just(target) | st.just(blueprint.whole()) | sub_models(blueprint), max_size=4))
    items = [
        Weighted(bytes([n]), data.draw(WEIGHTS), part, extreme_vector(part.size(blueprint), data.draw(SEEDS)))
        for n, part in enumerate(parts)
    ]
    base = extreme_vector(target.size(blueprint), data.draw(SEEDS))
    graft = data.draw(st.none() | SEEDS.map(lambda seed: extreme_vector(blueprint.size, seed)))
    expected = bits(dense_fold(blueprint, target, base, items, graft))
    limits = data.draw(LIMITS)
    lazy = [Weighted(item.peer, item.weight, item.sub_model, Halting(item.values)) for item in items]
    with pytest.MonkeyPatch.context() as patch:
        limited(patch, limits)
        blueprint.commons.clear()
        before = bits(base)
        assert bits(fold(blueprint, target, base, lazy, graft if graft is None else Halting(graft))) == expected
        assert bits(base) == before
        fold_into(blueprint, target, base, items, graft)
        assert bits(base) == expected


@pytest.mark.parametrize("scheme", [double_shift(constant(0.3)), random_dropout(), static(), full()])
@pytest.mark.parametrize("rate", [0.25, 0.5])
@pytest.mark.parametrize("blueprint", [mlp(300, (900, 80), 10), residual_cnn(3, (40, 80), 10)], ids=["mlp", "cnn"])
def test_large_parameters_too(scheme: Scheme, rate: float, blueprint: Blueprint) -> None:
    """With the limits as they are: parameters above a chunk, several rows, gaps that nobody covers."""
    seats = [Seat(rank=rank, peers=5, round=7, rates=(rate,) * 5) for rank in range(5)]
    slices = [scheme(blueprint, seat, random.Random(seat.rank)) for seat in seats]
    base = wild_vector(blueprint.size, 1)
    items = [
        Weighted(bytes([n]), 3**n, part, wild_vector(part.size(blueprint), n + 2)) for n, part in enumerate(slices[:4])
    ]
    for target in (blueprint.whole(), slices[4]):
        mine = extract(blueprint, base, target)
        expected = dense_fold(blueprint, target, mine, items, base)
        assert bits(fold(blueprint, target, mine, items, base)) == bits(expected)


def test_a_lone_negative_zero_becomes_positive_as_in_a_sum_that_begins_at_zero() -> None:
    blueprint = mlp(2, (4,), 2)
    nothing = np.full(blueprint.size, -0.0, np.float32)
    item = Weighted(b"a", 1, blueprint.whole(), nothing)
    assert not np.signbit(fold(blueprint, blueprint.whole(), nothing, [item])).any()


def test_parameters_without_dimensions_fold_too() -> None:
    parameters = (Parameter("s", "a", (), Init(None)), Parameter("w", "a", (Dim("h"),), Init(None)))
    blueprint = Blueprint(("a",), (Axis("h", 4),), parameters, no_module)
    target, part = blueprint.whole(), SubModel.of(blueprint, {"h": [(1, 3)]})
    items = [Weighted(b"a", 1, part, np.ones(3, np.float32)), Weighted(b"b", 3, target, np.ones(5, np.float32) * 5)]
    assert fold(blueprint, target, np.zeros(5, np.float32), items).tolist() == [4, 5, 4, 4, 5]
    assert extract(blueprint, np.arange(5, dtype=np.float32), part).tolist() == [0, 2, 3]


@given(st.data())
def test_adding_a_part_is_scattering_it(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    part, sign = data.draw(sub_models(blueprint)), data.draw(st.sampled_from([1.0, -1.0]))
    values, vector = wild_vector(part.size(blueprint), 1), wild_vector(blueprint.size, 2)
    expected = vector.copy()
    scatter_add(blueprint, expected, part, values * np.float32(sign))
    add(blueprint, blueprint.whole(), vector, part, Plain(values), sign)
    assert bits(vector) == bits(expected)
    with pytest.raises(ValueError, match="sub-models"):
        add(blueprint, blueprint.whole(), vector, part, np.append(values, np.float32(0)), sign)


def blocks_of(slices: list[SubModel], blueprint: Blueprint) -> list[cells.Block]:
    return list(cut(blueprint, blueprint.whole(), slices))


def test_whole_models_are_one_block_and_slices_few_rows_with_many_more() -> None:
    blueprint = mlp(300, (900, 600), 10)
    (block,) = blocks_of([blueprint.whole()] * 3, blueprint)
    assert (block.start, block.rows, block.shape) == (0, blueprint.size, ())
    seat = Seat(rank=1, peers=5, round=7, rates=(0.5,) * 5)
    slices = [double_shift(constant(0.3))(blueprint, seat, random.Random(0)), blueprint.whole()]
    large = [block for block in blocks_of(slices, blueprint) if block.rows is not None]
    places = layout(blueprint, blueprint.whole())
    assert [b.start for b in large] == sorted(b.start for b in large)
    assert sum(b.rows or 0 for b in large if b.shape == (900,)) == 600
    assert places["hidden1.weight"][1] == (900, 300)
    assert len(large) <= 8


def test_a_scheme_that_cuts_into_very_many_cells_takes_rows_in_chunks() -> None:
    blueprint = mlp(300, (2 * cells.BANDS_MAX + 2, 600), 10)
    for ranges, expected in ((cells.BANDS_MAX // 2 - 1, False), (cells.BANDS_MAX // 2, True)):
        every_other = SubModel.of(blueprint, {"hidden1": [2 * n + 1 for n in range(ranges)]})
        found = blocks_of([every_other], blueprint)
        place = layout(blueprint, blueprint.whole())["hidden1.weight"][0]
        inside = [block for block in found if place.start <= block.start < place.stop]
        assert all((block.rows is None) == expected for block in inside)
        assert all(len(list(block.chunks())) == 1 for block in inside)


def test_temporary_memory_does_not_grow_with_the_model() -> None:
    for inputs in (1_000, 4_000):
        blueprint = mlp(inputs, (512,), 10)
        part = SubModel.of(blueprint, {"hidden1": [(100, 400)]})
        values = np.ones(blueprint.size, np.float32)
        slices = [Weighted(b"%d" % n, 1, part, np.ones(part.size(blueprint), np.float32)) for n in range(4)]
        wholes = [Weighted(b"%d" % n, 1, blueprint.whole(), values) for n in range(4)]
        for items in (slices, wholes):
            tracemalloc.start()
            fold_into(blueprint, blueprint.whole(), values.copy(), items)
            peak = tracemalloc.get_traced_memory()[1] - values.nbytes
            tracemalloc.stop()
            assert peak < 3 * 4 * cells.CHUNK_ELEMENTS

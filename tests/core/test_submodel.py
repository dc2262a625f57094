"""Sub-models: canonical form, extraction, overlap, segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import RANGES_PER_AXIS_MAX
from p2pfusion.core import overlaps, submodel
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter
from p2pfusion.core.overlaps import COMMONS_KEPT_MAX, common
from p2pfusion.core.submodel import LAYOUTS_KEPT_MAX, SubModel, extract, layout, scatter, scatter_add, segments
from tests.core.strategies import blueprints, no_module, sub_models


def numbered(blueprint: Blueprint) -> submodel.Vector:
    return np.arange(blueprint.size, dtype=np.float32)


def line(size: int, unit: int = 1) -> Blueprint:
    """One axis, one parameter, two blocks."""
    parameters = (Parameter("w", "a", (Dim("h"),), Init(None)), Parameter("v", "b", (Dim(None, 2),), Init(None)))
    return Blueprint(("a", "b"), (Axis("h", size, unit),), parameters, no_module)


@given(st.data())
def test_extract_takes_the_positions_in_ascending_order(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    sub_model = data.draw(sub_models(blueprint))
    positions = sub_model.positions(blueprint)
    assert (np.diff(positions) > 0).all()
    assert len(positions) == sub_model.size(blueprint)
    assert (extract(blueprint, numbered(blueprint), sub_model) == positions).all()
    assert sub_model.share(blueprint) == len(positions) / blueprint.size


@given(st.data())
def test_gathering_by_index_gives_what_rectangles_give(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    left, right = data.draw(sub_models(blueprint)), data.draw(sub_models(blueprint))
    with pytest.MonkeyPatch.context() as patch:
        expected = extract(blueprint, numbered(blueprint), left), left.positions(blueprint)
        patch.setattr(overlaps, "RECTANGLES_MAX", 0)
        blueprint.commons.clear()
        assert (extract(blueprint, numbered(blueprint), left) == expected[0]).all()
        assert (left.positions(blueprint) == expected[1]).all()
    assert left.overlap(right, blueprint) == right.overlap(left, blueprint)


@given(st.data())
def test_overlap_counts_common_positions(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    left, right = data.draw(sub_models(blueprint)), data.draw(sub_models(blueprint))
    common = np.intersect1d(left.positions(blueprint), right.positions(blueprint))
    assert left.overlap(right, blueprint) == len(common)
    assert left.overlap(left, blueprint) == left.size(blueprint)


@given(st.data())
def test_scatter_undoes_extract_and_touches_nothing_else(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    sub_model = data.draw(sub_models(blueprint))
    vector = numbered(blueprint)
    values = extract(blueprint, vector, sub_model)
    scatter(blueprint, vector, sub_model, values * 2)
    expected = numbered(blueprint)
    expected[sub_model.positions(blueprint)] *= 2
    assert (vector == expected).all()
    scatter_add(blueprint, vector, sub_model, -values)
    assert (vector == numbered(blueprint)).all()
    scatter(blueprint, vector, sub_model, 0.0)
    expected = numbered(blueprint)
    expected[sub_model.positions(blueprint)] = 0
    assert (vector == expected).all()


@given(st.data())
def test_of_is_canonical_however_the_indices_are_given(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    sub_model = data.draw(sub_models(blueprint))
    sub_model.validate(blueprint)
    shuffled = {
        axis.name: data.draw(st.permutations(sub_model.indices(blueprint, axis.name))) for axis in blueprint.axes
    }
    assert SubModel.of(blueprint, shuffled, reversed(sub_model.blocks)) == sub_model
    doubled = {name: [*map(int, indices), *map(int, indices)] for name, indices in shuffled.items()}
    assert hash(SubModel.of(blueprint, doubled, sub_model.blocks)) == hash(sub_model)


def test_whole_axes_are_not_listed() -> None:
    blueprint = line(6, 2)
    assert SubModel.of(blueprint, {"h": [range(6)]}) == blueprint.whole() == SubModel.of(blueprint, {})
    assert SubModel.of(blueprint, {"h": [(4, 6), range(0, 2)]}).kept == (("h", ((0, 2), (4, 6))),)
    assert SubModel.of(blueprint, {"h": [range(0, 4, 1), range(4, 4)]}).kept == (("h", ((0, 4),)),)
    assert SubModel.of(line(6), {"h": [range(0, 6, 2)]}).kept == (("h", ((0, 1), (2, 3), (4, 5))),)


@pytest.mark.parametrize(
    "sub_model",
    [
        SubModel(()),
        SubModel(("b", "a")),
        SubModel(("a", "a")),
        SubModel(("c",)),
        SubModel(("a",), (("x", ((0, 2),)),)),
        SubModel(("a",), (("h", ()),)),
        SubModel(("a",), (("h", ((0, 8),)),)),
        SubModel(("a",), (("h", ((2, 2),)),)),
        SubModel(("a",), (("h", ((-2, 2),)),)),
        SubModel(("a",), (("h", ((4, 10),)),)),
        SubModel(("a",), (("h", ((4, 6), (0, 2))),)),
        SubModel(("a",), (("h", ((0, 2), (2, 4))),)),
        SubModel(("a",), (("h", ((0, 4), (2, 6))),)),
        SubModel(("a",), (("h", ((1, 4),)),)),
        SubModel(("a",), (("h", ((0, 3),)),)),
        SubModel(("a",), (("h", ((0, 2),)), ("h", ((4, 6),)))),
    ],
)
def test_validate_refuses_what_is_not_canonical(sub_model: SubModel) -> None:
    with pytest.raises(ValueError):
        sub_model.validate(line(8, 2))


def test_of_refuses_unknown_names() -> None:
    with pytest.raises(ValueError):
        SubModel.of(line(8), {"x": [1]})
    with pytest.raises(ValueError):
        SubModel.of(line(8), {}, ["c"])


def test_ranges_are_limited() -> None:
    blueprint = line(2 * RANGES_PER_AXIS_MAX + 2)
    most = SubModel.of(blueprint, {"h": range(0, 2 * RANGES_PER_AXIS_MAX, 2)})
    assert len(most.ranges(blueprint, "h")) == RANGES_PER_AXIS_MAX
    with pytest.raises(ValueError, match=str(RANGES_PER_AXIS_MAX)):
        SubModel.of(blueprint, {"h": range(0, 2 * RANGES_PER_AXIS_MAX + 2, 2)})


@given(st.integers(0, 200), st.integers(1, 50))
def test_segments_partition_the_vector(total: int, most: int) -> None:
    cut = segments(total, most)
    assert [element for start, stop in cut for element in range(start, stop)] == list(range(total))
    assert all(stop - start == most for start, stop in cut[:-1])


def test_segments_need_a_size() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        segments(3, 0)


def test_layouts_are_remembered_and_bounded() -> None:
    blueprint = line(2 * LAYOUTS_KEPT_MAX)
    assert blueprint.layouts == {}
    for start in range(2 * LAYOUTS_KEPT_MAX - 1):
        sub_model = SubModel(blueprint.blocks, (("h", ((start, start + 1),)),))
        assert layout(blueprint, sub_model) is layout(blueprint, sub_model)
        assert len(blueprint.layouts) <= LAYOUTS_KEPT_MAX
    assert len(blueprint.layouts) == LAYOUTS_KEPT_MAX - 1


def test_what_pairs_have_in_common_is_remembered_and_bounded() -> None:
    blueprint = line(2 * COMMONS_KEPT_MAX)
    whole, (parameter, _) = blueprint.whole(), blueprint.parameters
    for start in range(2 * COMMONS_KEPT_MAX - 1):
        sub_model = SubModel(blueprint.blocks, (("h", ((start, start + 1),)),))
        found = common(blueprint, whole, sub_model)
        assert common(blueprint, whole, sub_model) is found
        assert found.match(parameter) is found.match(parameter)
        assert len(blueprint.commons) <= COMMONS_KEPT_MAX
    assert len(blueprint.commons) == COMMONS_KEPT_MAX - 1


def test_index_arrays_are_not_remembered() -> None:
    blueprint = line(4 * overlaps.RECTANGLES_MAX)
    many = SubModel.of(blueprint, {"h": range(0, 2 * overlaps.RECTANGLES_MAX + 2, 2)})
    found = common(blueprint, blueprint.whole(), many)
    first = found.match(blueprint.parameters[0])
    assert first.is_gathered
    assert found.match(blueprint.parameters[0]) is not first


def test_neighbouring_runs_are_one() -> None:
    blueprint = line(6)
    wrapped = SubModel.of(blueprint, {"h": [(0, 2), (4, 6)]})
    found = common(blueprint, wrapped, wrapped).match(blueprint.parameters[0])
    assert (len(found.cuts), found.is_whole, found.is_gathered) == (1, True, False)

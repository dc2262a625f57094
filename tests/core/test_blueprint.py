"""Blueprints: what they declare, what they refuse, what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from p2pfusion.config import AXES_MAX, BLOCKS_MAX
from p2pfusion.core.blueprint import Axis, Blueprint, Dim, Init, Parameter, units_kept
from p2pfusion.core.submodel import SubModel, layout
from p2pfusion.errors import TaskError
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from tests.core.strategies import blueprints, no_module

AXIS = Axis("h", 4, 2)
WEIGHT = Parameter("w", "a", (Dim("h", 3), Dim(None, 5)), Init((Dim(None, 5),)))


def small(**changes: object) -> Blueprint:
    fields = {"blocks": ("a",), "axes": (AXIS,), "parameters": (WEIGHT,), "factory": no_module}
    return Blueprint(**{**fields, **changes})


def test_what_follows_from_the_declaration() -> None:
    blueprint = small()
    assert blueprint.size == 60
    assert blueprint.shape(WEIGHT) == (12, 5)
    assert blueprint.parameter_slices == {"w": slice(0, 60)}
    assert blueprint.axis("h").units == 2
    assert blueprint.describe() == (("w", "12x5 float32 a h/2,-"),)
    assert blueprint.whole() == SubModel(("a",))
    with pytest.raises(KeyError):
        blueprint.axis("x")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blocks": ()}, "at least one block"),
        ({"parameters": ()}, "at least one block"),
        ({"blocks": ("a", "a")}, "block 'a'"),
        ({"axes": (AXIS, AXIS)}, "axis 'h'"),
        ({"parameters": (WEIGHT, WEIGHT)}, "parameter 'w'"),
        ({"axes": (Axis("h", 5, 2),)}, "size 5"),
        ({"axes": (Axis("h", 0),)}, "size 0"),
        ({"axes": (AXIS, Axis("k", 2))}, "axis 'k'"),
        ({"blocks": ("b",)}, "block 'a'"),
        ({"parameters": (replace(WEIGHT, dims=(Dim("h"), Dim("x"))),)}, "'w'"),
        ({"parameters": (replace(WEIGHT, dims=(Dim("h"), Dim(None, 0))),)}, "'w'"),
        ({"parameters": (replace(WEIGHT, init=Init((Dim("x"),))),)}, "'w'"),
        ({"blocks": tuple(f"b{i}" for i in range(BLOCKS_MAX + 1))}, str(BLOCKS_MAX)),
        ({"axes": tuple(Axis(f"h{i}", 1) for i in range(AXES_MAX + 1))}, str(AXES_MAX)),
    ],
)
def test_contradictions_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(TaskError, match=named):
        small(**changes)


def test_limits_are_reached() -> None:
    assert small(blocks=("a", *(f"b{i}" for i in range(BLOCKS_MAX - 1)))).size == 60
    axes = tuple(Axis(f"h{i}", 1) for i in range(AXES_MAX))
    parameters = tuple(Parameter(axis.name, "a", (Dim(axis.name),), Init(None)) for axis in axes)
    assert small(axes=axes, parameters=parameters).size == AXES_MAX


def test_fingerprint_tells_declarations_apart_and_ignores_the_factory() -> None:
    same = small(factory=lambda spec: nn.Identity())
    assert small() == same
    assert small().fingerprint() == same.fingerprint()
    different = [
        small(axes=(Axis("h", 4, 1),)),
        small(axes=(Axis("h", 6, 2),)),
        small(parameters=(replace(WEIGHT, name="v"),)),
        small(parameters=(replace(WEIGHT, dims=(Dim("h", 5), Dim(None, 3))),)),
        small(blocks=("a", "b")),
    ]
    assert len({blueprint.fingerprint() for blueprint in (small(), *different)}) == 6


@given(blueprints())
def test_the_whole_sub_model_is_the_model(blueprint: Blueprint) -> None:
    places = layout(blueprint, blueprint.whole())
    assert {name: span for name, (span, _) in places.items()} == blueprint.parameter_slices
    assert blueprint.whole().size(blueprint) == blueprint.size
    assert len(blueprint.fingerprint()) == 32


@pytest.mark.parametrize("blueprint", [mlp(6, (8, 4), 3), residual_cnn(3, (8, 16), 5, blocks_per_stage=1, groups=4)])
def test_narrow_is_a_network_of_its_own(blueprint: Blueprint) -> None:
    narrow = blueprint.narrow(0.5)
    assert [axis.size for axis in narrow.axes] == [axis.size // 2 for axis in blueprint.axes]
    module = narrow.build(narrow.whole())
    assert sum(tensor.numel() for tensor in module.parameters()) == narrow.size
    assert all(getattr(layer, "rate", 1) == 1 for layer in module.modules())
    assert blueprint.narrow(1.0) == blueprint


def test_inside_blocks_only_what_a_block_has_for_itself_is_cut() -> None:
    network = residual_cnn(3, (16, 32), 10)
    inner = network.inner()
    assert {axis.name: axis.units for axis in inner.axes if axis.units > 1} == {
        axis.name: axis.units for axis in network.axes if axis.name.endswith(".inner")
    }
    widths = {axis.name: axis.size for axis in inner.narrow(0.25).axes}
    assert (widths["stage0"], widths["stage0_0.inner"], widths["stage1"], widths["stage1_1.inner"]) == (16, 4, 32, 8)
    assert inner.size == network.size
    assert inner.fingerprint() != network.fingerprint()  # who cuts streams too has no place in this run
    assert inner.inner() == inner


def test_a_network_whose_blocks_share_all_axes_has_no_inside_to_cut() -> None:
    with pytest.raises(TaskError, match="whole_streams: no axis lies within one block"):
        mlp(8, (16, 16), 4).inner()


def test_build_refuses_missing_blocks_and_wrong_factories() -> None:
    blueprint = mlp(6, (8,), 3)
    with pytest.raises(ValueError, match="blocks"):
        blueprint.build(SubModel(("out",)))
    with pytest.raises(TaskError, match="weight"):
        replace(blueprint, factory=lambda spec: nn.Linear(6, 3)).build(blueprint.whole())
    with pytest.raises(TaskError, match="another number"):
        replace(blueprint, factory=lambda spec: nn.Identity()).build(blueprint.whole())


@pytest.mark.parametrize(
    ("rate", "units", "kept"), [(0.5, 8, 4), (0.7, 10, 7), (0.01, 8, 1), (1.0, 3, 3), (0.34, 3, 2)]
)
def test_units_kept(rate: float, units: int, kept: int) -> None:
    assert units_kept(rate, units) == kept


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, float("nan")])
def test_rates_are_checked(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        units_kept(rate, 8)


@given(st.floats(0.001, 1), st.integers(1, 1000))
def test_units_kept_is_the_least_that_reaches_the_rate(rate: float, units: int) -> None:
    kept = units_kept(rate, units)
    assert 1 <= kept <= units
    assert kept >= rate * units - 1e-6
    assert kept == 1 or kept - 1 < rate * units

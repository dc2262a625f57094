"""The coverage meter counts what an array of the whole model's size would count, in a fraction of its memory."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.coverage import Coverage, Covered, coverage_by_round, everybody
from p2pfusion.core.schemes import full, random_dropout, static
from p2pfusion.core.submodel import SubModel
from p2pfusion.zoo.blueprints import mlp, residual_cnn
from tests.core.strategies import blueprints, sub_models


@given(st.data())
def test_it_counts_scalars_units_and_pairs_as_a_dumb_meter_does(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    meter = Coverage(blueprint)
    touched = np.zeros(blueprint.size, bool)
    units: set[tuple[str, int]] = set()
    pairs: set[tuple[object, ...]] = set()
    every: set[tuple[object, ...]] = set()
    whole = blueprint.whole()
    for sub_model in [*data.draw(st.lists(sub_models(blueprint), max_size=4)), None]:
        for parameter in blueprint.parameters:
            names = sorted(dim.axis for dim in parameter.dims if dim.axis is not None)
            for held, cells in ((sub_model, pairs), (whole, every)):
                if held is None or parameter.block not in held.blocks:
                    continue
                kept = [sorted({i // blueprint.axis(n).unit for i in held.indices(blueprint, n)}) for n in names]
                if held is not whole:
                    units.update((name, unit) for name, kept_ in zip(names, kept, strict=True) for unit in kept_)
                if len(names) > 1:
                    cells.update((parameter.block, *names, *cell) for cell in itertools.product(*kept))
        if sub_model is not None:
            meter.add(sub_model)
            touched[sub_model.positions(blueprint)] = True
    found = meter.covered
    assert found.scalars == meter.scalars == pytest.approx(touched.mean())
    assert found.units == pytest.approx(len(units) / sum(axis.units for axis in blueprint.axes))
    assert found.pairs == pytest.approx(len(pairs) / len(every) if every else 1.0)
    meter.add(whole)
    assert meter.covered == Covered(scalars=1.0, units=1.0, pairs=1.0)


def test_sub_models_of_another_blueprint_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        Coverage(mlp(4, (8,), 3)).add(SubModel(("nowhere",)))


def test_it_takes_a_bit_per_pair_of_units() -> None:
    blueprint = mlp(64, (2048, 2048), 10)
    meter = Coverage(blueprint)
    held = sum(grid._bits.nbytes for grid in meter._grids.values()) + sum(a.nbytes for a in meter._axes.values())
    assert held < 4 * blueprint.size / 30


def test_coverage_by_round_only_grows_and_follows_the_scheme() -> None:
    blueprint = residual_cnn(3, (16, 32), 10, blocks_per_stage=1, groups=8)
    stays = coverage_by_round(static(), blueprint, everybody((0.25, 0.5), 5))
    assert len(stays) == 5
    assert len(set(stays)) == 1
    half = static()(blueprint, next(iter(everybody((0.5,), 1)))[0], random.Random(0))
    assert stays[0].scalars == pytest.approx(half.share(blueprint))
    grows = coverage_by_round(random_dropout(), blueprint, everybody((0.25,) * 3, 30), seed=1)
    for before, after in itertools.pairwise(grows):
        assert before.scalars <= after.scalars
        assert before.pairs <= after.pairs
    assert grows[-1].units == 1.0 > stays[0].units
    assert grows == coverage_by_round(random_dropout(), blueprint, everybody((0.25,) * 3, 30), seed=1)
    assert coverage_by_round(full(), blueprint, everybody((0.25,), 1)) == [Covered(scalars=1.0, units=1.0, pairs=1.0)]

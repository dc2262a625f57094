"""The replica: sealed values are never changed in place, heads are slices, residuals move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.blueprint import Blueprint
from p2pfusion.core.fold import fold
from p2pfusion.core.replica import OWED_MAX, Owed, Replica, head
from p2pfusion.core.submodel import extract
from p2pfusion.core.values import Plain
from p2pfusion.zoo.blueprints import mlp
from tests.core.strategies import blueprints, contributions, sub_models, vectors


@given(st.data())
def test_a_head_is_a_slice_of_the_folded_model(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    sealed = data.draw(vectors(blueprint.size))
    grafts = st.none() | vectors(blueprint.size)
    rounds = data.draw(st.lists(st.tuples(contributions(blueprint, 2), grafts), max_size=3))
    target = data.draw(sub_models(blueprint))
    replica = Replica(blueprint, sealed)
    model = sealed
    for items, graft in rounds:
        model = fold(blueprint, blueprint.whole(), model, items, graft)
    assert head(blueprint, replica.sealed, target, rounds).tobytes() == extract(blueprint, model, target).tobytes()
    assert head(blueprint, replica.sealed, target, rounds).flags.writeable


@given(st.data())
def test_the_residual_is_taken_once(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    mine, next_one = data.draw(sub_models(blueprint)), data.draw(sub_models(blueprint))
    replica = Replica(blueprint, np.zeros(blueprint.size, np.float32))
    assert not replica.take_residual(next_one).any()
    values = np.arange(1, mine.size(blueprint) + 1, dtype=np.float32)
    replica.add_residual(mine, values)
    taken = replica.take_residual(next_one)
    assert np.count_nonzero(taken) == mine.overlap(next_one, blueprint)
    assert not replica.take_residual(next_one).any()
    assert taken.sum(dtype=float) + replica.residual.sum(dtype=float) == values.sum(dtype=float)
    replica.add_residual(next_one, taken)
    replica.add_residual(mine, values, sign=-1.0)
    assert not replica.residual.any()


def test_sealed_is_read_only_and_replaced() -> None:
    blueprint = mlp(2, (4,), 2)
    first, second = np.zeros(blueprint.size, np.float32), np.ones(blueprint.size, np.float32)
    replica = Replica(blueprint, first)
    with pytest.raises(ValueError, match="read-only"):
        replica.sealed[0] = 1
    replica.sealed = second
    assert replica.sealed is second
    assert not first.any()
    with pytest.raises(ValueError, match="float32"):
        replica.sealed = np.ones(blueprint.size + 1, np.float32)
    with pytest.raises(ValueError, match="float32"):
        Replica(blueprint, np.ones(blueprint.size))


def owing(blueprint: Blueprint, value: float, count: int = 1) -> Replica:
    """A replica whose residual is 1.0 everywhere and that owes so many times `value`."""
    replica, whole = Replica(blueprint, np.zeros(blueprint.size, np.float32)), blueprint.whole()
    replica.add_residual(whole, np.ones(blueprint.size, np.float32))
    for _ in range(count):
        replica.owe(Owed(whole, lambda: Plain(np.full(blueprint.size, value, np.float32)), -1.0))
    return replica


def test_what_is_owed_is_in_the_residual_whoever_asks_first() -> None:
    blueprint = mlp(2, (4,), 2)
    assert (owing(blueprint, 3.0).residual == -2.0).all()
    assert (owing(blueprint, 3.0).take_residual(blueprint.whole()) == -2.0).all()
    replica = owing(blueprint, 3.0)
    lent = replica.lend()
    assert replica.settle(lent, lent.settled())
    assert not replica.is_owing
    assert (replica.residual == -2.0).all()
    empty = Replica(blueprint, np.zeros(blueprint.size, np.float32))
    assert not empty.lend().settled().any()


def test_what_was_lent_does_not_change_and_what_came_too_late_is_not_taken() -> None:
    blueprint = mlp(2, (4,), 2)
    for change in (Replica.take_residual, lambda replica, whole: replica.add_residual(whole, replica.sealed + 1)):
        replica = owing(blueprint, 3.0)
        lent = replica.lend()
        change(replica, blueprint.whole())
        before = replica.residual.copy()
        vector = lent.settled()
        assert (vector == -2.0).all()
        assert not replica.settle(lent, vector)
        assert (replica.residual == before).all()


def test_few_wait_to_be_added() -> None:
    blueprint = mlp(2, (4,), 2)
    assert owing(blueprint, 1.0, OWED_MAX).is_owing
    replica = owing(blueprint, 1.0, OWED_MAX + 1)
    assert not replica.is_owing
    assert (replica.residual == -OWED_MAX).all()

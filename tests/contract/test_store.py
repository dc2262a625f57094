"""`seams.Store`: what was saved comes back bit for bit at the next start, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint, Identity

RUN = bytes(range(32))
ME = Identity(peer=bytes(range(16)), incarnation=3, last=41, run_id=RUN)


def checkpoint(**changes) -> Checkpoint:
    model = {
        "0.weight": np.array([[1.5, -0.0, 1e-40], [2.0, np.finfo(np.float32).max, 0.1]], np.float32),
        "0.bias": np.zeros(2, np.float32),
        "a.scale": np.array(3.0, np.float32),
    }
    parts = {"links": np.frombuffer(b"\x00\xfflinks", np.uint8), "residual": np.full(3, -0.0, np.float32)}
    kept = Checkpoint(run_id=RUN, round=8, chain=b"c" * 32, weight=2**52 + 1, model=model, parts=parts)
    return replace(kept, **changes)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert replace(one, model={}, parts={}) == replace(other, model={}, parts={})
    for mine, theirs in ((one.model, other.model), (one.parts, other.parts)):
        assert sorted(mine) == sorted(theirs)
        for name, value in mine.items():
            assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape)
            assert value.tobytes() == theirs[name].tobytes()


def test_a_fresh_store_knows_nothing(reopened):
    store = reopened()
    assert store.load_identity() is None
    assert store.load_checkpoint(RUN) is None


def test_the_identity_survives_a_restart(reopened):
    reopened().save_identity(ME)
    assert reopened().load_identity() == ME


def test_the_identity_last_saved_counts(reopened):
    store = reopened()
    store.save_identity(ME)
    newer = replace(ME, incarnation=4, last=2**53 - 1)
    store.save_identity(newer)
    assert store.load_identity() == newer
    assert reopened().load_identity() == newer


def test_a_forgotten_identity_is_forgotten(reopened):
    store = reopened()
    store.forget_identity()
    store.save_identity(ME)
    store.forget_identity()
    assert store.load_identity() is None
    assert reopened().load_identity() is None


def test_what_is_spilled_reads_the_same_or_is_refused(reopened):
    store, data = reopened(), bytes(range(256)) * 300
    if store.place == "memory":
        with pytest.raises(StoreError, match="--state DIR"):
            store.spill(data)
    else:
        view = store.spill(data)
        assert view.readonly
        assert view == data


def test_a_checkpoint_survives_a_restart_bit_for_bit(reopened):
    reopened().save_checkpoint(checkpoint())
    assert_same(reopened().load_checkpoint(RUN), checkpoint())


def test_the_newest_checkpoint_counts(reopened):
    store = reopened()
    store.save_checkpoint(checkpoint())
    newer = checkpoint(round=16, chain=b"d" * 32, model={"only": np.full(5, 7, np.float32)})
    store.save_checkpoint(newer)
    assert_same(store.load_checkpoint(RUN), newer)
    assert_same(reopened().load_checkpoint(RUN), newer)


def test_a_checkpoint_of_another_run_is_not_offered(reopened):
    store = reopened()
    store.save_checkpoint(checkpoint())
    assert store.load_checkpoint(bytes(32)) is None
    assert_same(store.load_checkpoint(RUN), checkpoint())


def test_a_run_does_not_push_out_another(reopened):
    store, other = reopened(), bytes(32)
    store.save_checkpoint(checkpoint(round=8))
    store.save_checkpoint(checkpoint(round=3, run_id=other))
    assert_same(store.load_checkpoint(RUN), checkpoint(round=8))
    assert_same(reopened().load_checkpoint(other), checkpoint(round=3, run_id=other))
    for round_ in (4, 8, 9):
        reopened().save_checkpoint(checkpoint(round=round_, run_id=other))
        assert_same(store.load_checkpoint(RUN), checkpoint(round=8))
    for number in range(1, 6):
        reopened().save_checkpoint(checkpoint(run_id=bytes([number]) * 32))
    assert reopened().load_checkpoint(RUN) is None, "they are bounded, too"


def test_identity_and_checkpoint_do_not_touch_each_other(reopened):
    store = reopened()
    store.save_identity(ME)
    store.save_checkpoint(checkpoint())
    store.save_identity(replace(ME, last=42))
    assert_same(store.load_checkpoint(RUN), checkpoint())
    assert store.load_identity() == replace(ME, last=42)


@pytest.mark.parametrize("when", ["saved", "loaded"])
def test_arrays_are_copies(reopened, when):
    store, given = reopened(), checkpoint()
    store.save_checkpoint(given)
    spoilt = given if when == "saved" else store.load_checkpoint(RUN)
    spoilt.model["0.bias"][:] = 9
    spoilt.parts["residual"][:] = 9
    assert_same(store.load_checkpoint(RUN), checkpoint())

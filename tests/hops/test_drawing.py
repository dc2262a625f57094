"""A round that begins again sees the same batches, as far as they are remembered."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from p2pfusion.core.data import Batch
from p2pfusion.hops import drawing
from p2pfusion.hops.drawing import Draws

BATCH_BYTES = 4 + 8


def numbered() -> Iterator[Batch]:
    return ((torch.tensor([float(number)]), torch.tensor([number])) for number in count())


def drawn(draws: Draws, many: int) -> list[int]:
    return [int(next(draws)[1]) for _ in range(many)]


def test_a_round_that_begins_again_sees_its_batches_in_order_and_then_new_ones() -> None:
    draws = Draws(numbered())
    draws.begin()
    assert drawn(draws, 3) == [0, 1, 2]
    draws.begin_again()
    assert drawn(draws, 2) == [0, 1]
    draws.begin_again()
    assert drawn(draws, 5) == [0, 1, 2, 3, 4]
    draws.begin_again()
    assert drawn(draws, 5) == [0, 1, 2, 3, 4]


def test_a_new_round_sees_none_of_the_last() -> None:
    draws = Draws(numbered())
    draws.begin()
    drawn(draws, 3)
    draws.begin_again()
    drawn(draws, 1)
    draws.begin()
    assert drawn(draws, 2) == [3, 4]
    draws.begin_again()
    assert drawn(draws, 2) == [3, 4]


def test_what_is_remembered_has_a_limit_and_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "REMEMBERED_BYTES_MAX", 3 * BATCH_BYTES)
    draws = Draws(numbered())
    draws.begin()
    assert drawn(draws, 5) == [0, 1, 2, 3, 4]
    draws.begin_again()
    assert drawn(draws, 5) == [0, 1, 2, 5, 6]

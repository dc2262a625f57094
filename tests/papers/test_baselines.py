"""The baselines MSfusion is compared with: HeteroFL, FedRolex, Federated Dropout (PAPERS.md 4.1 to 4.3)."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.fold import Weighted, fold
from p2pfusion.core.schemes import Scheme, Seat, random_dropout, rolling, static
from p2pfusion.core.submodel import SubModel
from p2pfusion.zoo.blueprints import mlp, residual_cnn

BLUEPRINT = mlp(4, (8, 12), 3)


def chosen(scheme: Scheme, rate: float, round_index: int, rank: int = 0, peers: int = 1, seed: object = 0) -> SubModel:
    seat = Seat(rank=rank, peers=peers, round=round_index, rates=(rate,) * peers)
    return scheme(BLUEPRINT, seat, random.Random(str(seed)))


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 50))
def test_heterofl_slices_are_nested_prefixes_of_ceil_rate_k_the_same_every_round(a: float, b: float, r: int) -> None:
    small, large = chosen(static(), min(a, b), r), chosen(static(), max(a, b), 0)
    assert small.overlap(large, BLUEPRINT) == small.size(BLUEPRINT)
    assert small.indices(BLUEPRINT, "hidden1").tolist() == list(range(int(np.ceil(min(a, b) * 8 - 1e-9))))


def test_heterofl_widths_of_the_released_code() -> None:
    widths = [chosen(static(), rate, 0).width(BLUEPRINT, "hidden1") for rate in (1, 0.5, 0.25, 0.125, 0.0625)]
    assert widths == [8, 4, 2, 1, 1]


def test_heterofl_averages_over_those_who_hold_an_element_and_leaves_the_rest() -> None:
    base = np.zeros(BLUEPRINT.size, np.float32)
    items = []
    for rank, rate in enumerate((0.25, 0.5, 0.5)):
        sub_model = chosen(static(), rate, 0)
        items.append(Weighted(bytes([rank]) * 16, 1, sub_model, np.full(sub_model.size(BLUEPRINT), rank, np.float32)))
    bias = fold(BLUEPRINT, BLUEPRINT.whole(), base, items)[BLUEPRINT.parameter_slices["hidden1.bias"]]
    assert bias.tolist() == [1, 1, 1.5, 1.5, 0, 0, 0, 0]


def test_fedrolex_windows_roll_by_one_and_wrap_on_each_layers_own_width() -> None:
    assert [chosen(rolling(), 0.5, r).indices(BLUEPRINT, "hidden1").tolist() for r in (0, 3, 6, 8)] == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [0, 1, 6, 7],
        [0, 1, 2, 3],
    ]
    assert chosen(rolling(), 0.5, 8).indices(BLUEPRINT, "hidden2").tolist() == [0, 1, 8, 9, 10, 11]


@given(st.integers(0, 40), st.integers(1, 6))
def test_fedrolex_rolls_alike_for_everybody(round_index: int, peers: int) -> None:
    assert len({chosen(rolling(), 0.5, round_index, rank, peers) for rank in range(peers)}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_federated_dropout_draws_anew_and_covers_evenly_on_average(seed: int) -> None:
    counts = np.zeros(8)
    for round_index in range(200):
        counts[chosen(random_dropout(), 0.5, round_index, seed=(seed, round_index)).indices(BLUEPRINT, "hidden1")] += 1
    # 200 draws of 4 of 8: 100 each, standard deviation 7; six of them are never reached.
    assert abs(counts - 100).max() < 42


def test_federated_dropout_draws_one_list_per_residual_stream() -> None:
    """PAPERS.md 4.3: the released code draws one per tensor, so that identity skips add unrelated channels."""
    blueprint = residual_cnn(3, (16, 32), 10, blocks_per_stage=2, groups=8)
    seat = Seat(rank=0, peers=1, round=0, rates=(0.5,))
    sub_model = random_dropout()(blueprint, seat, random.Random(9))
    streams = {name: ranges for name, ranges in sub_model.kept if name.startswith("stage0")}
    assert list(streams) == ["stage0", "stage0_0.inner", "stage0_1.inner"]
    assert len(set(streams.values())) > 1
    # Both convolutions that add to the stream have the stream's own axis as output.
    kernels = {parameter.name: parameter.dims[0].axis for parameter in blueprint.parameters}
    assert (
        kernels["stage0_0.conv2.weight"] == kernels["stage0_1.conv2.weight"] == kernels["stem.conv.weight"] == "stage0"
    )

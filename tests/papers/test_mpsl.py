"""MP-SL (Tirana, Lalis, Chatzopoulos; arXiv 2402.00208), formula by formula and against its authors' own solver.

The figures: the worked example of the time model, what the authors' repository prints of its integer program (16
different runs on VGG-19 with relays that differ), and the table of PAPERS.md 3.5. Their spreadsheets, with the figures
of single layers, are binary and could not be read here; those of VGG-19's layers follow from the log's stages, for
every layer between two cuts that it names.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfusion.core.chain_times import ChainTimes, OwnerTimes, RelayTimes, aggregation_s
from p2pfusion.core.planning import Order, Relay, plan
from p2pfusion.core.profiles import BlockCost, Profile

LOG: dict[str, Any] = json.loads((Path(__file__).parent / "mpsl_vgg19_log.json").read_text())
GIB, MS = 2**30, 1e-3


def block(name: str, forward_s: float, backward_s: float, parameter_bytes: int) -> BlockCost:
    return BlockCost(
        name=name,
        forward_s=forward_s,
        backward_s=backward_s,
        optimiser_s=0.0,
        output_bytes=0,
        kept_bytes=0,
        parameter_bytes=parameter_bytes,
        gradient_bytes=0,
        optimiser_bytes=0,
    )


@cache
def logged() -> tuple[tuple[int, ...], Profile]:
    """Where the log cuts, and the layers between two of its cuts as one block each, owners' own blocks around them.

    Of a block's memory the log tells the sum of output and parameters only, which stands here as parameters.
    """
    rows = [
        (start, stop, forward / slow, backward / slow, gib)
        for one in LOG["instances"]
        for (start, stop, forward, backward, gib), slow in zip(one["stages"], one["slow"], strict=True)
    ]
    cuts = tuple(sorted({cut for start, stop, *_ in rows for cut in (start, stop)}))
    covers = np.array([[start <= cut < stop for cut in cuts[:-1]] for start, stop, *_ in rows], np.float64)
    sums = np.array([row[2:] for row in rows])
    found, _, rank, _ = np.linalg.lstsq(covers, sums, rcond=None)
    assert rank == len(cuts) - 1, "every block follows from the sums"
    assert np.abs(covers @ found - sums).max() < 1e-9, "and the sums agree with each other"
    inner = [
        block(f"{a}-{b - 1}", max(0.0, f) * MS, max(0.0, r) * MS, round(gib * GIB / LOG["owners"]))
        for a, b, (f, r, gib) in zip(cuts, cuts[1:], found, strict=False)
    ]
    ends = [block("first", 0.0, 0.0, 0), block("last", 0.0, 0.0, 0)]
    return cuts, Profile(batch=128, origin="authors' log", blocks=(ends[0], *inner, ends[1]))


@pytest.mark.parametrize("number", range(len(LOG["instances"])))
def test_the_authors_solver_found_no_better_split_and_no_worse_one(number: int) -> None:
    given = LOG["instances"][number]
    relays = tuple(
        Relay(name=f"cn{place}", speed=1 / slow, memory_bytes=round(gib * GIB))
        for place, (slow, gib) in enumerate(zip(given["slow"], given["memory_gib"], strict=True))
    )
    order = Order(profile=logged()[1], relays=relays, owners=LOG["owners"], mode="paper", everybody=True)
    found = plan(order)
    assert found.full_s == pytest.approx(given["objective"] * MS, rel=1e-9)
    assert len(found.stages) == len(relays)
    for stage in found.stages:
        memory = relays[stage.relay].memory_bytes
        assert memory is not None
        assert order.memory_bytes(stage.start, stage.stop) <= memory


@pytest.mark.parametrize(
    ("start", "stop", "forward_ms", "backward_ms"),
    [(9, 15, 306, 1105), (8, 13, 215, None), (13, 18, None, 810)],
    ids=["N=3", "N=4 forward", "N=4 backward"],
)
def test_the_slowest_stages_of_the_table_are_the_logs(
    start: int, stop: int, forward_ms: int | None, backward_ms: int | None
) -> None:
    cuts, profile = logged()
    a, b = 1 + cuts.index(start), 1 + cuts.index(stop)
    assert forward_ms is None or round(profile.forward_s(a, b) / MS) == forward_ms
    assert backward_ms is None or profile.backward_s(a, b) / MS == pytest.approx(backward_ms, abs=0.51)


TABLE = [
    ("ResNet-101", 1, 296, 1688, 1985, 1.0, 105.8, 158.7),
    ("ResNet-101", 2, 189, 848, 1037, 1.91, 55.3, 82.9),
    ("ResNet-101", 3, 128, 584, 712, 2.79, 37.9, 56.9),
    ("ResNet-101", 4, 110, 451, 561, 3.54, 29.9, 44.9),
    ("ResNet-101", 5, 75, 364, 439, 4.53, 23.4, 35.1),
    ("VGG-19", 1, 841, 3138, 3979, 1.0, 212.2, 318.3),
    ("VGG-19", 3, 306, 1105, 1411, 2.82, 75.2, 112.9),
    ("VGG-19", 4, 215, 810, 1025, 3.88, 54.6, 82.0),
    ("VGG-19", 5, 180, 700, 880, 4.52, 46.9, 70.4),
]


@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]} N={row[1]}" for row in TABLE])
def test_the_epochs_of_the_table_follow_from_its_slowest_stages(row: tuple[Any, ...]) -> None:
    """r = 2, B = 16; one relay that is as slow as the slowest forward and the slowest backward stage."""
    name, _, forward_ms, backward_ms, full_ms, speed_up, *minutes = row
    relay = RelayTimes(forward_s=forward_ms * MS, backward_s=backward_ms * MS)
    for owners, expected in zip((100, 150), minutes, strict=True):
        times = ChainTimes(
            owners=(OwnerTimes(first_forward_s=0, first_backward_s=0),) * owners, relays=(relay,), mode="paper"
        )
        assert times.full_s == pytest.approx(full_ms * MS, abs=1.01 * MS)
        assert times.all_s(2 * 16) / 60 == pytest.approx(expected, abs=0.16)
    whole = next(other[4] for other in TABLE if other[0] == name)
    assert whole / full_ms == pytest.approx(speed_up, rel=3e-3)


def example(mode: Any = "paper", owners: int = 3) -> ChainTimes:
    """P = 4, f = 2, 3, b = 4, 2 and f_1 = b_1 = 1, comm = 0.5."""
    owner = OwnerTimes(first_forward_s=1, first_backward_s=1, to_chain_s=0.5)
    relays = (RelayTimes(forward_s=2, backward_s=4), RelayTimes(forward_s=3, backward_s=2))
    return ChainTimes(owners=(owner,) * owners, relays=relays, mode=mode)


def test_the_worked_example_of_the_time_model() -> None:
    times = example()
    assert (times.lead_forward_s, times.lead_backward_s, times.full_s) == (3, 4, 7)
    assert (times.start_s, times.empty_s, times.end_s) == (1.5, 11, 1.5)
    assert times.all_s(2) == 49


def test_one_hop_has_a_form_of_its_own() -> None:
    owner = OwnerTimes(first_forward_s=1, first_backward_s=1, to_chain_s=0.5)
    times = ChainTimes(owners=(owner,) * 3, relays=(RelayTimes(forward_s=5, backward_s=6),), mode="paper")
    assert times.all_s(2) == 1.5 + 2 * 3 * 11 + 1.5


def test_owners_that_differ_count_by_their_mean() -> None:
    owners = (OwnerTimes(first_forward_s=1, first_backward_s=2), OwnerTimes(first_forward_s=3, first_backward_s=6))
    times = ChainTimes(owners=owners, relays=(RelayTimes(forward_s=1, backward_s=1),), mode="paper")
    assert (times.start_s, times.end_s) == (2, 4)


def test_aggregation_is_sent_up_at_once_and_down_in_turn() -> None:
    assert aggregation_s((1.0, 3.0), 0.5, (1.0, 3.0)) == 2.0 + 0.5 + 4.0


def test_few_owners_set_the_pace_themselves() -> None:
    """One batch alone takes 1 + 1 at the owner, four transfers (two of 0.5) and 11 in the chain: 14, which is 2 x 7."""
    assert example("full").loop_s == 14
    assert example("full").fill_owners == 2
    assert [example("full", owners).batch_s for owners in (1, 2, 3)] == [14, 7, 7]
    assert [example("paper", owners).batch_s for owners in (1, 2, 3)] == [7, 7, 7]


def test_a_hop_may_be_the_slowest_of_all() -> None:
    relays = (RelayTimes(forward_s=2, backward_s=4, out_s=9), RelayTimes(forward_s=3, backward_s=2, in_s=5))
    owners = (OwnerTimes(first_forward_s=1, first_backward_s=1),)
    full, paper = (ChainTimes(owners=owners, relays=relays, mode=mode) for mode in ("full", "paper"))
    assert (full.full_s, full.empty_s) == (18, 11 + 2 * 9)
    assert (paper.full_s, paper.empty_s) == (7, 11)

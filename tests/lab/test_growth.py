"""What was trained by each round only grows, lies between its runs, and ends where the rows of results say."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.lab.growth import COVERED, Growth, growths
from p2pfusion.lab.results import DIGITS
from p2pfusion.lab.traces import result_of
from tests.lab.test_writing import orders, trace

Told = tuple[int, tuple[float, float, float]]
"""Round, and the shares of `COVERED`."""


def text_of(told: list[Told], share: float = 0.5) -> str:
    """A trace as far as it is read."""
    rounds = [
        {"event": "round", "round": round_, "share": share, **dict(zip(COVERED.values(), shares, strict=True))}
        for round_, shares in told
    ]
    return "\n".join(json.dumps(line) for line in [{"event": "run"}, *rounds, {"event": "result"}]) + "\n"


share = st.floats(0, 1)
runs = st.lists(st.tuples(st.integers(1, 9), st.tuples(share, share, share)), min_size=1, max_size=12)


@given(st.lists(runs, min_size=1, max_size=4))
def test_it_grows_up_to_the_most_that_was_said_by_then(told: list[list[Told]]) -> None:
    found = growths(map(text_of, told))
    assert [growth.label for growth in found] == list(COVERED)
    last = max(round_ for run in told for round_, _ in run)
    for place, growth in enumerate(found):
        for index in range(last):
            by_run = [
                max((shares[place] for round_, shares in run if round_ <= index + 1), default=0.0) for run in told
            ]
            assert (growth.least[index], growth.greatest[index]) == (min(by_run), max(by_run))
            assert growth.least[index] - 1e-9 <= growth.means[index] <= growth.greatest[index] + 1e-9
        for line in (growth.means, growth.least, growth.greatest):
            assert len(line) == last
            assert all(before <= after for before, after in pairwise(line))


@given(st.lists(runs, max_size=3), runs)
def test_runs_of_whole_models_are_left_out(whole: list[list[Told]], sliced: list[Told]) -> None:
    texts = [text_of(run, share=1.0) for run in whole]
    assert growths(texts) == []
    assert growths([*texts, text_of(sliced)]) == growths([text_of(sliced)])


def test_a_run_that_broke_off_before_its_first_round_has_nothing_to_show() -> None:
    assert growths([text_of([])]) == []
    one: list[Told] = [(1, (0.5, 0.25, 0.0))]
    assert growths([text_of([]), text_of(one)]) == [
        Growth(label=label, means=[end], least=[end], greatest=[end])
        for label, end in (("units", 0.5), ("scalars", 0.25), ("pairs", 0.0))
    ]


def test_of_a_simulated_run_it_ends_where_the_row_does() -> None:
    (order,) = orders(rate=(0.25,), rounds=(6,))
    text = trace(order)
    units, scalars, pairs = (growth.means for growth in growths([text]))
    row = result_of(text)
    assert [round(line[-1], DIGITS) for line in (scalars, units, pairs)] == [
        row.covered, row.covered_units, row.covered_pairs,
    ]  # fmt: skip
    assert pairs[-1] < scalars[-1] < units[-1] == 1.0, "aligned windows never train most pairs"
    assert growths([trace(orders(rate=(1.0,))[0])]) == []

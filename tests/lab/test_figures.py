"""Every scenario has its figure: axes with units, a legend where there is more than one line, bars over the seeds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from p2pfusion.lab.curves import Curve, Spell
from p2pfusion.lab.figures import COLOURS, LINES_MAX, can_draw, draw, figure
from p2pfusion.lab.growth import Growth
from p2pfusion.lab.knobs import Value
from p2pfusion.lab.results import Simulated
from p2pfusion.lab.sweeps import points
from tests.lab.made import broken, row


def sweep(name: str, values: list[Value]) -> list[Simulated]:
    return [row({name: value}, seed=seed, accuracy=0.9 + seed / 100) for value in values for seed in range(3)]


def curve(label: str = "all nodes", **more: object) -> Curve:
    values = {"is_accuracy": True, "times_s": [0, 1, 2], "means": [0.1, 0.5, 0.9], "least": [0.0, 0.4, 0.8],
              "greatest": [0.2, 0.6, 1.0], **more}  # fmt: skip
    return Curve(label=label, **values)  # type: ignore[arg-type]


GROWTHS = [
    Growth(label=label, means=[end / 2, end], least=[0.0, end], greatest=[end, end])
    for label, end in (("units", 1.0), ("scalars", 0.5), ("pairs", 0.25))
]


@pytest.mark.parametrize(
    ("name", "knob", "values", "labels"),
    [
        ("churn", "half_life", [10.0, 30.0, 120.0, math.inf], ["final accuracy (%)", "final chain (%)"]),
        ("latency", "latency", [0.005, 0.02, 0.1], ["median round (virtual s)", "final accuracy (%)"]),
        ("stragglers", "slow", [1.0, 20.0], ["median round (virtual s)", "final accuracy (%)"]),
        ("scale", "nodes", [4, 8, 64], ["median round (virtual s)", "sent (kB / node / round)"]),
        ("mine", "algorithm", ["msfusion", "full"], ["final accuracy (%)", "median round (virtual s)"]),
    ],
)
def test_what_was_varied_stands_below_and_units_beside(
    name: str, knob: str, values: list[Value], labels: list[str]
) -> None:
    axes = figure(name, "a title", points(sweep(knob, values)), []).axes
    assert [ax.get_ylabel().endswith(label) for ax, label in zip(axes, labels, strict=True)] == [True, True]
    assert axes[-1].get_xlabel() in ("half-life", "one-way latency", "slow factor", "nodes", "algorithm")
    places = axes[-1].get_xticks().tolist()
    assert len(places) == len(values)
    assert places == sorted(places)
    for ax in axes:
        assert [type(one) for one in ax.containers] == [ErrorbarContainer]
        low, high = ax.get_ylim()
        assert low >= 0
        assert all(low <= y <= high for y in ax.containers[0].lines[0].get_ydata())


def test_infinity_stands_last_and_failed_runs_are_told() -> None:
    rows = [*sweep("half_life", [math.inf, 120.0, 10.0]), broken({"half_life": 10.0}, seed=3)]
    ax = figure("churn", "a title", points(rows), []).axes[-1]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [
        "10\u2009s\n1 of 4 runs failed",
        "120\u2009s",
        "∞ (none fails)",
    ]


def test_a_point_without_any_result_leaves_a_gap() -> None:
    rows = [broken({"half_life": 10.0}), *sweep("half_life", [30.0])]
    container = figure("churn", "a title", points(rows), []).axes[0].containers[0]
    assert len(container.lines[0].get_xdata()) == 1


def test_further_knobs_are_lines_of_other_colours_with_a_legend() -> None:
    rows = [row({"latency": latency, "algorithm": name}) for name in ("msfusion", "full") for latency in (0.005, 0.02)]
    ax = figure("latency", "a title", points(rows), []).axes[0]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["algorithm msfusion", "algorithm full"]
    assert [container.lines[0].get_color() for container in ax.containers] == list(COLOURS[:2])


def test_what_a_scenario_is_made_for_stands_below() -> None:
    rows = [row({"loss": loss, "latency": latency}) for loss in (0.0, 0.2) for latency in (0.005, 0.02)]
    axes = figure("latency", "a title", points(rows), []).axes
    assert axes[-1].get_xlabel() == "one-way latency"
    legend = axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["messages lost 0%", "messages lost 20%"]
    assert figure("mine", "a title", points(rows), []).axes[-1].get_xlabel() == "messages lost"


def test_as_many_lines_as_can_be_told_apart_and_no_more() -> None:
    for count in (LINES_MAX, LINES_MAX + 1):
        rows = [row({"nodes": nodes, "loss": loss / 100}) for nodes in (4, 8) for loss in range(count)]
        assert len(figure("scale", "a title", points(rows), []).axes[0].containers) == LINES_MAX
        curves = [curve(str(number)) for number in range(count)]
        assert len(figure("partition", "a title", points([row()]), curves).axes[0].get_lines()) == LINES_MAX


def test_slow_and_others_are_two_lines() -> None:
    rows = [row({"slow": slow}, slow_round_median_s=slow * 4) for slow in (5.0, 20.0)]
    ax = figure("stragglers", "a title", points(rows), []).axes[0]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["the others", "the slow node"]


def test_without_accuracy_the_loss_is_drawn() -> None:
    rows = [row({"latency": latency}, accuracy=None) for latency in (0.005, 0.02)]
    assert figure("latency", "a title", points(rows), []).axes[1].get_ylabel() == "final training loss"
    ax = figure("latency", "a title", points([row()]), [curve(is_accuracy=False)]).axes[0]
    assert ax.get_ylabel() == "training loss"


def test_a_partition_is_drawn_over_time_with_the_time_apart_shaded() -> None:
    spells = [Spell(from_s=0.5, to_s=1.5, label="apart")]
    curves = [curve("side A (2 nodes)", spells=spells), curve("side B (2 nodes)", spells=spells)]
    ax = figure("partition", "a title", points([row({"apart": 60.0})]), curves).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("virtual time (s)", "accuracy of the sealed model (%)")
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["side A (2 nodes)", "side B (2 nodes)", "apart"]


def legend_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_what_slices_trained_stands_below_round_by_round() -> None:
    made = points([row()])
    assert len(figure("latency", "a title", made, [curve()]).axes) == 1, "nobody sliced: everything is trained"
    above, below = figure("latency", "a title", made, [curve()], GROWTHS).axes
    assert above.get_ylabel() == "accuracy of the sealed model (%)"
    assert (below.get_xlabel(), below.get_ylabel()) == ("round", "trained so far (%)")
    assert legend_of(below) == ["units", "scalars", "pairs"]
    for growth, line in zip(GROWTHS, below.get_lines(), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == [1, 2]
        assert np.asarray(line.get_ydata()).tolist() == [share * 100 for share in growth.means]
    assert below.get_ylim()[0] == 0.0


def test_what_slices_trained_by_the_end_stands_below_what_was_varied() -> None:
    rows = [row({"latency": latency}) for latency in (0.005, 0.02)]
    assert len(figure("latency", "a title", points(rows), []).axes) == 2
    *_, below = figure("latency", "a title", points(rows), [], GROWTHS).axes
    assert (below.get_ylabel(), legend_of(below)) == ("trained by the end (%)", ["units", "scalars", "pairs"])
    assert below.get_ylim() == (0.0, 101.0)
    assert [container.lines[0].get_ydata().tolist() for container in below.containers] == [
        [100.0, 100.0], [50.0, 50.0], [25.0, 25.0],
    ]  # fmt: skip


def test_with_a_line_for_each_setting_only_pairs_are_drawn() -> None:
    rows = [row({"latency": latency, "algorithm": name}) for name in ("msfusion", "full") for latency in (0.005, 0.02)]
    *_, below = figure("latency", "a title", points(rows), [], GROWTHS).axes
    assert (below.get_ylabel(), legend_of(below)) == ("pairs trained (%)", ["algorithm msfusion", "algorithm full"])


def test_partitions_of_several_settings_do_not_share_a_line_of_what_was_trained() -> None:
    rows = [row({"apart": 20.0}), row({"apart": 60.0})]
    assert len(figure("partition", "a title", points(rows), [curve()], GROWTHS).axes) == 1
    assert len(figure("partition", "a title", points([row()]), [curve()], GROWTHS).axes) == 2


def test_nothing_at_all_is_still_a_figure() -> None:
    assert figure("churn", "a title", points([broken()]), []).axes
    assert figure("churn", "a title", points([broken({"nodes": 4}), broken({"nodes": 8})]), []).axes


def test_the_same_sweep_gives_the_same_files(tmp_path: Path) -> None:
    made = points(sweep("half_life", [10.0, math.inf]))
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        draw("churn", "a title", made, [], GROWTHS, [tmp_path / folder / "churn.png", tmp_path / folder / "churn.svg"])
    for name, start in (("churn.png", b"\x89PNG"), ("churn.svg", b"<?xml")):
        first, again = (tmp_path / folder / name for folder in ("first", "again"))
        assert first.read_bytes().startswith(start)
        assert first.read_bytes() == again.read_bytes()


def test_matplotlib_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_draw()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not can_draw()

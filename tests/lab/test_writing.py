"""The folder of a sweep: everything in it follows from the runs, with and without matplotlib."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import pytest

from p2pfusion.errors import ConfigError, StoreError
from p2pfusion.lab.curves import MOMENTS, SIDES_MAX, curves
from p2pfusion.lab.knobs import Order, order_of
from p2pfusion.lab.results import COLUMNS
from p2pfusion.lab.sweeps import expand
from p2pfusion.lab.tables import headings, table_rows
from p2pfusion.lab.traces import perform, result_of
from p2pfusion.lab.writing import Folder, readme, title_of, trace_names
from p2pfusion.sim.light import light_learner
from p2pfusion.sim.loading import named
from tests.lab.made import broken, row


def orders(name: str = "latency", **chosen: tuple[float | str, ...]) -> tuple[Order, ...]:
    small: dict[str, tuple[float | str, ...]] = {"nodes": (4,), "rounds": (3,), "task": ("light",), **chosen}
    return expand(order_of(named(name)), small, 1)


def trace(order: Order) -> str:
    return perform(order, lambda _: light_learner())


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_has_a_row_for_each_point_with_mean_and_range() -> None:
    short, calm = {"half_life": 10.0}, {"half_life": math.inf}
    rows = [row(short, accuracy=0.9, seed=0), row(short, accuracy=0.95, seed=1), row(calm), broken(calm)]
    assert headings(rows) == [
        "half-life", "accuracy %", "s/round", "kept %", "crashes", "orphans", "tip lag", "kB per node round", "agreed",
    ]  # fmt: skip
    first, second = table_rows(rows)
    assert first[:4] == ["10s", "92.5 (90.0-95.0)", "4", "99.0"]
    assert (second[0], second[-1]) == ("inf", "1/2")


def test_counts_are_shown_where_there_was_something_and_the_loss_where_there_is_no_accuracy() -> None:
    rows = [row({"nodes": 4}, accuracy=None, forks=0), row({"nodes": 8}, accuracy=None, forks=2)]
    assert "forks" in headings(rows)
    assert "grafts" not in headings(rows)
    assert "training loss" in headings(rows)
    assert headings([broken()]) == ["agreed"]
    assert table_rows([broken({"nodes": 4}), row({"nodes": 8})])[0] == ["4", *["-"] * 7, "0/1"]


# -- curves -----------------------------------------------------------------------------------------------------------


def test_a_run_without_partitions_is_one_curve_of_losses() -> None:
    (only,) = curves([trace(orders()[0])])
    assert (only.label, only.is_accuracy, only.spells) == ("all nodes", False, ())
    assert 2 <= len(only.times_s) == len(only.means) == len(only.least) == len(only.greatest) <= MOMENTS + 1
    assert all(low <= mean <= high for low, mean, high in zip(only.least, only.means, only.greatest, strict=True))


def test_sides_are_curves_and_the_time_apart_a_spell() -> None:
    traces = [trace(order) for order in orders("partition", apart=(0.5, 1.0))]
    found = curves(traces)
    assert [curve.label for curve in found] == [
        "side A (2 nodes), time apart 500ms",
        "side B (2 nodes), time apart 500ms",
        "side A (2 nodes), time apart 1s",
        "side B (2 nodes), time apart 1s",
    ]
    assert [(spell.from_s, spell.to_s) for spell in found[0].spells] == [(0.6, 1.1)]  # 3 of 100 rounds


def test_as_many_sides_as_are_drawn_and_one_more() -> None:
    head = trace(orders("partition")[0]).partition("\n")[0]
    for parts in (SIDES_MAX, SIDES_MAX + 1):
        many = head.replace('"nodes":4', '"nodes":8').replace('"parts":2', f'"parts":{parts}')
        assert len(curves([many])) == SIDES_MAX


def test_what_is_no_trace_has_no_curves() -> None:
    with pytest.raises(ConfigError, match="not the trace"):
        curves(["{}\n"])


# -- the folder -------------------------------------------------------------------------------------------------------


def test_traces_are_named_by_what_was_varied() -> None:
    assert trace_names(orders()) == ["trace.jsonl"]
    swept = expand(order_of(named("churn")), {"half_life": (30.0, math.inf), "loss": (0.05, 0.1)}, 2)
    assert trace_names(swept)[:2] == ["trace-5%-30s-seed0.jsonl", "trace-5%-30s-seed1.jsonl"]
    assert len(set(trace_names(swept))) == len(swept)
    (path, _) = trace_names(orders(task=("../../etc/my task.py", "light")))
    assert path == "trace-..-..-etc-my-task.py-seed0.jsonl"


def test_a_title_says_what_all_runs_have_in_common() -> None:
    assert title_of(orders()) == "latency: 4 nodes, 3 rounds, slice 50%, task light"
    assert title_of(orders(task=("digits",), nodes=(4, 8))) == "latency: 3 rounds, slice 50%, task digits, auto"


def test_everything_is_written_and_can_be_read(tmp_path: Path) -> None:
    runs = orders(latency=(0.005, 0.02))
    folder = Folder(tmp_path / "new" / "folder")
    names = trace_names(runs)
    for name, order in zip(names, runs, strict=True):
        folder.write(name, trace(order))
    rows = [result_of(folder.read(name)) for name in names]
    folder.write_csv(rows, ["latency"])
    assert folder.write_figure(rows, title_of(runs), names)
    with (folder.path / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["latency"] for line in table] == ["0.005", "0.02"]
    assert [line["trace_hash"] for line in table] == [one.trace_hash for one in rows]
    assert {path.name for path in folder.path.iterdir()} == {"results.csv", "latency.png", "latency.svg", *names}


def test_the_readme_says_how_all_that_was_made() -> None:
    rows = [row({"half_life": 10.0}, seed=1), row({"half_life": 10.0}, seed=2)]
    text = readme(
        rows, title="churn: 4 nodes", command="p2pfusion simulate churn --seeds 2", versions={"numpy": "2.4"},
        traces=["trace-10s-seed1.jsonl"], has_figure=True,
    )  # fmt: skip
    for words in (
        "# churn: 4 nodes",
        "    p2pfusion simulate churn --seeds 2",
        "Seeds: 1, 2. Versions: numpy 2.4.",
        "    p2pfusion simulate replay trace-10s-seed1.jsonl",
        "(churn.png)",
        "| half-life | accuracy % |",
        "| 10s | 95.0 |",
        "- `half_life`: half-life, varied",
        *(f"- `{column}`: " for column in COLUMNS),
    ):
        assert words in text
    assert "png" not in readme(rows, title="t", command="c", versions={}, traces=["t"], has_figure=False)


def test_without_matplotlib_there_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not Folder(tmp_path).write_figure([row()], "a title", [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another folder with --out"):
        Folder(tmp_path / "file" / "folder")
    folder = Folder(tmp_path / "there")
    (folder.path / "results.csv").mkdir()
    with pytest.raises(StoreError, match="--out"):
        folder.write_csv([row()], [])
    with pytest.raises(StoreError, match="--out"):
        folder.read("nothing")

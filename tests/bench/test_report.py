"""The page says what is in the files, says what is missing, and calls a failure a failure."""

from pathlib import Path

import pytest

from bench import report, results


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)


def row(system: str, setting: str, seconds: float, error: float, **more: object) -> dict[str, object]:
    common = {
        "peers": 2,
        "elements": 10_000_000,
        "repeat": 0,
        "is_moved": error < 0.1,
        "is_complete": True,
        "is_equal": True,
    }
    return {"system": system, "setting": setting, **common, "seconds": seconds, "error": error, **more}


def test_an_empty_folder_invents_nothing() -> None:
    text = report.page()
    assert "Nothing has been measured yet." in text
    assert "not measured" in text
    assert "has not run" in text


def test_equal_error_decides_whom_we_are_compared_with() -> None:
    """The fastest of theirs errs more: it does not count for fp32."""
    rows = [
        row("ours", "fp32/1", 0.4, 3e-8, bytes_per_node=40e6),
        row("ours", "fp32/0.5", 0.3, 3e-8, bytes_per_node=10e6),
        row("hivemind", "none/0.5", 0.5, 3e-8, bytes_per_node=40e6),
        row("hivemind", "uniform8/0.5", 0.1, 1e-2, bytes_per_node=10e6),
    ]
    results.write("averaging", rows, {})
    text = report.page()
    assert "whole model: time over that of hivemind none/0.5 | at most 1.00 | 0.800 | reached" in text
    assert "slices at rate 0.5: time over that of hivemind none/0.5 | at most 0.500 | 0.600 | short by 20.0 %" in text
    assert "bytes per node over its | at most 1 | 0.250 | reached" in text


def test_rounding_is_no_error_and_a_busy_machine_is_named() -> None:
    rows = [row("ours", "fp32/1", 0.4, 2e-8), row("hivemind", "none/0.5", 0.5, 4e-8)]
    results.write("averaging", rows, {"load_at_start": 9.0})
    text = report.page()
    assert "time over that of hivemind none/0.5 | at most 1.00 | 0.800 | reached" in text
    assert "the machine was busy" in text


def test_an_exchange_that_averaged_nothing_is_called_wrong() -> None:
    results.write("averaging", [row("hivemind", "uniform8/0.5", 0.1, 0.3)], {"left_out": ["gloo: no answer"]})
    text = report.page()
    assert "1, 1 wrong" in text
    assert "Left out: gloo: no answer." in text


def test_nodes_of_ours_that_differ_are_called_wrong_and_others_may() -> None:
    rows = [row("ours", "fp32/1", 0.1, 1e-8), row("hivemind", "none/0.5", 0.1, 1e-8)]
    results.write("averaging", [{**one, "is_equal": False} for one in rows], {})
    assert report.page().count("1, 1 wrong") == 1


def test_any_bench_gets_a_table_and_its_goals() -> None:
    results.keep_lines("transport", [{"contribution": {"ratio": 0.6}}], results.about(command="python x"))
    text = report.page()
    assert "| contribution.ratio | 0.600 |" in text
    assert "| at least 0.800 | 0.600 | short by 25.0 % |" in text


def test_what_did_not_end_well_is_said() -> None:
    results.keep_lines("fold", [], {"wrong": "not done in 600 s", "command": "python x"})
    assert "It did not end well: not done in 600 s." in report.page()

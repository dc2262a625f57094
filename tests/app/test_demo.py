"""What the demo starts, what it believes, and what it says at the end. The real thing is in test_real.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.app import demo
from p2pfusion.app.children import Child
from p2pfusion.app.demo import DEMO_ROUNDS, DemoOptions, commands, complaint, exit_status, report, summary
from p2pfusion.app.exporting import Exported
from p2pfusion.app.join_options import JoinOptions
from p2pfusion.app.output import DemoDoneLine, DoneLine
from p2pfusion.app.values import Part, Until
from p2pfusion.config import ALGORITHM_DEFAULT
from p2pfusion.errors import StoreError, UsageError
from p2pfusion.lab.comparisons import Comparisons

COMPARISONS = Comparisons(alone_accuracy=0.88, small_accuracy=0.93, full_accuracy=0.96)


def options(**changes: Any) -> DemoOptions:
    values: dict[str, Any] = {
        "nodes": 3, "rounds": None, "rate": 0.5, "algorithm": ALGORITHM_DEFAULT, "common": 0.25, "momentum": 0.0,
        "seed": 0, "json": False, "quiet": False, "verbose": False,
    }  # fmt: skip
    return DemoOptions(**{**values, **changes})


class Ended:
    """A process that ended with this status."""

    def __init__(self, status: int) -> None:
        self.returncode = status


@pytest.fixture
def child(done_line: Callable[..., DoneLine], tmp_path: Path) -> Callable[..., Child]:
    def make(name: str, status: int = 0, **changes: Any) -> Child:
        process: Any = Ended(status)
        made = Child(name, tmp_path / name, process, done=done_line(name=name))
        for field, value in changes.items():
            setattr(made, field, value)
        return made

    return make


def test_each_node_is_a_join_of_its_own_without_anybodys_address(tmp_path: Path) -> None:
    from p2pfusion.app import cli, joining

    found = commands(options(seed=7, rate=0.25, common=0.125, momentum=0.6, rounds=5), "demo-ab", tmp_path)
    assert list(found) == ["fox", "otter", "wren"]
    seen: list[JoinOptions] = []
    original = joining.run_join
    try:
        joining.run_join = lambda join_options: seen.append(join_options) or 0  # type: ignore[func-returns-value]
        for line, _ in found.values():
            assert line[:3] == [sys.executable, "-m", "p2pfusion"]
            assert cli.main(line[3:]) == 0
    finally:
        joining.run_join = original
    assert [item.name for item in seen] == list(found)
    assert [item.data_part for item in seen] == [Part(0, 3), Part(1, 3), Part(2, 3)]
    assert (
        [item.state for item in seen] == [state for _, state in found.values()] == [tmp_path / str(i) for i in range(3)]
    )
    for item in seen:
        assert (item.task, item.swarm, item.listen, item.peers) == ("digits", "demo-ab", "127.0.0.1:0", ())
        assert (item.min_peers, item.until, item.seed, item.rate) == (3, Until(rounds=5), 7, 0.25)
        assert (item.algorithm, item.common, item.momentum) == (ALGORITHM_DEFAULT, 0.125, 0.6)
        assert item.json
        assert item.leave_on_eof


def test_the_default_number_of_rounds(tmp_path: Path) -> None:
    line, _ = commands(options(), "demo-ab", tmp_path)["fox"]
    assert f"rounds={DEMO_ROUNDS}" in line
    assert "--verbose" not in line
    assert "--verbose" in commands(options(verbose=True), "demo-ab", tmp_path)["fox"][0]


def test_one_model_and_all_well_is_no_complaint(child: Callable[..., Child]) -> None:
    children = [child("fox"), child("otter")]
    assert exit_status(children) == 0
    assert complaint(children) is None


def test_the_first_that_failed_is_blamed(child: Callable[..., Child]) -> None:
    children = [
        child("fox", -15, was_asked=True),
        child("otter", 6, failed_first=True, words=b"error: port is taken\n"),
    ]
    assert exit_status(children) == 6
    assert complaint(children) == "otter ended with status 6: error: port is taken"


def test_a_child_that_was_killed_is_said(child: Callable[..., Child]) -> None:
    children = [child("fox"), child("otter", -9, failed_first=True)]
    assert exit_status(children) == 1
    assert complaint(children) == "otter was ended by signal 9: it said nothing"


def test_after_ctrl_c_nothing_is_complained_about(child: Callable[..., Child]) -> None:
    children = [child("fox", 130, was_asked=True), child("otter", -15, was_asked=True)]
    assert exit_status(children) == 130
    assert complaint(children) is None


@pytest.mark.parametrize("changes", [{"model_sha256": "ff" * 32}, {"chain": "ff" * 32}])
def test_different_ends_are_our_bug(
    changes: dict[str, str], child: Callable[..., Child], done_line: Callable[..., DoneLine]
) -> None:
    children = [child("fox"), child("otter", done=done_line(**changes))]
    assert "different models" in str(complaint(children))
    line = summary(children, 1, None)
    assert line is not None
    assert (line.status, line.model_sha256, line.chain, line.accuracy) == ("failed", None, None, None)


def test_a_node_that_says_nothing_is_not_believed(
    child: Callable[..., Child], done_line: Callable[..., DoneLine]
) -> None:
    assert "without saying how" in str(complaint([child("fox"), child("otter", done=None)]))
    assert "without saying how" in str(complaint([child("fox"), child("otter", done=done_line(status="timeout"))]))


def test_what_is_exported_must_be_what_was_trained(
    child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    from p2pfusion.app import exporting

    hashes = {"fox": "12" * 32, "otter": "ff" * 32}

    def export(folder: Path, file: Path) -> Exported:
        return Exported(file=str(file), round=3, chain="", model_sha256=hashes[folder.name], parameters=1)

    monkeypatch.setattr(exporting, "export_model", export)
    assert demo._exports_differ([child("fox")]) is None
    assert "otter exports is not the model" in str(demo._exports_differ([child("fox"), child("otter")]))


def test_the_last_line_has_everything(child: Callable[..., Child]) -> None:
    line = summary([child("fox"), child("otter")], 0, COMPARISONS)
    assert line is not None
    assert (line.status, line.name, line.round, line.accuracy) == ("ok", "demo", 3, 0.9)
    assert (line.model_sha256, line.bytes_sent, line.bytes_received) == ("12" * 32, 6000, 12000)
    assert (line.traffic.sent, line.traffic.received) == (6000, 12000)
    assert [node.name for node in line.nodes] == ["fox", "otter"]
    assert (line.alone_accuracy, line.small_accuracy, line.full_accuracy) == (0.88, 0.93, 0.96)


def test_without_any_beginning_there_is_no_last_line(child: Callable[..., Child]) -> None:
    assert summary([child("fox", 4, done=None)], 4, None) is None


@pytest.mark.parametrize("status", ["interrupted", "timeout", "failed"])
def test_the_status_is_that_of_whoever_did_not_end_well(
    status: str, child: Callable[..., Child], done_line: Callable[..., DoneLine]
) -> None:
    line = summary([child("fox"), child("otter", done=done_line(status=status))], 8, None)
    assert line is not None
    assert line.status == status


def test_the_comparisons_are_printed_whatever_they_say(child: Callable[..., Child]) -> None:
    line = summary([child("fox"), child("otter"), child("wren")], 0, COMPARISONS)
    assert isinstance(line, DemoDoneLine)
    text = "\n".join(report(line, 0.5))
    assert "each node trained 50.0 % of the model at a time, on its own 1/3 of the data" in text
    assert "fox, otter and wren hold the same model" in text
    assert "sent 9.0 kB (weights 8.1 kB, lists 540 B, talk 360 B)" in text
    for figure in ("90.0 %", "88.0 %", "93.0 %", "96.0 %"):
        assert figure in text


def test_what_a_node_trained_is_the_mean_of_what_was_reported(child: Callable[..., Child]) -> None:
    children = [child("fox", shares=[0.5, 0.5]), child("otter", shares=[0.2, 0.4])]
    assert demo.mean_share(children) == pytest.approx(0.4)
    assert demo.mean_share([child("wren")]) is None


def test_of_several_widths_the_best_is_told_with_the_others(
    child: Callable[..., Child], done_line: Callable[..., DoneLine]
) -> None:
    done = done_line(widths={"25%": 0.85, "50%": 0.9}, served="50%")
    line = summary([child("fox", done=done)], 0, COMPARISONS)
    assert line is not None
    assert report(line, 0.5)[3].strip() == "by width: 25%: 85.0 %, 50%: 90.0 %"


def test_an_algorithm_that_no_swarm_runs_starts_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"p2pfusion\.lab\.rounds"):
        demo.run_demo(options(algorithm="ring"))
    assert "is here" not in capsys.readouterr().out


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the swarm by children that have ended."""

    def stage(*children: Child, error: BaseException | None = None) -> None:
        async def swarm(*arguments: Any) -> list[Child]:
            if error is not None:
                raise error
            return list(children)

        monkeypatch.setattr(demo, "_swarm", swarm)
        monkeypatch.setattr(demo, "_exports_differ", lambda children: None)
        monkeypatch.setattr(demo, "_compare", lambda options, view: COMPARISONS)

    return stage


def test_a_good_end(
    staged: Callable[..., None], child: Callable[..., Child], capsys: pytest.CaptureFixture[str]
) -> None:
    staged(child("fox"), child("otter"))
    assert demo.run_demo(options()) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("p2pfusion 0.1.0: demo, 3 nodes on this computer learn digits")
    assert out.splitlines()[-1].startswith("Next: run `p2pfusion join`")
    assert err == ""
    assert demo.run_demo(options(quiet=True)) == 0
    assert capsys.readouterr() == ("", "")
    assert demo.run_demo(options(json=True, quiet=True)) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert '"alone_accuracy":0.88' in out
    assert err == ""


def test_a_bad_end(
    staged: Callable[..., None], child: Callable[..., Child], capsys: pytest.CaptureFixture[str]
) -> None:
    staged(child("fox", 7, failed_first=True, words=b"error: the loss is nan\n"), child("otter"))
    assert demo.run_demo(options(json=True, quiet=True)) == 7
    out, err = capsys.readouterr()
    assert '"status":"failed"' in out
    assert err == "error: fox ended with status 7: error: the loss is nan\n"


def test_its_folder_is_removed_however_it_ends(
    staged: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"

    def make_folder(prefix: str) -> str:
        folder.mkdir()
        (folder / "file").write_text("text")
        return str(folder)

    monkeypatch.setattr(demo, "mkdtemp", make_folder)
    staged(error=KeyboardInterrupt())
    assert demo.run_demo(options(quiet=True)) == 130
    assert not folder.exists()
    staged(error=StoreError("disk is full"))
    with pytest.raises(StoreError):
        demo.run_demo(options(quiet=True))
    assert not folder.exists()

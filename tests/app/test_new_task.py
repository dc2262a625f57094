"""`new`: the written file passes `check` as it is, learns, and never replaces another."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from p2pfusion.app import checking
from p2pfusion.app.cli import main
from p2pfusion.core.task import prepare
from p2pfusion.core.task_file import load_task_file
from p2pfusion.core.training import evaluate, train


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checking, "TIMED_STEPS", 1)
    return tmp_path


def test_what_is_written_passes_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new"]) == 0
    out, err = capsys.readouterr()
    first, check, join = out.splitlines()
    lines = Path("my_task.py").read_text().splitlines()
    marked = [str(number) for number, line in enumerate(lines, 1) if "# 1." in line or "# 2." in line]
    assert first.startswith(f"wrote my_task.py: it learns digits as it is; edit lines {', '.join(marked)}, ")
    assert first.count(",") == 2
    assert " and " in first
    assert "p2pfusion check my_task.py " in check
    assert "p2pfusion join my_task.py " in join
    assert err == ""
    assert main(["check", "my_task.py"]) == 0
    assert "85 002 parameters" in capsys.readouterr().out


def test_what_is_written_is_short_and_learns() -> None:
    assert main(["new", "my_task.py", "-q"]) == 0
    text = Path("my_task.py").read_text()
    assert len(text.splitlines()) <= 36
    assert max(map(len, text.splitlines())) <= 120
    assert "p2pfusion join my_task.py" in text
    prepared = prepare(load_task_file("my_task.py"), 0)
    batches = prepared.train.batches(random.Random(0))
    model = prepared.genesis
    for _ in range(4):
        model = train(prepared.blueprint, prepared.blueprint.whole(), model, batches, prepared.recipe).after
    assert prepared.validation is not None
    assert evaluate(prepared.blueprint, model, prepared.validation) > 0.75


def test_four_lines_are_yours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "a b.py", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["v"], value["event"], value["file"]) == (1, "new", "a b.py")
    lines = Path("a b.py").read_text().splitlines()
    assert [lines[number - 1].partition("# ")[2][0] for number in value["edit"]] == ["1", "2", "3", "4"]


def test_a_name_with_a_space_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "a b.py"]) == 0
    assert "p2pfusion check 'a b.py' " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.py", "mine.py exists and stays as it is: give another name"),
        ("mine", "the file's name must end in .py"),
        ("nowhere/mine.py", "choose a folder that exists"),
    ],
)
def test_nothing_is_overwritten(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("precious")
    assert main(["new", name]) == 2
    assert words in capsys.readouterr().err
    assert Path("mine.py").read_text() == "precious"

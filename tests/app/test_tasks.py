"""The TASK argument: a name, a name with a folder, a file; and what is said to everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfusion.app import checking
from p2pfusion.app.cli import main
from p2pfusion.app.tasks import find_task
from p2pfusion.errors import TaskError
from p2pfusion.zoo.datasets import Images
from p2pfusion.zoo.tasks import FOLDER_TASKS
from tests.zoo import written


def test_a_name_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write_fashion(tmp_path / "my data")
    assert isinstance(find_task(f"fashion:{tmp_path}/my data", 0).train, Images)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert isinstance(find_task("mnist:~/my data", 0).train, Images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fashion", r"fashion needs a folder with its data: write fashion:DIR, where DIR holds .*t10k"),
        ("shakespeare:", r"shakespeare:DIR, where DIR holds input\.txt"),
        ("cifar10:nowhere", r"nowhere: there is no such folder; give the one that holds data_batch_1\.bin"),
        ("digits:data", "digits brings its data along: leave out :data"),
        ("fashon:data", r"no task is named 'fashon': did you mean fashion\? Built in: digits, fashion:DIR, "),
        ("xyz", r"no task is named 'xyz': Built in: digits.* my_task\.py"),
        ("C:/tasks/mine.py", r"C:/tasks/mine\.py: there is no such file"),
    ],
)
def test_what_is_no_task_is_answered_with_the_fix(text: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        find_task(text, 0)


def test_the_help_of_join_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", "--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in FOLDER_TASKS if f"{name}:DIR" not in out] == []


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fashion:mine").write_text("")
    with pytest.raises(TaskError, match=r"must end in \.py"):
        find_task("fashion:mine", 0)


def test_check_takes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "TIMED_STEPS", 1)
    written.write_fashion(tmp_path)
    assert main(["check", f"fashion:{tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_samples"] == 60
    assert main(["check", "fashion:nowhere"]) == 3
    assert "error: nowhere: there is no such folder" in capsys.readouterr().err

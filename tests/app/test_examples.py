"""The task files in examples/ pass `check`, on data made for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from p2pfusion.app import checking
from p2pfusion.app.cli import main
from p2pfusion.core.genesis import genesis
from p2pfusion.core.task import prepare
from p2pfusion.core.task_file import load_task_file
from p2pfusion.zoo.tasks import digits_task

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "TIMED_STEPS", 1)


def copied(name: str, folder: Path) -> Path:
    return Path(shutil.copy(EXAMPLES / name, folder))


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied("image_folder.py", tmp_path)
    assert main(["check", str(file)]) == 3
    assert "photos: there are no pictures; put them into photos/CLASS/*.jpg" in capsys.readouterr().err
    for number in range(22):
        folder = tmp_path / "photos" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((30 + number, 40, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}{('.jpg', '.png')[number % 3 == 0]}")
    assert main(["check", str(file), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["train_samples"], value["validation_samples"], value["steps_per_round"]) == (19, 3, 10)


def test_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(EXAMPLES / "text_files.py"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["axes"]["layer1.ffn"] == 384
    task = load_task_file(EXAMPLES / "text_files.py")
    pieces = [prepare(task, 0, (index, 3)).train.samples or 0 for index in range(3)]
    assert max(pieces) - min(pieces) <= 1


def test_weights_from_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied("fine_tune.py", tmp_path)
    assert main(["check", str(file)]) == 3
    assert "fine_tune.py:" in capsys.readouterr().err
    blueprint = prepare(digits_task(), 0).blueprint
    values, start = genesis(blueprint, 3), 0
    weights = {}
    for parameter in blueprint.parameters:
        shape = blueprint.shape(parameter)
        weights[parameter.name] = values[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    save_file(weights, tmp_path / "model.safetensors")
    assert main(["check", str(file)]) == 0
    assert (prepare(load_task_file(file), 0).genesis == values).all()

"""A checkpoint goes out as a plain safetensors file that says what it is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from p2pfusion.app import exporting, states
from p2pfusion.app.cli import main
from p2pfusion.app.exporting import export_model
from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint
from p2pfusion.store.folder import FolderStore

# Not in the order of the alphabet: the hash is over the model in blueprint order.
MODEL = {
    "second.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "second.bias": np.array([-0.0, 1.5], np.float32),
    "first.weight": np.array([[7.0]], np.float32),
}
SHA256 = hashlib.sha256(b"".join(values.tobytes() for values in MODEL.values())).hexdigest()


def save(folder: Path, round_index: int = 8) -> Path:
    with FolderStore(folder) as store:
        store.save_checkpoint(
            Checkpoint(run_id=b"r" * 32, round=round_index, chain=b"c" * 32, weight=3, model=dict(MODEL))
        )
    return folder


def test_the_file_holds_the_model_and_its_metadata(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    exported = export_model(save(tmp_path / "fox"), file)
    assert (exported.round, exported.chain, exported.parameters) == (8, (b"c" * 32).hex(), 9)
    assert exported.model_sha256 == SHA256
    with safe_open(file, framework="numpy") as opened:
        assert opened.metadata()["model_sha256"] == SHA256
        assert opened.metadata()["round"] == "8"
        assert sorted(opened.keys()) == sorted(MODEL)
        for name, values in MODEL.items():
            assert opened.get_tensor(name).tobytes() == values.tobytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["fox", "model.safetensors"]


def test_a_running_node_can_be_exported(tmp_path: Path) -> None:
    folder = save(tmp_path / "fox")
    with FolderStore(folder):
        assert export_model(folder, tmp_path / "model.safetensors").round == 8


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    folder = save(tmp_path / "fox")
    with pytest.raises(StoreError, match="cannot write"):
        export_model(folder, tmp_path / "missing" / "model.safetensors")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        export_model(folder, tmp_path / "taken.safetensors")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["fox", "taken.safetensors"]


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "lab" / "fox")
    file = tmp_path / "model.safetensors"
    assert main(["export", str(file), "--state", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"wrote {file}: 9 parameters, round 8, model {SHA256}\n"
    assert err == ""
    assert main(["export", str(file), "--state", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["v"], value["event"], value["model_sha256"]) == (1, "export", SHA256)
    assert main(["export", str(file), "--state", str(tmp_path), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_of_several_nodes_the_newest_is_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "lab" / "fox")
    save(tmp_path / "lab" / "otter", 16)
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "round 16" in out
    assert "2 nodes have saved a model; taking the newest" in err
    assert str(Path("lab") / "otter") in err


def test_nothing_to_export_is_one_line_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: nothing to export")
    assert "p2pfusion join" in err
    assert len(err.splitlines()) == 1


def test_damaged_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = save(tmp_path / "fox") / "checkpoint-8.safetensors"
    saved.write_bytes(saved.read_bytes()[:-1])
    for name in (saved.name, f"{saved.name}.damaged"):
        assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(tmp_path)]) == 3
        assert name in capsys.readouterr().err.splitlines()[-1]
        if saved.exists():
            saved.rename(saved.with_name(f"{saved.name}.damaged"))


def test_the_file_must_be_called_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "model.pt"), "--state", str(tmp_path)]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err


def test_of_several_swarms_the_newest_is_taken_or_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(states, "state_root", lambda: tmp_path)
    monkeypatch.setattr(exporting, "state_root", lambda: tmp_path)
    save(states.folder_of("lab", "fox"), 5)
    home = save(states.folder_of("home", "fox"), 7)
    (newest,) = home.glob("checkpoint-*")
    os.utime(newest, (2e9, 2e9))
    file = str(tmp_path / "model.safetensors")
    for arguments, round_ in ((), 7), (("--swarm", "lab"), 5), (("--swarm", "home"), 7):
        assert main(["export", file, "--json", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["round"] == round_
    assert main(["export", file, "--swarm", "elsewhere"]) == 3
    assert "nothing to export in" in capsys.readouterr().err
    assert main(["export", file, "--swarm", "lab", "--state", str(home)]) == 2

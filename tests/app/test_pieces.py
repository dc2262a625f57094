"""A model in pieces goes out whole, under the hash that its devices said, or what is missing is named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from p2pfusion.app.cli import main
from p2pfusion.app.exporting import export_model
from p2pfusion.app.states import forget, newest_folder
from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint
from p2pfusion.store.folder import FolderStore
from p2pfusion.store.shards import shard_folder, shards_in

SHARDS = (
    {"first.weight": np.arange(4, dtype=np.float32), "last.weight": np.ones(2, np.float32)},
    {"middle.weight": np.full((2, 2), 3.0, np.float32)},
    {"middle2.weight": np.zeros((1, 3), np.float32)},
)
SHA256 = hashlib.sha256(
    b"".join(hashlib.sha256(b"".join(one.tobytes() for one in shard.values())).digest() for shard in SHARDS)
).hexdigest()


def save(folder: Path, shards: tuple[int, ...] = (0, 1, 2), rounds: tuple[int, ...] = (8, 8, 8)) -> Path:
    for shard in shards:
        with FolderStore(shard_folder(folder, shard, len(SHARDS))) as store:
            store.save_checkpoint(
                Checkpoint(
                    run_id=b"r" * 32, round=rounds[shard], chain=bytes([shard]) * 32, weight=3, model=SHARDS[shard]
                )
            )
    return folder


def test_all_shards_are_one_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    exported = export_model(save(tmp_path / "fox"), file)
    assert (exported.round, exported.parameters, exported.model_sha256) == (8, 13, SHA256)
    written = load_file(file)
    assert {name: values.tolist() for name, values in written.items()} == {
        name: values.tolist() for shard in SHARDS for name, values in shard.items()
    }


@pytest.mark.parametrize(("there", "missing"), [((0, 2), "1"), ((1,), "0, 2")])
def test_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: tuple[int, ...], missing: str
) -> None:
    save(tmp_path / "fox", there)
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert f"holds {len(there)} of 3 shards (not {missing})" in err
    assert "--keep-all" in err
    assert not (tmp_path / "model.safetensors").exists()


def test_a_folder_of_shards_is_one_node_and_is_found_below_the_root(tmp_path: Path) -> None:
    folder = save(tmp_path / "lab" / "fox")
    assert newest_folder(tmp_path) == (folder, 1)
    assert newest_folder(folder) == (folder, 1)
    assert shards_in(folder) == [shard_folder(folder, shard, 3) for shard in range(3)]


def test_fresh_forgets_the_shards_too(tmp_path: Path) -> None:
    folder = save(tmp_path / "fox")
    (folder / "shard-0-of-3" / "mine.txt").write_text("mine")
    forget(folder)
    assert [path.name for path in sorted(folder.rglob("*")) if path.is_file() and "lock" not in path.name] == [
        "mine.txt"
    ]
    with pytest.raises(StoreError, match="nothing to export"):
        newest_folder(folder)


def test_rounds_that_differ_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.safetensors"
    save(tmp_path / "fox", rounds=(8, 9, 8))
    assert main(["export", str(file), "--state", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out == f"wrote {file}: 13 parameters, shards of rounds 8 and 9, model {SHA256}\n"


def test_a_whole_model_that_was_saved_later_is_the_newest(tmp_path: Path) -> None:
    folder = save(tmp_path / "fox")
    for saved in folder.rglob("checkpoint-*"):
        os.utime(saved, (1.0, 1.0))
    with FolderStore(folder) as store:
        store.save_checkpoint(Checkpoint(run_id=b"w" * 32, round=4, chain=b"c" * 32, weight=3, model=SHARDS[1]))
    assert shards_in(folder) == []
    exported = export_model(folder, tmp_path / "model.safetensors")
    assert (exported.round, list(exported.shard_rounds)) == (4, [])


def test_what_another_cut_left_is_not_taken_and_is_forgotten_too(tmp_path: Path) -> None:
    folder = tmp_path / "fox"
    with FolderStore(shard_folder(folder, 1, 5)) as store:
        store.save_checkpoint(Checkpoint(run_id=b"r" * 32, round=99, chain=b"c" * 32, weight=3, model=SHARDS[1]))
    for saved in shard_folder(folder, 1, 5).glob("checkpoint-*"):
        os.utime(saved, (1.0, 1.0))
    assert export_model(save(folder), tmp_path / "model.safetensors").round == 8
    forget(folder)
    assert not list(folder.rglob("checkpoint-*"))
    assert shards_in(folder) == []

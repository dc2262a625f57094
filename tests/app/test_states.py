"""Which folder, which name, and what `--fresh` may delete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pfusion.app import states
from p2pfusion.errors import StoreError
from p2pfusion.store.folder import FolderStore


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(states, "state_root", lambda: tmp_path / "root")
    return tmp_path / "root"


def test_the_default_is_the_platforms_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert states.state_root().name == "p2pfusion"


def test_names_are_friendly_distinct_and_bounded() -> None:
    names = list(states.friendly_names())
    assert names[:3] == ["fox", "otter", "wren"]
    assert len(names) == len(dict.fromkeys(names)) == len(states.NAMES) * states.NAME_ROUNDS_MAX
    assert names[len(states.NAMES)] == "fox-2"


@pytest.mark.parametrize("swarm", ["..", ".", "a/b", "/etc", "lab 1", "größe", "%2E", "a\\b"])
def test_no_name_leaves_the_folder(swarm: str, root: Path) -> None:
    folder = states.folder_of(swarm, "..")
    assert folder.parent.parent == root
    assert folder.resolve() == folder


def test_different_names_never_share_a_folder() -> None:
    names = ["a", "A", "a.b", "a%2Eb", "a/b", "a b", "..", "%2E%2E"]
    assert len({states.folder_of("swarm", name) for name in names}) == len(names)


def chosen(swarm: str, name: str | None, folder: Path | None) -> tuple[str, Path]:
    with states.chosen(swarm, name, folder) as found:
        return found


def test_what_the_user_gave_is_taken(tmp_path: Path) -> None:
    assert chosen("lab", "heron", None) == ("heron", states.folder_of("lab", "heron"))
    assert chosen("lab", "heron", tmp_path) == ("heron", tmp_path)


def test_a_folder_of_ones_own_gives_a_name_that_stays(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(20)]
    names = [chosen("lab", None, folder)[0] for folder in folders]
    assert names == [chosen("another", None, folder)[0] for folder in folders]
    assert len(dict.fromkeys(names)) > 5
    assert all(name in states.NAMES for name in names)


def test_the_default_name_is_the_first_whose_folder_nobody_holds() -> None:
    assert chosen("lab", None, None)[0] == "fox"
    with FolderStore(states.folder_of("lab", "fox")), FolderStore(states.folder_of("lab", "otter")):
        assert chosen("lab", None, None) == ("wren", states.folder_of("lab", "wren"))
        assert chosen("another", None, None)[0] == "fox"
    assert chosen("lab", None, None)[0] == "fox"


def test_a_default_name_is_ones_own_before_the_folder_is_opened() -> None:
    """Two that start at once: the second may not even look into the folder that the first is about to open."""
    with states.chosen("lab", None, None) as first, states.chosen("lab", None, None) as second:
        assert [first[0], second[0]] == ["fox", "otter"]
    assert chosen("lab", None, None)[0] == "fox"


def test_when_no_folder_can_be_made_the_reason_is_said(root: Path) -> None:
    root.write_text("a file in the way")
    with pytest.raises(StoreError, match="no built-in name is free"):
        chosen("lab", None, None)


def test_fresh_deletes_what_a_node_saved_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    states.forget(tmp_path / "missing")
    for name in ("identity.json", "checkpoint-8.safetensors", "model.safetensors", "thesis.tex"):
        (folder / name).write_text("text")
    states.forget(folder)
    left = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    assert left == ["model.safetensors", "p2pfusion.lock", "thesis.tex"]


def test_fresh_does_not_touch_a_running_node(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("text")
    with FolderStore(tmp_path), pytest.raises(StoreError, match="in use"):
        states.forget(tmp_path)
    assert (tmp_path / "identity.json").exists()


def test_what_cannot_be_deleted_is_said(tmp_path: Path) -> None:
    (tmp_path / "identity.json").mkdir()
    with pytest.raises(StoreError, match="delete the folder yourself"):
        states.forget(tmp_path)


def checkpoint(folder: Path, number: int, age_s: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"checkpoint-{number}.safetensors"
    file.write_text("text")
    os.utime(file, (age_s, age_s))


def test_the_newest_checkpoint_wins_wherever_it_is(tmp_path: Path) -> None:
    lab, fox, otter = tmp_path / "lab", tmp_path / "lab" / "fox", tmp_path / "lab" / "otter"
    checkpoint(fox, 8, 10)
    checkpoint(otter, 8, 20)
    checkpoint(otter, 16, 30)
    checkpoint(fox / ".p2pfusion-writing", 99, 99)
    assert states.newest_folder(tmp_path) == (otter, 2)
    assert states.newest_folder(lab) == (otter, 2)
    assert states.newest_folder(fox) == (fox, 1)
    checkpoint(fox, 24, 40)
    assert states.newest_folder(tmp_path) == (fox, 2)


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="p2pfusion join"):
        states.newest_folder(tmp_path / "missing")

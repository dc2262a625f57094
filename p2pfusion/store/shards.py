"""Where a device of a chain keeps its shards: a folder of its own for each, inside the device's, named by number.

Knows names of folders only; what is in one is `folder`'s business.
"""

from __future__ import annotations

import re
from pathlib import Path

_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


def is_shard(folder: Path) -> bool:
    """Whether it is one shard's, of a device's folder."""
    return _SHARD.fullmatch(folder.name) is not None


def shard_folder(folder: Path, shard: int, count: int) -> Path:
    """Where a device keeps that shard, of so many."""
    return folder / f"shard-{shard}-of-{count}"


def all_shards(folder: Path) -> list[Path]:
    """The folders of all shards that a device's folder has, of whatever cuts."""
    return sorted(path for path in folder.glob("shard-*") if path.is_dir() and is_shard(path))


def shards_in(folder: Path) -> dict[int, Path]:
    """Those of the cut that was saved last, by number; empty for a node with a whole model.

    A network that is cut otherwise, as when its task was changed, leaves the folders of the cut before.
    """
    saved: dict[int, dict[int, Path]] = {}
    newest: dict[int, float] = {}
    for path in all_shards(folder):
        number, count = (int(word) for word in _SHARD.fullmatch(path.name).groups())  # type: ignore[union-attr]
        times = [file.stat().st_mtime for file in path.glob("checkpoint-*.safetensors")]
        if times:
            saved.setdefault(count, {})[number] = path
            newest[count] = max(newest.get(count, 0.0), *times)
    return saved[max(newest, key=lambda count: newest[count])] if newest else {}

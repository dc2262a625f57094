"""Where a device of a chain keeps its shards: a folder of its own for each, inside the device's, named by number.

Knows names of folders only; what is in one is `folder`'s business.
"""

from __future__ import annotations

import re
from pathlib import Path

_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


def _numbers(folder: Path) -> tuple[int, int] | None:
    """Which shard's it is, and of how many; None for any other folder."""
    match = _SHARD.fullmatch(folder.name)
    return None if match is None else (int(match[1]), int(match[2]))


def is_shard(folder: Path) -> bool:
    """Whether it is one shard's, of a device's folder."""
    return _numbers(folder) is not None


def shard_folder(folder: Path, shard: int, count: int) -> Path:
    """Where a device keeps that shard, of so many."""
    return folder / f"shard-{shard}-of-{count}"


def all_shards(folder: Path) -> list[Path]:
    """The folders of all shards that a device's folder has, of whatever cuts."""
    return sorted(path for path in folder.glob("shard-*") if path.is_dir() and is_shard(path))


def shards_in(folder: Path) -> list[Path | None]:
    """Those of the cut that was saved last, by number, None for one that is not here; nothing where none was saved, or
    where the device has since saved a whole model.

    A network that is cut otherwise, as when its task was changed, leaves the folders of the cut before.
    """
    saved: list[tuple[float, int, int, Path]] = []
    for path in all_shards(folder):
        numbers, saved_s = _numbers(path), _saved_s(path)
        if numbers is not None and saved_s is not None:
            saved.append((saved_s, *numbers, path))
    if not saved or max(saved)[0] < (_saved_s(folder) or 0.0):
        return []
    _, _, count, _ = max(saved)
    mine = {number: path for _, number, of, path in saved if of == count}
    return [mine.get(number) for number in range(count)]


def _saved_s(folder: Path) -> float | None:
    """When its newest checkpoint was written, by the file system's clock; None without any."""
    return max((file.stat().st_mtime for file in folder.glob("checkpoint-*.safetensors")), default=None)

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


def shards_in(folder: Path) -> dict[int, Path]:
    """The folders of the shards that a device's folder has, by number; empty for a node with a whole model."""
    found = ((_SHARD.fullmatch(path.name), path) for path in folder.glob("shard-*") if path.is_dir())
    return {int(match[1]): path for match, path in found if match is not None}

"""A model that a device keeps in pieces: the newest checkpoints of all its shards, as one.

With `join --keep-all` a device of a chain holds them all. Where they lie and what is in a checkpoint is `store`'s
business.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from blake3 import blake3

from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint
from p2pfusion.store.folder import newest_checkpoint
from p2pfusion.store.shards import shards_in


def put_together(folder: Path) -> tuple[Checkpoint, str, list[int]]:
    """The newest of each shard as one checkpoint, the SHA-256 that the run's devices said of it, and each one's round.

    Every shard counts rounds for itself: one whose relay was lost has a round more or less than the owners' shard,
    whose round is the checkpoint's. Raises `StoreError` where one is missing.
    """
    shards = shards_in(folder)
    there = [path for path in shards if path is not None]
    if missing := [number for number, path in enumerate(shards) if path is None]:
        raise StoreError(
            f"{folder} holds {len(there)} of {len(shards)} shards (not {', '.join(map(str, missing))}): name a "
            f"folder of a device that joined with --keep-all, or copy the others' shard-K-of-{len(shards)} there"
        )
    found = [newest_checkpoint(path) for path in there]
    flats = [np.concatenate([values.reshape(-1) for values in one.model.values()]) for one in found]
    hashes = b"".join(bytes.fromhex(model_sha256(np.asarray(flat, np.float32))) for flat in flats)
    whole = replace(
        found[0],
        chain=blake3(b"".join(one.chain for one in found)).digest(),
        model={name: values for one in found for name, values in one.model.items()},
    )
    return whole, hashlib.sha256(hashes).hexdigest(), [one.round for one in found]

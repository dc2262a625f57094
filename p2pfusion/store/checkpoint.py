"""One checkpoint as one safetensors file: what is in it, and how it proves that it is intact.

Parameters keep their names and shapes, so any safetensors reader can open the file; the node's other arrays stand
beside them as `p2pfusion.<name>`, and the metadata says where in which run the model stands. BLAKE3 over all of that
is in the metadata too: a file that is short, altered or of another format is `Damaged`, never half read. No pickle,
ever.

This module knows one file at a time; which file to write, keep or try is the folder's business.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from p2pfusion.errors import StoreError
from p2pfusion.seams import Checkpoint
from p2pfusion.store.identity import Damaged

FORMAT = "p2pfusion-checkpoint-2"
PREFIX = "p2pfusion."
"""Of the names of all that is no parameter."""
_FIELDS = ("format", "run_id", "round", "chain", "weight", "sequence", "order")
_DIGITS_MAX = 64
"""Longest number in the metadata: a cumulative weight is far below 2^128."""


def write(path: Path, checkpoint: Checkpoint, sequence: int) -> None:
    """Write a checkpoint; the caller makes it durable. `sequence` counts the saves of a folder.

    Raises `OSError`, or `StoreError` for a model that is not made of named float32 arrays.
    """
    tensors = _tensors(checkpoint)
    metadata = {
        "format": FORMAT,
        "run_id": checkpoint.run_id.hex(),
        "round": str(checkpoint.round),
        "chain": checkpoint.chain.hex(),
        "weight": str(checkpoint.weight),
        "sequence": str(sequence),
        "order": json.dumps(list(checkpoint.model)),
    }
    metadata["blake3"] = _digest(metadata, tensors)
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise _os_error(error) from None  # its only failures left here are those of the disk


def sequence_of(path: Path) -> int:
    """The sequence number of a checkpoint, from its header alone. Raises `Damaged` or `OSError`."""
    with _opened(path) as file:
        return _number(_metadata(file), "sequence")


def run_id_of(path: Path) -> bytes:
    """The run a checkpoint belongs to, from its header alone. Raises `Damaged` or `OSError`."""
    with _opened(path) as file:
        return _bytes(_metadata(file), "run_id")


def round_of(path: Path) -> int:
    """The round a checkpoint stands at, from its header alone. Raises `Damaged` or `OSError`."""
    with _opened(path) as file:
        return _number(_metadata(file), "round")


def read(path: Path) -> Checkpoint:
    """Read and verify a whole checkpoint; its arrays are float32 and writable. Raises `Damaged` or `OSError`."""
    with _opened(path) as file:
        metadata = _metadata(file)
        try:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (SafetensorError, TypeError, AttributeError) as error:
            raise Damaged(f"{error}") from None  # a dtype that numpy does not have, for one
    if metadata.get("blake3") != _digest(metadata, tensors):
        raise Damaged("its contents do not match its hash")
    names = json.loads(metadata["order"])  # safetensors sorts; the model's hash is over the blueprint's order
    parts = {name[len(PREFIX) :]: tensors.pop(name) for name in list(tensors) if name.startswith(PREFIX)}
    if sorted(names) != sorted(tensors):
        raise Damaged("its tensors are not those it lists")
    if any(array.dtype != np.float32 for array in tensors.values()) or not all(map(_is_part, parts.values())):
        raise Damaged("its tensors are not those of a checkpoint")
    return Checkpoint(
        run_id=_bytes(metadata, "run_id"),
        round=_number(metadata, "round"),
        chain=_bytes(metadata, "chain"),
        weight=_number(metadata, "weight"),
        model={name: tensors[name] for name in names},
        parts=parts,
    )


def _is_part(array: npt.NDArray[Any]) -> bool:
    return array.dtype in (np.uint8, np.float32)


def _tensors(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, array in checkpoint.model.items():
        if name.startswith(PREFIX) or not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise StoreError(f"cannot save parameter {name!r}: a checkpoint holds named float32 arrays")
        tensors[name] = array
    for name, part in checkpoint.parts.items():
        if not isinstance(part, np.ndarray) or not _is_part(part):
            raise StoreError(f"cannot save {name!r}: the parts of a checkpoint are arrays of bytes or float32")
        tensors[PREFIX + name] = part
    return {name: array if array.flags.c_contiguous else array.copy() for name, array in tensors.items()}


def _digest(metadata: dict[str, str], tensors: dict[str, npt.NDArray[Any]]) -> str:
    """BLAKE3 of everything the file says, in an order that does not depend on the file's."""
    hasher = blake3(json.dumps([metadata[key] for key in _FIELDS]).encode())
    for name in sorted(tensors):
        array = tensors[name]
        hasher.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def _os_error(error: SafetensorError) -> OSError:
    """The disk's own error, which the library gives as text only."""
    number = re.search(r"\(os error ([0-9]{1,4})\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _opened(path: Path) -> safe_open:
    os.stat(path)  # the library's own error for a missing or unreadable file says neither
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise Damaged(f"{error}") from None


def _metadata(file: safe_open) -> dict[str, str]:
    metadata: dict[str, str] = file.metadata() or {}  # type: ignore[no-untyped-call]
    if metadata.get("format") != FORMAT or any(key not in metadata for key in _FIELDS):
        raise Damaged("it is not a checkpoint of this version")
    return metadata


def _number(metadata: dict[str, str], key: str) -> int:
    text = metadata[key]
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise Damaged(f"its {key} is not a number")
    return int(text)


def _bytes(metadata: dict[str, str], key: str) -> bytes:
    try:
        return bytes.fromhex(metadata[key])
    except ValueError:
        raise Damaged(f"its {key} is not hexadecimal") from None

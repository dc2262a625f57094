"""An exported model: one plain safetensors file with the user's own parameter names, and back to a network.

Any safetensors reader can open it. The metadata says which round of which run it is (`round`, `chain`, `model_sha256`
of the whole model there), and which network of it and how it was made, where that is known (`width`, `accuracy`,
`algorithm`, `common_rate`). No pickle, ever.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from p2pfusion.errors import StoreError
from p2pfusion.store.checkpoint import PREFIX

if TYPE_CHECKING:
    from torch import nn

    from p2pfusion.core.submodel import Vector
    from p2pfusion.core.task import Prepared, Task


def write_model(file: Path, model: Mapping[str, Vector], metadata: Mapping[str, str]) -> None:
    """Write it in one step: a reader sees the old file or the new one. Raises `StoreError`."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    arrays = {name: np.ascontiguousarray(values) for name, values in model.items()}
    try:
        save_file(arrays, temporary, metadata={"format": "pt", **metadata})
        temporary.replace(file)
    except Exception as error:  # safetensors has its own class for a full disk, without a base in common with OSError
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {file}: {error}; choose a folder that exists and has space") from error


def read_model(file: Path) -> dict[str, Vector]:
    """The parameters by name, float32. Raises `StoreError` for what is no exported model."""
    try:
        os.stat(file)  # the library's own error for a missing file does not say so
        with safe_open(file, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        raise StoreError(f"cannot read {file}: {error}; write it with `p2pfusion export`") from error
    if not arrays or any(name.startswith(PREFIX) or array.dtype != np.float32 for name, array in arrays.items()):
        raise StoreError(f"{file}: no exported model; write one with `p2pfusion export {Path(file).name}`")
    return arrays


def load_model(file: Path | str, task: Task | Prepared) -> nn.Module:
    """The network in a file that `p2pfusion export` wrote, ready to predict (on the CPU, in eval mode).

    `task` is the one that was trained, for its model; of its data one batch at most is looked at. The file says how
    wide the network is. Raises `StoreError` for what is no exported model, `TaskError` for another task's.
    """
    from p2pfusion.core.prediction import predictor  # brings torch, which export does without

    return predictor(task, read_model(Path(file)))

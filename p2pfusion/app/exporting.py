"""`p2pfusion export`: the full model of a run's newest checkpoint as one plain safetensors file.

Works on the state folder of a finished, crashed or running node. What a checkpoint looks like is `store`'s business.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from p2pfusion.app.states import newest_folder, state_root
from p2pfusion.app.words import count
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import StoreError, UsageError
from p2pfusion.store.folder import newest_checkpoint

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What `export` was called with."""

    file: Path
    state: Path | None
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and of which state of which run."""

    file: str
    round: int
    chain: str
    model_sha256: str
    parameters: int


def run_export(options: ExportOptions) -> int:
    """Write the file and say what is in it; returns 0. Raises `StoreError`, `UsageError`."""
    if options.file.suffix != SUFFIX:
        raise UsageError(f"{options.file}: the file's name must end in {SUFFIX}")
    folder, candidates = newest_folder(options.state or state_root())
    if candidates > 1 and not options.quiet:
        sys.stderr.write(f"{candidates} nodes have saved a model; taking the newest, {folder} (choose with --state)\n")
    exported = export_model(folder, options.file)
    if options.json:
        from p2pfusion.app.output import object_text

        sys.stdout.write(object_text("export", exported) + "\n")
    elif not options.quiet:
        words = f"{count(exported.parameters)} parameters, round {exported.round}, model {exported.model_sha256}"
        sys.stdout.write(f"wrote {exported.file}: {words}\n")
    return 0


def export_model(folder: Path, file: Path) -> Exported:
    """Write the newest checkpoint's model of one node's folder to `file`, in one step. Raises `StoreError`."""
    checkpoint = newest_checkpoint(folder)
    # In blueprint order, as the checkpoint keeps it: the hash is over the flat model.
    model = {name: np.asarray(values, np.float32) for name, values in checkpoint.model.items()}
    flat = np.concatenate([values.reshape(-1) for values in model.values()])
    exported = Exported(
        file=str(file),
        round=checkpoint.round,
        chain=checkpoint.chain.hex(),
        model_sha256=model_sha256(flat),
        parameters=flat.size,
    )
    metadata = {"round": str(exported.round), "chain": exported.chain, "model_sha256": exported.model_sha256}
    _write(file, model, {"format": "pt", **metadata})
    return exported


def _write(file: Path, model: dict[str, Any], metadata: dict[str, str]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in model.items()}, temporary, metadata=metadata)
        temporary.replace(file)
    except Exception as error:  # safetensors has its own class for a full disk, without a base in common with OSError
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {file}: {error}; choose a folder that exists and has space") from error

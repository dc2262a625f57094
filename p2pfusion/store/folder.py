"""What must survive a crash, in one folder of one process: an identity, and the newest checkpoints.

    identity.json                    who I am, how often I started, the newest round I published to
    checkpoint-<round>.safetensors   the two of this run saved last, and the newest of a few other runs (`keeping`);
                                     checkpoint-<round>-<run>.safetensors where another run has that name
    *.damaged                        what could not be read, kept aside for a curious owner (the newest few)
    .p2pfusion-writing/              files being written; what lies here at the start is a crashed writer's, and removed
                                     (payloads moved out of memory are here too, but have no name: `spilling`)
    p2pfusion.lock                   held by the process that uses the folder

The last two names are unmistakably ours, because somebody will say `--state ~`. Every write goes to the writing folder
(same file system, mode 0600), is flushed to the disk, and only then renamed into its place, and the rename is flushed
too: a reader finds the old file or the new one, whenever the power fails. A file that is not intact is set aside and
the one before it is used; after a lost identity the node is simply a new peer (PROTOCOL.md 2).

This module does not know what a model or a round means.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from p2pfusion.errors import StoreError
from p2pfusion.seams import Body, Checkpoint, Identity
from p2pfusion.store import checkpoint as checkpoints
from p2pfusion.store.failing import store_error
from p2pfusion.store.identity import IDENTITY_BYTES_MAX, Damaged, parse, spell
from p2pfusion.store.keeping import to_forget
from p2pfusion.store.locking import locked
from p2pfusion.store.spilling import Spill

_log = logging.getLogger(__name__)

DAMAGED_KEPT = 4
_IDENTITY = "identity.json"
_LOCK = "p2pfusion.lock"
_WRITING = ".p2pfusion-writing"
_DAMAGED = "checkpoint-*.safetensors.damaged"
_CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,20}(-[0-9a-f]{16})?\.safetensors")


class FolderStore:
    """`seams.Store` in a folder. Opening takes the folder's lock; `close` or the end of the process gives it back."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the folder, making it if need be (mode 0700). Raises `StoreError`, also when another process has it."""
        self._path = Path(path)
        self._writing = self._path / _WRITING
        self._lock: int | None = None
        self._closed = False
        self._spill = Spill(self._writing)
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = locked(self._path / _LOCK)
            self._writing.mkdir(mode=0o700, exist_ok=True)
            for leftover in sorted(self._writing.iterdir()):
                leftover.unlink()
        except OSError as error:
            self.close()
            raise store_error("open", self._path, error) from None

    def close(self) -> None:
        """Give the lock back and refuse to write from now on; harmless when called twice."""
        self._closed = True
        self._spill.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> FolderStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def place(self) -> str:
        """See `seams.Store.place`."""
        return str(self._path)

    def load_identity(self) -> Identity | None:
        """See `seams.Store.load_identity`. A damaged one is set aside: the node becomes a new peer."""
        path = self._path / _IDENTITY
        try:
            with path.open("rb") as file:
                return parse(file.read(IDENTITY_BYTES_MAX + 1))
        except FileNotFoundError:
            return None
        except Damaged as error:
            self._set_aside(path, error)
            return None
        except OSError as error:
            raise store_error("read", path, error) from None

    def save_identity(self, identity: Identity) -> None:
        """See `seams.Store.save_identity`."""
        text = spell(identity)

        def fill(temporary: Path) -> None:
            with _private(temporary) as file:
                file.write(text)

        self._replace(_IDENTITY, fill)

    def forget_identity(self) -> None:
        """See `seams.Store.forget_identity`."""
        path = self._path / _IDENTITY
        try:
            path.unlink(missing_ok=True)
            _flush(self._path)
        except OSError as error:
            raise store_error("remove", path, error) from None

    def load_checkpoint(self, run_id: bytes) -> Checkpoint | None:
        """See `seams.Store.load_checkpoint`. Damaged ones are set aside."""
        for path, run in self._newest_first().items():
            try:
                if run == run_id:
                    return checkpoints.read(path)
            except Damaged as error:
                self._set_aside(path, error)
            except OSError as error:
                raise store_error("read", path, error) from None
        return None

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """See `seams.Store.save_checkpoint`. Which others are kept `keeping` decides."""
        before = self._newest_first()
        sequence = 1 + (checkpoints.sequence_of(next(iter(before))) if before else 0)
        name = f"checkpoint-{checkpoint.round}.safetensors"
        if before.get(self._path / name, checkpoint.run_id) != checkpoint.run_id:
            name = f"checkpoint-{checkpoint.round}-{checkpoint.run_id[:8].hex()}.safetensors"
        self._replace(name, lambda temporary: checkpoints.write(temporary, checkpoint, sequence))
        older = [path for path in before if path.name != name]
        for index in to_forget([before[path] for path in older], checkpoint.run_id):
            _remove(older[index])

    def spill(self, data: Body) -> memoryview:
        """See `seams.Store.spill`."""
        try:
            return self._spill.keep(data)
        except OSError as error:
            raise store_error("write in", self._writing, error) from None

    def _newest_first(self) -> dict[Path, bytes]:
        """The runs of the checkpoints, in the order of their saves; those without a readable header are set aside."""
        found: list[tuple[int, Path, bytes]] = []
        for path in _checkpoint_files(self._path):
            try:
                found.append((checkpoints.sequence_of(path), path, checkpoints.run_id_of(path)))
            except Damaged as error:
                self._set_aside(path, error)
            except OSError as error:
                raise store_error("read", path, error) from None
        return {path: run_id for _, path, run_id in sorted(found, reverse=True)}

    def _replace(self, name: str, fill: Callable[[Path], None]) -> None:
        """Put a new file in its place in one step that a crash cannot halve."""
        if self._closed:
            raise StoreError(f"{self._path} is closed; open it again to write")
        path, temporary = self._path / name, self._writing / name
        try:
            temporary.unlink(missing_ok=True)
            fill(temporary)
            os.chmod(temporary, 0o600)
            _flush(temporary)
            os.replace(temporary, path)
            _flush(self._path)
        except OSError as error:
            _remove(temporary)
            raise store_error("write", path, error) from None

    def _set_aside(self, path: Path, why: Damaged) -> None:
        _log.warning("%s is damaged (%s); kept aside as %s.damaged", path, why, path.name)
        try:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            aside = self._path.glob(_DAMAGED)
            kept = sorted(aside, key=lambda item: item.stat().st_mtime_ns, reverse=True)
        except OSError as error:
            raise store_error("set aside", path, error) from None
        for forgotten in kept[DAMAGED_KEPT:]:
            _remove(forgotten)


def newest_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The newest intact checkpoint of a folder, whatever its run, without its lock and without changing anything.

    A node may be using the folder meanwhile. Raises `StoreError` when there is none; it names those that are damaged.
    """
    folder = Path(path)
    damaged = set_aside(folder)
    found: list[tuple[int, Path]] = []
    for candidate in _checkpoint_files(folder):
        try:
            found.append((checkpoints.sequence_of(candidate), candidate))
        except FileNotFoundError:  # the owner may have replaced or removed it just now
            continue
        except Damaged:
            damaged.append(candidate.name)
    for _, candidate in sorted(found, reverse=True):
        try:
            return checkpoints.read(candidate)
        except (Damaged, FileNotFoundError) as error:
            _log.warning("%s cannot be used (%s); trying the one before it", candidate, error)
            damaged.append(candidate.name)
        except OSError as error:
            raise store_error("read", candidate, error) from None
    fix = "name the folder of a node that has trained with --state DIR"
    if damaged:
        raise StoreError(f"no intact checkpoint in {folder} (damaged: {', '.join(sorted(damaged))}); {fix}")
    raise StoreError(f"no checkpoint in {folder}; {fix}")


def set_aside(path: str | os.PathLike[str]) -> list[str]:
    """Names of the damaged checkpoints kept aside in a folder, sorted. Never raises."""
    try:
        return sorted(found.name for found in Path(path).glob(_DAMAGED))
    except OSError:
        return []


def saved_runs(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """Newest round saved in a folder, by run id; from headers alone, without the folder's lock. Never raises."""
    found: dict[bytes, int] = {}
    try:
        for candidate in _checkpoint_files(Path(path)):
            with suppress(Damaged):
                run_id = checkpoints.run_id_of(candidate)
                found[run_id] = max(found.get(run_id, 0), checkpoints.round_of(candidate))
    except (OSError, StoreError) as error:
        _log.warning("cannot look into %s: %s", path, error)
    return found


def _checkpoint_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error("read", folder, error) from None


def _private(path: Path) -> IO[bytes]:
    """A new file that only we can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _flush(path: Path) -> None:
    """To the disk: a file's contents, or a folder's names."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for a folder
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove what nobody needs; if that fails it is in nobody's way, and the next save tries again."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error.strerror)

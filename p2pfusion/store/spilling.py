"""Payloads moved out of memory: appended to files without a name, read back through the page cache.

Each file is `ARENA_BYTES` long, mapped once and filled piece by piece, for a mapping costs a file descriptor and there
may be thousands of pieces. It is unlinked as soon as it is open, so that nothing is left behind however the process
ends, and its space is free again when the last piece of it is forgotten. Nothing is flushed: what is here need not
survive.

One thread at a time may call `keep`.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import IO

ARENA_BYTES = 64 << 20
"""Large enough that a thousand file descriptors are 64 GB, small enough that old pieces free their space soon."""


class Spill:
    """The file being filled; older ones live as long as views into them."""

    def __init__(self, folder: Path) -> None:
        """`folder` must exist when the first piece comes."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._view = memoryview(b"")
        self._used = 0
        self._opened = 0

    def keep(self, data: bytes | bytearray | memoryview) -> memoryview:
        """A read-only view of these bytes on disk. Raises `OSError`; the next call tries anew."""
        if self._file is None or self._used + len(data) > len(self._view):
            self._open(max(ARENA_BYTES, len(data)))
        file, start = self._file, self._used
        if file is None:
            raise OSError("the file for spilled payloads is closed")
        file.seek(start)
        left = memoryview(data)
        while left:  # written, never only mapped: a full disk is an error here and not a signal later
            left = left[file.write(left) :]
        self._used += len(data)
        return self._view[start : self._used]

    def close(self) -> None:
        """No more pieces; those that are out stay readable."""
        if self._file is not None:
            self._file.close()
        self._file, self._view, self._used = None, memoryview(b""), 0

    def _open(self, size: int) -> None:
        self.close()
        self._opened += 1
        path = self._folder / f"spilled-{self._opened}"
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        try:
            if os.name != "nt":
                path.unlink()  # Windows keeps it until the folder is opened again
            file.truncate(size)
            self._view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        except BaseException:
            file.close()
            raise
        self._file = file

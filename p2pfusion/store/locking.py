"""A lock on a file, which ends with the process that took it, also when that is killed.

Where the platform has no `flock` nothing is locked. Knows not what it protects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pfusion.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def locked(file: Path) -> int | None:
    """Take the lock of a file in a folder that exists; give it back with `os.close`.

    Raises `OSError`, and `StoreError` when somebody else holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StoreError(
            f"{file.parent} is in use by another process ({owner}); choose another with --state DIR"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"pid {os.getpid()}\n".encode())
    return descriptor


@contextmanager
def holding(file: Path) -> Iterator[None]:
    """The lock of a file, while the block runs. Raises as `locked`."""
    descriptor = locked(file)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)

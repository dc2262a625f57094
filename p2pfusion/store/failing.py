"""What went wrong with a file, as one line that says what to do.

This module knows no files of ours.
"""

from __future__ import annotations

import errno
from pathlib import Path

from p2pfusion.errors import StoreError

_FIXES = {
    errno.ENOSPC: "free some space, or choose another disk with --state DIR",
    errno.EDQUOT: "free some space, or choose another disk with --state DIR",
    errno.EACCES: "make it yours, or choose another folder with --state DIR",
    errno.EPERM: "make it yours, or choose another folder with --state DIR",
    errno.EROFS: "choose a folder that can be written with --state DIR",
    errno.ENOTDIR: "it is not a folder; choose another with --state DIR",
    errno.EEXIST: "it is not a folder; choose another with --state DIR",
}


def store_error(what: str, path: Path, error: OSError) -> StoreError:
    """One line: which file, what is wrong, what to do."""
    fix = _FIXES.get(error.errno or 0, "check the disk, or choose another folder with --state DIR")
    return StoreError(f"cannot {what} {path}: {error.strerror or error}; {fix}")

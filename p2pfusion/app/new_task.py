"""`p2pfusion new`: writes a commented task file that works as it is, and says which lines to edit.

The text lies beside this module. It knows nothing of tasks: whether the file is a good one, `check` says.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from p2pfusion.errors import UsageError

SUFFIX = ".py"
_MARK = re.compile(r"# \d\. ")
"""What stands behind each line that is the owner's to edit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOptions:
    """What `new` was called with."""

    file: Path
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """What was written; `edit`: numbers of the lines to edit, from 1."""

    file: str
    edit: list[int]


def run_new(options: NewOptions) -> int:
    """Write the file and say what comes next; returns 0. Raises `UsageError` rather than overwrite anything."""
    written = write(options.file)
    if options.json:
        from p2pfusion.app.output import object_text

        sys.stdout.write(object_text("new", written) + "\n")
    elif not options.quiet:
        sys.stdout.write("".join(f"{line}\n" for line in words_of(written)))
    return 0


def write(file: Path) -> NewFile:
    """A new task file of this name. Raises `UsageError` where there is one, or it cannot be written."""
    if file.suffix != SUFFIX:
        raise UsageError(f"{file}: the file's name must end in {SUFFIX}, such as my_task.py")
    text = resources.files("p2pfusion.app").joinpath("new_task.txt").read_text("utf-8").replace("NAME", file.name)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} exists and stays as it is: give another name") from error
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; choose a folder that exists and has space") from error
    lines = text.splitlines()
    return NewFile(file=str(file), edit=[number for number, line in enumerate(lines, 1) if _MARK.search(line)])


def words_of(written: NewFile) -> list[str]:
    """The same for a person, with the commands that come next."""
    *some, last = map(str, written.edit)
    name = shlex.quote(written.file)
    return [
        f"wrote {written.file}: it learns digits as it is; edit lines {', '.join(some)} and {last}",
        f"Next: p2pfusion check {name}   what would be sliced or refused; no network",
        f"      p2pfusion join {name}    on every device, each with this same file",
    ]

"""The TASK argument: a built-in name (with a folder of data, `fashion:DIR`) or the path of the user's own Python file.

Imports torch, with one thread. Commands that train in this thread (check, simulate, the comparisons) train as a node
does: on one thread. Several would spin for matrices this small, and the bits of a simulation would depend on the number
of cores.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from p2pfusion.core.task import Task
from p2pfusion.core.task_file import load_task_file
from p2pfusion.errors import TaskError
from p2pfusion.zoo.tasks import FOLDER_TASKS, TASKS


def find_task(text: str, seed: int) -> Task:
    """The task of that name or in that file, made under the run's seed. Raises `TaskError` with the fix.

    Sets torch to one thread.
    """
    torch.set_num_threads(1)
    if text in TASKS:
        return TASKS[text]()
    if text.endswith(".py") or Path(text).is_file():
        return load_task_file(text, seed)
    name, colon, folder = text.partition(":")
    if name in FOLDER_TASKS:
        return _with_folder(name, folder)
    if colon and name in TASKS:
        raise TaskError(f"{name} brings its data along: leave out {colon}{folder}")
    known = [*TASKS, *FOLDER_TASKS]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    names = ", ".join([*TASKS, *(f"{name}:DIR" for name in FOLDER_TASKS)])
    raise TaskError(f"no task is named {name!r}: {hint}Built in: {names}. Or give a Python file, such as my_task.py")


def _with_folder(name: str, folder: str) -> Task:
    found = FOLDER_TASKS[name]
    if not folder:
        raise TaskError(f"{name} needs a folder with its data: write {name}:DIR, where DIR holds {found.needs}")
    return found.make(Path(folder).expanduser())

"""The TASK argument: a built-in name or the path of the user's own Python file. Imports torch, with one thread.

Commands that train in this thread (check, simulate, the comparisons) train as a node does: on one thread. Several would
spin for matrices this small, and the bits of a simulation would depend on the number of cores.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from p2pfusion.core.task import Task, load_task_file
from p2pfusion.errors import TaskError
from p2pfusion.zoo.tasks import TASKS


def find_task(text: str, seed: int) -> Task:
    """The task of that name or in that file, made under the run's seed. Raises `TaskError` with the fix.

    Sets torch to one thread.
    """
    torch.set_num_threads(1)
    if text in TASKS:
        return TASKS[text]()
    if text.endswith(".py") or Path(text).is_file():
        return load_task_file(text, seed)
    close = difflib.get_close_matches(text, TASKS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise TaskError(
        f"no task is named {text!r}: {hint}Built in: {', '.join(TASKS)}. Or give a Python file, such as my_task.py"
    )

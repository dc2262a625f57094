"""`load_task_file`: runs the owner's Python file and takes the `Task` that its function `task()` returns.

Whatever goes wrong in there is the owner's to mend, so it is said with file and line. Knows files, not what a task is
good for.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from p2pfusion.core.task import Task, seeded
from p2pfusion.errors import TaskError


def load_task_file(path: str | Path, seed: int = 0) -> Task:
    """Run the owner's file and call its `task()`. Raises `TaskError` with file, line and fix."""
    file = Path(path).resolve()
    if not file.is_file():
        raise TaskError(f"{path}: there is no such file; give a Python file with a function task()")
    with seeded(seed), _importable(file.parent):
        module = _execute(file)
        function = getattr(module, "task", None)
        if not callable(function):
            raise TaskError(f"{file.name}: there is no function task(); define one that returns p2pfusion.Task(...)")
        made = _guarded(file, function)
    if not isinstance(made, Task):
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", 1)
        raise TaskError(f"{file.name}:{line}: task() returned {type(made).__name__}; let it return p2pfusion.Task(...)")
    return made


def _execute(file: Path) -> ModuleType:
    name = f"p2pfusion_task_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TaskError(f"{file.name}: is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and torch's own tools look a class's module up by name.
    sys.modules[name] = module
    loader = spec.loader
    _guarded(file, lambda: loader.exec_module(module))
    return module


def _guarded(file: Path, call: Callable[[], Any]) -> Any:
    """Run the owner's code; whatever it raises becomes a `TaskError` that names the owner's line."""
    try:
        return call()
    except SyntaxError as error:
        place = Path(error.filename).name if error.filename else file.name
        raise TaskError(f"{place}:{error.lineno}: {error.msg}; fix the file's syntax") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
        where = f"{file.name}:{lines[-1]}" if lines else file.name
        if isinstance(error, TaskError):
            raise TaskError(f"{where}: {error}") from error
        raise TaskError(f"{where}: {type(error).__name__}: {error}; the task must run by itself") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The file's neighbours can be imported, as when Python runs it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))

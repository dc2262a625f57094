"""Scenarios from TOML: the same files serve tests, the command line and published figures.

A file's keys are the fields of `Scenario`; tables are the dataclasses its fields hold, arrays of tables its faults:

    nodes = 8
    [link]
    loss = 0.1
    [[partitions]]
    from_s = 30
    to_s = 90
    parts = 2

Nothing is guessed: a key that does not exist, or a value of another type, is refused, and the text names file and key.
The packaged ones lie in `sim/scenarios`. This module runs nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from p2pfusion.errors import ConfigError, UsageError
from p2pfusion.sim.scenario import Scenario

C = TypeVar("C")

FILE_BYTES_MAX = 1 << 20
"""Larger than any scenario a person writes; a wrong path is not read into memory."""


def load(path: Path) -> Scenario:
    """The scenario in a file. Raises `ConfigError` naming the file and the field, `UsageError` when it is not there."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{path}: longer than {FILE_BYTES_MAX} bytes: no scenario")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})") from error
    return loads(text, str(path), name=path.stem)


def named(name: str) -> Scenario:
    """A packaged scenario. Raises `UsageError` naming those there are."""
    if name not in names():
        raise UsageError(f"no scenario is named {name!r}: choose one of {', '.join(names())}")
    text = files("p2pfusion.sim").joinpath("scenarios", f"{name}.toml").read_text(encoding="utf-8")
    return loads(text, f"{name}.toml", name=name)


@cache
def names() -> tuple[str, ...]:
    """The packaged scenarios, sorted."""
    entries = files("p2pfusion.sim").joinpath("scenarios").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")))


def loads(text: str, origin: str, *, name: str) -> Scenario:
    """The scenario in a text; `origin` stands in errors, `name` is its name unless it gives one.

    Raises `ConfigError`.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return from_table({"name": name, **table}, origin)


def from_table(table: Mapping[str, object], origin: str) -> Scenario:
    """The scenario in what a TOML or JSON text holds. Raises `ConfigError`."""
    return _made(Scenario, table, origin, "")


def _made(kind: type[C], table: Mapping[str, object], origin: str, place: str) -> C:
    """One dataclass from a table whose keys are its fields.

    What a table within it leaves out is as in the field's own default: `[cadence]` does not undo a scenario's cadence.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{origin}: {place}{key} does not exist; there are {', '.join(known)}")
        default = known[key].default_factory
        if isinstance(value, Mapping) and default is not MISSING:
            base = default()
            value = {**{item.name: getattr(base, item.name) for item in fields(base)}, **value}
        values[key] = _converted(value, hints[key], origin, f"{place}{key}")
    try:
        return kind(**values)
    except ConfigError as error:
        said = f"{place.rstrip('.')}: {error}" if place else str(error).removeprefix("Scenario.")
        raise ConfigError(f"{origin}: {said}") from error
    except TypeError as error:  # only a field without a default can be missing here
        raise ConfigError(f"{origin}: {place.rstrip('.') or 'the scenario'} is incomplete: {error}") from error


def _converted(value: object, hint: Any, origin: str, place: str) -> object:
    """A value as its field's type wants it: floats from integers, tuples from arrays, dataclasses from tables."""
    if get_origin(hint) is UnionType and NoneType in get_args(hint):
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not NoneType)
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return _made(hint, value, origin, f"{place}.")
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        item = get_args(hint)[0]
        return tuple(_converted(one, item, origin, f"{place}[{number}]") for number, one in enumerate(value))
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{origin}: {place} = {value!r}: must be {_described(hint)}")


def _described(hint: Any) -> str:
    if is_dataclass(hint):
        return "a table"
    if get_origin(hint) is tuple:
        return "an array"
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    return {float: "a number", int: "an integer", str: "a text", bool: "true or false"}[hint]

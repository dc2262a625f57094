"""Devices as a person writes them: `2x,4GB,100Mbit/s` on the command line, or a table of a TOML file.

Pure functions from text to `Relay`s that raise `ValueError` or `TaskError` with what was expected. What is done with
them is not known here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pfusion.app.values import MEMORY_PATTERN, parse_memory, parse_name, shown
from p2pfusion.core.planning import RELAYS_MAX, Relay
from p2pfusion.errors import TaskError

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_SPEED = re.compile(_NUMBER + r"\s*x")
_LINK = re.compile(_NUMBER + r"\s*([kMG]?)(bit(?:/s)?|B/s)")
_LINK_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
SPEED_MAX = 1e4
"""Ten thousand times as fast or slow as this computer is a typing mistake."""
LINK_BYTES_PER_S_MIN, LINK_BYTES_PER_S_MAX = 1.0, 1e12
"""Faster than anything between devices, or a byte a second, is a typing mistake too."""
FILE_BYTES_MAX = 1 << 16
"""A thousand times what 64 devices need is no list of devices."""
_KEYS = ("name", "speed", "memory", "link")


def parse_speed(text: str) -> float:
    """`2x`: how many times as fast as the computer that was measured."""
    match = _SPEED.fullmatch(text.strip())
    speed = float(match[1]) if match else 0.0
    if not 1 / SPEED_MAX <= speed <= SPEED_MAX:
        raise ValueError(
            f"{shown(text)} is not a speed: write 2x for twice as fast as this computer, 0.5x for half as fast"
        )
    return speed


def parse_link(text: str) -> float:
    """`100Mbit/s`, `100Mbit`, `10MB/s`; bytes per second."""
    match = _LINK.fullmatch(text.strip())
    rate = float(match[1]) * _LINK_SCALE[match[2]] / (8.0 if match[3].startswith("bit") else 1.0) if match else 0.0
    if not LINK_BYTES_PER_S_MIN <= rate <= LINK_BYTES_PER_S_MAX:
        raise ValueError(f"{shown(text)} is not the speed of a link: write it like 100Mbit/s or 10MB/s")
    return rate


def parse_device(text: str) -> Relay:
    """Speed, memory and link between commas, in any order; what is left out does not limit. The name stays empty."""
    found: dict[str, str] = {}
    for part in text.split(","):
        kinds = (("speed", _SPEED), ("memory", MEMORY_PATTERN), ("link", _LINK))
        key = next((name for name, pattern in kinds if pattern.fullmatch(part.strip())), None)
        if key is None:
            raise ValueError(f"{shown(part)} is no part of a device: write it like 2x,4GB,100Mbit/s")
        if key in found:
            raise ValueError(f"{shown(text)} says its {key} twice")
        found[key] = part
    return _device("", found)


def read_devices(file: Path) -> tuple[Relay, ...]:
    """The `[[relay]]` tables of a TOML file, in order. Raises `TaskError` with the table and the key that is wrong."""
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise TaskError(f"{file}: is longer than {FILE_BYTES_MAX} bytes")
        value = tomllib.loads(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{file}: cannot be read as TOML: {error}") from error
    tables = value.pop("relay", None)
    if value or not isinstance(tables, list) or not 1 <= len(tables) <= RELAYS_MAX:
        raise TaskError(f"{file}: must hold 1 to {RELAYS_MAX} tables [[relay]] and nothing else")
    return tuple(_table(f"{file}: relay {number}", table) for number, table in enumerate(tables, 1))


def _table(where: str, table: Any) -> Relay:
    if not isinstance(table, dict) or not all(isinstance(item, str) for item in table.values()):
        raise TaskError(f'{where}: must be a table of texts, such as speed = "2x"')
    for key in table:
        if key not in _KEYS:
            raise TaskError(f"{where}: there is no key {shown(key)}; known are {', '.join(_KEYS)}")
    try:
        return _device(parse_name(table["name"]) if "name" in table else "", table)
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from error


def _device(name: str, texts: Mapping[str, str]) -> Relay:
    return Relay(
        name=name,
        speed=parse_speed(texts["speed"]) if "speed" in texts else 1.0,
        memory_bytes=parse_memory(texts["memory"]) if "memory" in texts else None,
        bytes_per_s=parse_link(texts["link"]) if "link" in texts else None,
    )

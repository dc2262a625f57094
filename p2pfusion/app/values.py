"""Values as written on a command line: `50%`, `1/2`, `2m`, `rounds=50`, `0/3`, `10.0.0.1:7790`, `10MB/s`, `50MB/h`.

Each parser is a pure function from text to a value that raises `ValueError` with one line saying what was expected;
the click types at the end only wrap them. Nothing here knows what the values are for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from p2pfusion.config import LIMIT_BYTES_PER_S_MIN, NAME_BYTES_MAX

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_DURATION = re.compile(_NUMBER + r"\s*(ms|s|m|h)?")
_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHARE = re.compile(_NUMBER + r"\s*(%)?")
_BANDWIDTH = re.compile(_NUMBER + r"\s*([kKMG]?)(B|bit)/s")
_BANDWIDTH_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_FLOW = re.compile(_NUMBER + r"\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)/(s|min|m|h)")
_FLOW_BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_FLOW_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600}
FLOW_MIN_BYTES_PER_S, FLOW_MAX_BYTES_PER_S = 1.0, 1e12
"""Less would not carry the talk of one node in a year, more is no network there is: both are typing mistakes."""
MEMORY_PATTERN = re.compile(_NUMBER + r"\s*(kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_MEMORY_BYTES = {
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
MEMORY_BYTES_MAX = 1 << 50
"""A petabyte is a typing mistake."""
SHOWN_MAX = 60
"""Characters of a wrong text in a message: enough to find it by."""
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
SWARM_BYTES_MAX = 64
"""As `RunConfig.swarm` allows."""
DURATION_MAX_S = 366 * 86400.0
"""A year: longer is a typing mistake, and a loop's timer overflows far later."""
FACTOR_MAX = 1e4
"""A device ten thousand times slower than another never ends a round."""
LIST_MAX = 100
"""Values of one list; a figure shows far fewer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Until:
    """When a run is finished: after so many rounds, or at an accuracy in (0, 1]. Exactly one is given."""

    rounds: int | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        return f"rounds={self.rounds}" if self.accuracy is None else f"accuracy={self.accuracy:g}"


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` of `count` equal parts of the training data; `index` counts from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_duration(text: str) -> float:
    """`500ms`, `30s`, `2m`, `1h`; a bare number means seconds. Returns seconds above 0."""
    match = _DURATION.fullmatch(text.strip())
    duration_s = float(match[1]) * _DURATION_UNITS_S[match[2] or "s"] if match else 0.0
    if not 0 < duration_s <= DURATION_MAX_S:
        raise ValueError(f"{text!r} is not a length of time: write it like 500ms, 30s, 2m or 1h")
    return duration_s


def parse_latency(text: str) -> float:
    """A duration that may be 0."""
    return 0.0 if re.fullmatch(r"0+\s*(ms|s|m|h)?", text.strip()) else parse_duration(text)


def parse_share(text: str) -> float:
    """`5%` or `0.05`; returns a number in [0, 1]."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100.0 if match[2] else 1.0) if match else math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is not a share: write it like 50% or 0.5, from 0% to 100%")
    return share


def parse_half_life(text: str) -> float:
    """A duration, or `inf`: nobody ever fails."""
    return math.inf if text.strip().lower() == "inf" else parse_duration(text)


def parse_factor(text: str) -> float:
    """A number of at least 1: how many times as long something takes."""
    factor = float(text) if re.fullmatch(_NUMBER, text.strip()) else 0.0
    if not 1 <= factor <= FACTOR_MAX:
        raise ValueError(f"{text!r} is not a factor: write a number from 1 to {FACTOR_MAX:g}")
    return factor


def parse_count(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,10}", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_word(text: str) -> str:
    """A name, of which it is found out later whether there is such a thing."""
    if not text.strip():
        raise ValueError("a name between commas is empty")
    return text.strip()


def parse_list(text: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    """One value or several, such as `10s,30s,inf`."""
    parts = text.split(",")
    if len(parts) > LIST_MAX:
        raise ValueError(f"{len(parts)} values: {LIST_MAX} at most")
    return tuple(parse(part) for part in parts)


def parse_rate(text: str) -> float:
    """A share that may not be 0, or a fraction such as `1/4`: what a node trains of every sliced axis."""
    fraction = _PART.fullmatch(text.strip())
    if fraction and not 0 < int(fraction[1]) <= int(fraction[2]):
        raise ValueError(f"{text!r} is not a rate: write it like 1/2, 50% or 0.5")
    share = int(fraction[1]) / int(fraction[2]) if fraction else parse_share(text)
    if share == 0:
        raise ValueError("a slice of 0% trains nothing: write it like 50% or 0.5")
    return share


def parse_rate_or_auto(text: str) -> float | Literal["auto"]:
    """A rate, or `auto`: what fits this device."""
    return "auto" if text.strip().lower() == "auto" else parse_rate(text)


def parse_density(text: str) -> float:
    """A share that may not be 0: how many of a contribution's values are sent."""
    share = parse_share(text)
    if share == 0:
        raise ValueError("a density of 0% sends nothing: write it like 1% or 0.01")
    return share


def parse_momentum(text: str) -> float:
    """A share below 1: how much of the last round's movement the next one repeats."""
    share = parse_share(text)
    if share == 1:
        raise ValueError("a momentum of 100% never comes to rest: write it like 60% or 0.6")
    return share


def parse_until(text: str) -> Until:
    """`rounds=50`, `accuracy=0.95` or `accuracy=95%`."""
    name, equals, value = text.strip().partition("=")
    if equals and name == "rounds" and re.fullmatch(r"[1-9]\d{0,8}", value):
        return Until(rounds=int(value))
    if equals and name == "accuracy":
        accuracy = parse_share(value)
        if accuracy > 0:
            return Until(accuracy=accuracy)
    raise ValueError(f"{text!r} is not a goal: write rounds=50 or accuracy=0.95")


def parse_part(text: str) -> Part:
    """`I/N` with I from 0 to N-1."""
    match = _PART.fullmatch(text.strip())
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"{text!r} is not a part of the data: write I/N with I from 0 to N-1, such as 0/3")
    return Part(int(match[1]), int(match[2]))


def parse_address(text: str) -> str:
    """`HOST:PORT`, with an IPv6 address in brackets; port 0 to 65535."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write HOST:PORT, such as 192.168.1.40:7790")
    return f"{host}:{int(port)}"


def parse_bandwidth(text: str) -> float:
    """`10MB/s`, `500kB/s`, `100Mbit/s`; returns bytes per second, above 0."""
    match = _BANDWIDTH.fullmatch(text.strip())
    bandwidth = float(match[1]) * _BANDWIDTH_SCALE[match[2]] / (8.0 if match[3] == "bit" else 1.0) if match else 0.0
    if bandwidth <= 0:
        raise ValueError(f"{text!r} is not a bandwidth: write it like 10MB/s or 100Mbit/s")
    return bandwidth


def _flow(text: str, example: str) -> float:
    match = _FLOW.fullmatch(text.strip())
    flow = float(match[1]) * _FLOW_BYTES[match[2]] / _FLOW_SECONDS[match[3]] if match else 0.0
    if not FLOW_MIN_BYTES_PER_S <= flow <= FLOW_MAX_BYTES_PER_S:
        raise ValueError(f"{text!r} is not an amount of data per time: write it like {example}")
    return flow


def parse_limit_rate(text: str) -> float:
    """`2MB/s`, `500kB/s`, `1MiB/s`, `30MB/min`; returns bytes per second, `LIMIT_BYTES_PER_S_MIN` to 10^12."""
    rate = _flow(text, "2MB/s, 500kB/s or 1MiB/s")
    if rate < LIMIT_BYTES_PER_S_MIN:
        raise ValueError(f"{text!r} is too little: at least 66kB/s, or nobody would wait for what is sent")
    return rate


def parse_budget(text: str) -> float:
    """`50MB/h`, `1GB/h`, `1MiB/min`, `20kB/s`; returns bytes per hour."""
    return _flow(text, "50MB/h, 1GB/h or 1MiB/min") * 3600


def shown(text: str) -> str:
    """A wrong text as a message repeats it: quoted, and cut off where it is too long."""
    return repr(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}...")


def parse_memory(text: str) -> int:
    """`4GB`, `512MiB`; bytes, from 1 to `MEMORY_BYTES_MAX`."""
    match = MEMORY_PATTERN.fullmatch(text.strip())
    size = float(match[1]) * _MEMORY_BYTES[match[2]] if match else 0.0
    if not 1 <= size <= MEMORY_BYTES_MAX:
        raise ValueError(f"{shown(text)} is not an amount of memory: write it like 4GB or 512MiB")
    return int(size)


def parse_name(text: str, bytes_max: int = NAME_BYTES_MAX) -> str:
    """A node's name: printable, no blanks around it, short enough for a report."""
    if not text or text != text.strip() or not text.isprintable() or len(text.encode()) > bytes_max:
        raise ValueError(f"{text!r} is not a name: use 1 to {bytes_max} printable characters")
    return text


def parse_swarm(text: str) -> str:
    """A swarm's name: as a node's, but longer."""
    return parse_name(text, SWARM_BYTES_MAX)


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic only since click 8.5


class Parsed(_ParamType):
    """A click type made of one of the parsers above."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; values that are no text (defaults) pass through."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Parsed("duration", parse_duration)
LATENCY = Parsed("duration", parse_latency)
SHARE = Parsed("share", parse_share)
RATE = Parsed("rate", parse_rate)
RATE_OR_AUTO = Parsed("rate|auto", parse_rate_or_auto)
MOMENTUM = Parsed("share", parse_momentum)
DENSITY = Parsed("share", parse_density)
UNTIL = Parsed("rounds=N|accuracy=A", parse_until)
PART = Parsed("I/N", parse_part)
ADDRESS = Parsed("host:port", parse_address)
BANDWIDTH = Parsed("bandwidth", parse_bandwidth)
LIMIT_RATE = Parsed("size/s", parse_limit_rate)
BUDGET = Parsed("size/h", parse_budget)
MEMORY = Parsed("size", parse_memory)
NAME = Parsed("name", parse_name)
SWARM = Parsed("name", parse_swarm)
FIRST_SEED = Parsed("n", lambda text: (parse_count(0, 2**32 - 1)(text),))


def listed(name: str, parse: Callable[[str], Any]) -> Parsed:
    """A type of one or several values between commas."""
    return Parsed(f"{name},...", lambda text: parse_list(text, parse))

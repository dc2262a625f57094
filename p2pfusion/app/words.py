"""Numbers as a person reads them: `1.9 MB`, `0:09`, `91.4 %`, a sparkline, the bar of a slice. Pure text functions.

Two alphabets, because a terminal that does not speak UTF-8 shows question marks instead of bars. This module knows no
terminal and no colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pfusion.algorithms.base import Direction, Traffic
    from p2pfusion.core.footprint import Load
    from p2pfusion.wire.routes import Kind


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters that drawings are made of."""

    kept: str
    left_out: str
    spark: str
    dot: str
    ellipsis: str


UNICODE = Glyphs(kept="█", left_out="▒", spark="▁▂▃▄▅▆▇█", dot="·", ellipsis="…")
ASCII = Glyphs(kept="#", left_out=".", spark="_.-=+*#@", dot="-", ellipsis="...")


_UNITS = ("B", "kB", "MB", "GB", "TB")
_KIND_WORDS: dict[Kind, str] = {"payload": "weights", "header": "lists", "gossip": "talk"}


def glyphs_for(encoding: str | None) -> Glyphs:
    """The alphabet that a stream of this encoding can show."""
    name = (encoding or "ascii").lower().replace("-", "").replace("_", "")
    return UNICODE if name.startswith("utf") else ASCII


def percent(share: float | None) -> str:
    """`91.4 %`, or a dash where there is nothing to tell."""
    return "-" if share is None else f"{100 * share:.1f} %"


def shares(by_name: Mapping[str, float]) -> str:
    """`25%: 91.4 %, 50%: 92.0 %`."""
    return ", ".join(f"{name}: {percent(share)}" for name, share in by_name.items())


def data_size(size_bytes: int) -> str:
    """Three digits and a decimal unit: `873 B`, `12.4 kB`, `1.9 MB`."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def data_rate(bytes_per_s: float) -> str:
    """The same per second, as `--limit-rate` reads it: `2.0 MB/s`."""
    return f"{data_size(int(bytes_per_s))}/s"


def split(traffic: Traffic, direction: Direction) -> str:
    """Bytes of one direction and what they were: `3.1 MB (weights 2.8 MB, talk 310 kB)`."""
    total = data_size(traffic.sent if direction == "sent" else traffic.received)
    sizes = {word: traffic.bytes_of(direction, kind) for kind, word in _KIND_WORDS.items()}
    kinds = [f"{word} {data_size(size)}" for word, size in sizes.items() if size]
    return f"{total} ({', '.join(kinds)})" if kinds else total


def count(number: int) -> str:
    """Thousands apart: `1 797`."""
    return f"{number:,}".replace(",", " ")


def trained(load: Load) -> str:
    """What no axis cuts: `1 of 2 networks, 19 714 parameters`, or the parameters alone where there is one network."""
    networks = f"{load.networks} of {load.networks_all} networks, " if load.networks_all > 1 else ""
    return f"{networks}{count(load.parameters)} parameters"


def clock(elapsed_s: float) -> str:
    """`0:09`, `12:30`, `1:02:03`."""
    minutes, seconds = divmod(max(0, int(elapsed_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def sparkline(values: Sequence[float], glyphs: Glyphs) -> str:
    """One character per value, from the smallest to the largest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    top = len(glyphs.spark) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(glyphs.spark[int((value - low) * scale + 0.5)] for value in values)


def bar(cells: Iterable[bool], glyphs: Glyphs) -> str:
    """Full where the slice is, shaded where it is not: `██▒▒██▒▒`."""
    return "".join(glyphs.kept if cell else glyphs.left_out for cell in cells)


def beginning(words: Sequence[str], most: int, columns: int) -> str:
    """The first of them, at most so many and as fit, but one at least: `fox, otter and 3 more`."""
    text = ""
    for shown in range(min(most, len(words)), 0, -1):
        rest = len(words) - shown
        text = enumeration([*words[:shown], *([f"{rest} more"] if rest else [])])
        if len(text) <= columns:
            break
    return text


def enumeration(words: Sequence[str]) -> str:
    """`fox`, `fox and otter`, `fox, otter and wren`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

"""What of an algorithm a device does otherwise, written behind its name: `msfusion:phase=slip:horizon=60`.

An algorithm's choices are a frozen dataclass: a `Literal` takes its words, an `int` digits. Knows no algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from p2pfusion.errors import UsageError

T = TypeVar("T")
DIGITS_MAX = 4
"""Of a number, of layers or rounds: more than anybody needs, and nothing that takes long to read."""


def chosen(name: str, kind: type[T], options: Mapping[str, str]) -> T:
    """The choices of the algorithm of that name, the others as they are. Raises `UsageError` naming what there is."""
    words_of = {option: get_args(hint) for option, hint in get_type_hints(kind).items()}
    found: dict[str, Any] = {}
    for option, value in options.items():
        words = words_of.get(option)
        if words and value in words:
            found[option] = value
        elif words == () and value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX:
            found[option] = int(value)
        else:
            number = f"0 to {10**DIGITS_MAX - 1}"
            there = (f"{option}={'|'.join(words) or number}" for option, words in words_of.items())
            raise UsageError(f"{name} has no {option}={value[:20]}: choose of {', '.join(there)}")
    return kind(**found)

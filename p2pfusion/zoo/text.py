"""From a text to what a causal language model learns from: tokens, a vocabulary, windows (x, y).

A token is a word or a character, whatever the caller cuts the text into. A model sees `x`, `time` tokens in a row, and
is to say the token that follows each of them, `y`. The text is kept once; windows are places in it. Knows no files and
no network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pfusion.core.data import Indexed
from p2pfusion.errors import TaskError

Tokens = npt.NDArray[np.int32]
Labels = npt.NDArray[np.int64]

UNKNOWN = "<unk>"
END_OF_LINE = "<eos>"
NAMES_MAX = 300_000
"""Of a vocabulary: WikiText-103 has 267,735, WikiText-2 33,278. Beyond them names occur once and teach nothing."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_SPEAKER = re.compile(r"([^\n:]{1,60}):(\n|\Z)")
"""How a speech begins: a line with nothing but a name and a colon. Of some there is no more."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`names[id]`, in the order of code points: texts with the same tokens get the same one. `<unk>` is among them."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        """How many tokens there are: the size of a model's output."""
        return len(self.names)

    def encode(self, tokens: Iterable[str]) -> Tokens:
        """int32 (tokens,); what the vocabulary lacks is `<unk>`."""
        ids = {name: number for number, name in enumerate(self.names)}
        unknown = ids[UNKNOWN]
        return np.fromiter((ids.get(token, unknown) for token in tokens), np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The tokens again."""
        return [self.names[number] for number in ids]


def vocabulary(tokens: Iterable[str], names_max: int = NAMES_MAX) -> Vocabulary:
    """Of the training text: its `names_max` most frequent tokens, `<unk>` counted. All peers need the same one.

    Of equally frequent ones the first by code point are taken. Raises `TaskError` where nothing but
    `<unk>` would be left.
    """
    counts = Counter(tokens)
    counts.setdefault(UNKNOWN, 0)
    by_frequency = sorted(counts, key=lambda name: (-counts[name], name))
    names = by_frequency[:names_max]
    if len(names) < 2:
        raise TaskError("vocabulary: there are no tokens; give a longer text")
    if UNKNOWN not in names:
        names[-1] = UNKNOWN
    return Vocabulary(tuple(sorted(names)))


def words(text: str) -> Iterator[str]:
    """Words between white space, `<eos>` after every line: the customary tokens of WikiText. One line at a time."""
    for line in _LINE.finditer(text):
        yield from line[0].split()
        yield END_OF_LINE


def speeches(play: str) -> dict[str, str]:
    """Everything one speaker says, names included, of a text whose speeches begin with a line `NAME:`.

    Speeches stand apart by empty lines; one without a name belongs to the speaker before.
    """
    said: dict[str, list[str]] = {}
    name = ""
    for block in re.split(r"\n\n+", play.strip("\n")):
        if head := _SPEAKER.match(block):
            name = head[1]
        said.setdefault(name, []).append(block)
    return {name: "\n\n".join(blocks) + "\n\n" for name, blocks in said.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Windows(Indexed):
    """Places in a text: `tokens` int32 (n,), `starts` int64 (windows,), `streams` int64 (windows,).

    `fetch` gives x and y, int64 (batch, time), y one token ahead. `streams` numbers the text each window is from; no
    window reaches from one into the next, so that `partition.by_group(windows.streams, ...)` keeps each author's text
    together.
    """

    tokens: Tokens
    starts: Labels
    streams: Labels
    time: int

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.starts)

    def fetch(self, picked: Sequence[int]) -> tuple[Labels, Labels]:
        """These windows; the only copy that is ever made of the text."""
        places = self.starts[np.asarray(picked, np.int64)][:, None] + np.arange(self.time + 1)
        found = self.tokens[places].astype(np.int64)  # (batch, time + 1)
        return found[:, :-1], found[:, 1:]


def windows(streams: Sequence[Tokens], time: int, stride: int | None = None) -> Windows:
    """Windows of `time` tokens that begin `stride` tokens apart (default `time`: each token is learnt once).

    A stream of at most `time` tokens gives none. Raises `TaskError` where there is none at all.
    """
    step = time if stride is None else stride
    if time < 1 or step < 1:
        raise TaskError(f"windows of {time} tokens, {step} apart: both must be at least 1")
    first = np.cumsum([0, *(len(stream) for stream in streams)])
    starts = [np.arange(0, max(0, len(stream) - time), step) + at for stream, at in zip(streams, first, strict=False)]
    counts = [len(mine) for mine in starts]
    if not sum(counts):
        raise TaskError(f"no text is longer than a window of {time} tokens; give more text, or a shorter window")
    numbers = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Windows(np.concatenate(streams).astype(np.int32), np.concatenate(starts).astype(np.int64), numbers, time)

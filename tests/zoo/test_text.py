"""Texts as tokens and windows: nothing is lost, y is one ahead, and no window crosses from one author to another."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.core.data import as_data
from p2pfusion.core.objectives import correct, cross_entropy
from p2pfusion.errors import TaskError
from p2pfusion.zoo.partition import by_group
from p2pfusion.zoo.text import UNKNOWN, Vocabulary, speeches, vocabulary, windows, words
from tests.zoo.written import PLAY

tokens = st.lists(st.sampled_from(["a", "b", "cat", UNKNOWN]), min_size=1, max_size=60)


def test_words_end_their_lines() -> None:
    assert list(words(" = Robert = \n\n he <unk> . \n")) == [
        "=",
        "Robert",
        "=",
        "<eos>",
        "<eos>",
        "he",
        "<unk>",
        ".",
        "<eos>",
    ]
    assert list(words("no newline at the end")) == ["no", "newline", "at", "the", "end", "<eos>"]


def test_words_are_cut_line_by_line() -> None:
    """A list of all words would take ten bytes a character."""
    text = "to be or not to be\n" * 20_000
    tracemalloc.start()
    try:
        found = vocabulary(words(text)).encode(words(text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 140_000
    assert peak < 4 * len(text)
    assert list(words("\n\na")) == ["<eos>", "<eos>", "a", "<eos>"]


def test_the_vocabulary_is_the_most_frequent_by_name() -> None:
    text = ["b", "a", "c", "a", "b", "d"]
    found = vocabulary(text)
    assert found.names == (UNKNOWN, "a", "b", "c", "d")
    assert found.encode(["a", "d", "zebra"]).tolist() == [1, 4, 0]
    assert found.encode(["a"]).dtype == np.int32
    assert vocabulary(text, 3).names == (UNKNOWN, "a", "b")
    assert vocabulary(["b", "b", UNKNOWN, UNKNOWN, "a"], 2).names == (UNKNOWN, "b")
    assert vocabulary([*text, "d", "d"]) == found, "other frequencies, the same numbers"
    assert len(vocabulary(PLAY)) == len(set(PLAY)) + 1


def test_a_vocabulary_needs_tokens() -> None:
    for nothing in ([], [UNKNOWN]):
        with pytest.raises(TaskError, match="longer text"):
            vocabulary(nothing)


@given(tokens, st.integers(2, 6))
def test_what_is_encoded_is_read_again_or_unknown(text: list[str], most: int) -> None:
    if set(text) == {UNKNOWN}:
        text.append("a")
    found = vocabulary(text, most)
    assert len(found) <= most
    again = found.decode(found.encode(text).tolist())
    assert all(new in (old, UNKNOWN) for old, new in zip(text, again, strict=True))
    assert again == text or most < len(set(text) | {UNKNOWN})


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 7))
def test_windows_lie_inside_their_stream(sizes: list[int], time: int, stride: int) -> None:
    streams = [np.arange(100 * number, 100 * number + size, dtype=np.int32) for number, size in enumerate(sizes)]
    expected = sum(len(range(0, max(0, size - time), stride)) for size in sizes)
    if not expected:
        with pytest.raises(TaskError, match="longer than a window"):
            windows(streams, time, stride)
        return
    found = windows(streams, time, stride)
    assert len(found) == expected
    x, y = found.fetch(range(expected))
    assert x.shape == y.shape == (expected, time)
    assert (y == x + 1).all(), "these streams count upwards"
    assert (x // 100 == found.streams[:, None]).all()
    assert (y // 100 == found.streams[:, None]).all()


def test_every_token_but_the_first_is_learnt_once() -> None:
    found = windows([np.arange(41, dtype=np.int32)], 8)
    _, y = found.fetch(range(len(found)))
    assert y.reshape(-1).tolist() == list(range(1, 41))


def test_windows_share_one_text() -> None:
    text = np.arange(10_000, dtype=np.int32)
    found = windows([text], 100, stride=1)
    assert found.tokens.nbytes == text.nbytes
    assert len(found) == 9_900


@pytest.mark.parametrize(("time", "stride"), [(0, 1), (4, 0)])
def test_sizes_are_checked(time: int, stride: int) -> None:
    with pytest.raises(TaskError, match="at least 1"):
        windows([np.arange(9, dtype=np.int32)], time, stride)


def test_speakers_keep_what_they_say() -> None:
    said = speeches("Ay\n\nROMEO:\nOne.\n\nJULIET:\nTwo:\nthree.\n\nAnd four.\n\nROMEO:\nFive.\n\nGhost:\n")
    assert said == {
        "": "Ay\n\n",
        "ROMEO": "ROMEO:\nOne.\n\nROMEO:\nFive.\n\n",
        "JULIET": "JULIET:\nTwo:\nthree.\n\nAnd four.\n\n",
        "Ghost": "Ghost:\n\n",
    }
    assert list(speeches(PLAY)) == ["ROMEO", "JULIET", "First Guard"]
    assert sum(map(len, speeches(PLAY).values())) == len(PLAY)


def test_a_part_by_speaker_holds_whole_speakers() -> None:
    said = speeches(PLAY)
    letters = vocabulary(PLAY)
    found = windows([letters.encode(text) for text in said.values()], 16)
    data = as_data(found, 4, "train")
    parts = by_group(found.streams, 3, 0)
    assert sorted(len(np.unique(found.streams[part])) for part in parts) == [1, 1, 1]
    x, y = next(data.chosen(parts[0]).once())
    assert (x.shape, x.dtype, y.dtype) == ((4, 16), torch.int64, torch.int64)
    text = "".join(letters.decode(x.reshape(-1).tolist()))
    assert any(text in one for one in said.values())


def test_tokens_are_counted_one_by_one() -> None:
    """A model's output is (batch, vocabulary, time)."""
    y = torch.tensor([[0, 1, 2], [2, 2, 1]])
    output = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1], [2, 0, 1]]), 4).permute(0, 2, 1).float()
    assert correct(output, y) == 4
    assert cross_entropy(output * 50, y) == pytest.approx(50 * 2 / 6)


def test_names_of_a_vocabulary_are_its_size() -> None:
    assert len(Vocabulary(("a", UNKNOWN))) == 2

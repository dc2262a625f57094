"""Readers of the usual formats: what the files say is what comes out, and every defect is named with its fix."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from p2pfusion.core.data import as_data
from p2pfusion.errors import TaskError
from p2pfusion.zoo import datasets
from p2pfusion.zoo.datasets import Images, cifar10, fashion_mnist, idx, tiny_shakespeare, wikitext2
from tests.zoo import written


@pytest.mark.parametrize(("below", "suffix"), [("", ""), ("", ".gz"), ("FashionMNIST/raw", "")])
def test_idx_files(tmp_path: Path, below: str, suffix: str) -> None:
    written.write_fashion(tmp_path / below, suffix=suffix)
    found = fashion_mnist(tmp_path)
    assert found.train.x.shape == (60, 1, 28, 28)
    assert found.test.x.shape == (20, 1, 28, 28)
    assert (found.train.x.dtype, found.train.y.dtype) == (np.uint8, np.int64)
    assert found.train.y.tolist() == [*range(10)] * 6
    assert (found.channels, found.classes) == (1, 10)
    assert (found.train.x[3] // 20 >= 3).all()


def test_names_with_a_dot(tmp_path: Path) -> None:
    written.write_fashion(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert len(fashion_mnist(str(tmp_path)).test) == 20


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar_files(tmp_path: Path, below: str) -> None:
    written.write_cifar10(tmp_path / below)
    found = cifar10(tmp_path)
    assert found.train.x.shape == (60, 3, 32, 32)
    assert found.test.y.tolist() == [*range(10), 0, 1]
    record = written.pixels(12, 3072)[1]
    assert found.test.x[1, 2, 0, 5] == record[2 * 1024 + 5], "channel by channel, row by row"


def test_images_are_normalised_when_they_are_fetched(tmp_path: Path) -> None:
    written.write_cifar10(tmp_path)
    train = cifar10(tmp_path).train
    x, y = train.fetch(range(60))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(train.mean, (train.x / 255).mean((0, 2, 3)))
    np.testing.assert_allclose(train.std, (train.x / 255).std((0, 2, 3)))
    data = as_data(train, 8, "train")
    assert (data.samples, data.batches_per_pass) == (60, 8)
    batch = next(data.once())
    assert torch.equal(batch[0], torch.from_numpy(x[:8]))
    assert batch[1].tolist() == y[:8].tolist()


def test_a_channel_without_contrast_stays_finite() -> None:
    grey = np.full((4, 1, 2, 2), 7, np.uint8), np.arange(4)
    assert np.isfinite(datasets.image_set(grey, grey).train.fetch([0])[0]).all()


@pytest.mark.parametrize("names", ["wiki.{}.tokens", "{}.txt"])
def test_word_level_text(tmp_path: Path, names: str) -> None:
    written.write_wikitext2(tmp_path, names)
    found = wikitext2(tmp_path)
    assert found.train.startswith(" the 0 cats of")
    assert (found.train.count("\n"), found.validation.count("\n"), found.test.count("\n")) == (300, 60, 60)


def test_character_level_text_is_cut_between_speeches(tmp_path: Path) -> None:
    written.write_shakespeare(tmp_path)
    found = tiny_shakespeare(tmp_path)
    assert found.train + found.validation == written.PLAY
    assert found.train.endswith("It goes on.\n\n")
    assert 0.85 < len(found.train) / len(written.PLAY) <= 0.9
    (tmp_path / "input.txt").write_text("a" * 100)
    assert len(tiny_shakespeare(tmp_path).train) == 90


def test_line_ends_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(b"one\r\n\r\ntwo\r\n" * 10)
    assert "\r" not in tiny_shakespeare(tmp_path).train


IMAGES, LABELS = written.IDX_NAMES[:2]
HEAD = struct.pack(">IIII", 0x803, 60, 28, 28)


def replaced(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(name).write_bytes(data) and None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / IMAGES).unlink(), rf"{IMAGES} \(or \.gz\): there is no such file; download"),
        (replaced(IMAGES, b""), rf"{IMAGES}: is cut short, 0 of 16 bytes"),
        (replaced(IMAGES, HEAD + bytes(5)), rf"{IMAGES}: is cut short, 5 of 47040 bytes; download it again"),
        (replaced(IMAGES, HEAD + bytes(60 * 784 + 1)), rf"{IMAGES}: goes on after"),
        (replaced(IMAGES, bytes(100)), rf"{IMAGES}: is no idx file .*magic number 0x00000000"),
        (replaced(IMAGES, b"<html> not found"), rf"{IMAGES}: is no idx file .*in its original form"),
        (replaced(IMAGES, struct.pack(">IIII", 0x803, 0, 28, 28)), "each size must be above 0"),
        (replaced(IMAGES, struct.pack(">IIII", 0x803, 2**31, 28, 28)), "all at most 1024 MiB"),
        (replaced(LABELS, written.idx_bytes(written.pixels(59))), f"{LABELS}: 59 labels for 60 images"),
        (replaced(written.IDX_NAMES[3], written.idx_bytes(np.full(20, 200, np.uint8))), "of one data set"),
    ],
)
def test_idx_defects_are_named(tmp_path: Path, harm: Callable[[Path], object], words: str) -> None:
    written.write_fashion(tmp_path)
    harm(tmp_path)
    with pytest.raises(TaskError, match=words):
        fashion_mnist(tmp_path)


def test_packed_defects_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.gz"
    whole = gzip.compress(written.idx_bytes(written.pixels(50, 9, 9)))
    for data, words in ((whole[:-9], "damaged"), (b"plain", "damaged"), (whole[:100], "damaged|cut short")):
        file.write_bytes(data)
        with pytest.raises(TaskError, match=rf"x\.gz: .*({words}).*download it again"):
            idx(file, 3)


def test_a_small_packed_file_is_never_unpacked_beyond_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(HEAD + bytes(50_000_000), 1))
    with pytest.raises(TaskError, match="goes on after"):
        idx(tmp_path / "bomb.gz", 3)


def test_the_limit_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "input.txt"
    file.write_text("abcd" * 25)
    monkeypatch.setattr(datasets, "FILE_BYTES_MAX", 100 - datasets._HEADER_BYTES)
    assert datasets.text(file) == "abcd" * 25
    monkeypatch.setattr(datasets, "FILE_BYTES_MAX", 99 - datasets._HEADER_BYTES)
    with pytest.raises(TaskError, match=r"input\.txt: is larger than 0 MiB; give a part of it"):
        datasets.text(file)


@pytest.mark.parametrize(
    ("size", "label", "words"),
    [(0, 0, "0 bytes are no whole number"), (3072, 0, "3072 bytes"), (3074, 0, "3074 bytes"), (3073, 10, "label 10")],
)
def test_cifar_defects_are_named(tmp_path: Path, size: int, label: int, words: str) -> None:
    written.write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes((bytes([label]) + bytes(5000))[:size])
    with pytest.raises(TaskError, match=rf"data_batch_3\.bin: {words}.*again"):
        cifar10(tmp_path)


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nowhere: there is no such folder; give the one that holds data_batch_1\.bin"):
        cifar10(tmp_path / "nowhere")
    with pytest.raises(TaskError, match=re.escape(f"{tmp_path / 'wiki.train.tokens'}: there is no such file")):
        wikitext2(tmp_path)


@pytest.mark.parametrize(("data", "words"), [(b"\xff\xfe", "is not UTF-8 at byte 0"), (b" \n", "is empty")])
def test_text_defects_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "input.txt").write_bytes(data)
    with pytest.raises(TaskError, match=words):
        tiny_shakespeare(tmp_path)


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    written.write_shakespeare(tmp_path / "play")
    assert tiny_shakespeare("~/play").train


def test_images_are_compared_by_identity() -> None:
    one = Images(written.pixels(1, 1, 2, 2), np.zeros(1, np.int64), (0.0,), (1.0,))
    assert one == one
    assert one != Images(one.x, one.y, one.mean, one.std)

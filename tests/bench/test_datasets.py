"""The benches' converter: what it writes, the product's readers read as the same arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import datasets as bench
from p2pfusion.app.tasks import find_task
from p2pfusion.zoo import datasets

LOAD = """
import numpy as np

def images(name, split, shards=None, cache=None):
    shape = {"fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}[name]
    count = 5 if shards else {"train": 25, "test": 10}[split]
    x = np.random.Generator(np.random.Philox(len(split))).integers(0, 256, (count, *shape), np.uint8)
    return x, (np.arange(count) % 10).astype(np.uint8)

def text(name, split="input"):
    return {"input": "A:\\nTo be.\\n\\nB:\\nOr not.\\n\\n" * 40}.get(split, f" the {split} of <unk> \\n" * 60)
"""


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "load.py").write_text(LOAD)
    return tmp_path / "packed"


def test_what_is_written_is_what_is_read(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--from", str(collection), "--to", str(tmp_path / "usual")]) == 0
    said = capsys.readouterr().out
    for name, read in (("fashion", datasets.fashion_mnist), ("cifar10", datasets.cifar10)):
        found, direct = read(tmp_path / "usual" / name), bench.images(name, collection)
        for mine, theirs in ((found.train, direct.train), (found.test, direct.test)):
            assert (mine.x == theirs.x).all()
            assert (mine.y == theirs.y).all()
            assert (mine.mean, mine.std) == (theirs.mean, theirs.std)
        task = next(line.split(" join ")[1] for line in said.splitlines() if f" join {name}:" in line)
        assert find_task(task, 0).train.x.shape == direct.train.x.shape
    assert datasets.wikitext2(tmp_path / "usual" / "wikitext2") == bench.texts("wikitext2", collection)
    assert datasets.tiny_shakespeare(tmp_path / "usual" / "shakespeare") == bench.texts("shakespeare", collection)


def test_colours_come_first(collection: Path) -> None:
    packed, _ = bench.collection(collection).images("cifar10", "test")
    assert (bench.images("cifar10", collection).test.x[:, 2] == packed[..., 2]).all()
    assert len(bench.images("cifar10", collection, shards=1).train) == 5
    assert bench.images("fashion", collection).train.x.dtype == np.uint8


def test_the_collection_is_found(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench.ENVIRONMENT, str(collection))
    assert bench.collection().text("tiny_shakespeare").startswith("A:")
    with pytest.raises(SystemExit, match=r"load\.py: there is no such file; name the collection's folder with --from"):
        bench.collection(collection / "nowhere")

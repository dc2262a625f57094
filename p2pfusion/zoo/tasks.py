"""Built-in tasks by name: what `p2pfusion join digits` and the demo learn, and what `join fashion:DIR` learns.

A task is a value; how many devices share it is decided elsewhere, how it is dealt among them here (`Task.partition`).
Digits come with the package; the data of every other task lie in a folder of the owner's. The networks are of a size
that one slow core trains at some steps per second (WikiText-2: one, for its output has 33,278 words).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from p2pfusion.core.task import Task
from p2pfusion.core.training import Optimizer, Sgd
from p2pfusion.errors import TaskError
from p2pfusion.zoo import datasets, digits
from p2pfusion.zoo.blueprints import mlp, residual_cnn, resnet18
from p2pfusion.zoo.datasets import Texts
from p2pfusion.zoo.partition import by_group, contiguous
from p2pfusion.zoo.text import Tokens, Vocabulary, Windows, speeches, vocabulary, windows, words
from p2pfusion.zoo.transformers import gpt

VALIDATION_IMAGES = 2_000
"""Of the test set, from its beginning: one image is 0.05 % of accuracy, and a look takes about as long as a round."""
VALIDATION_WINDOWS = 128
"""Of the validation text, evenly spread, for the same reason; 8,192 tokens at the context of 64."""
CONTEXT = 64
"""Tokens that a language model sees at once."""
SPEAKERS_MIN = 2
"""Of a play that is dealt by speaker."""


@dataclass(frozen=True, slots=True)
class FolderTask:
    """A task whose data lie in a folder; `needs` says for a person which files it must hold."""

    make: Callable[[Path], Task]
    needs: str


def digits_task() -> Task:
    """Hand-written digits with an MLP 64-256-256-10: 85,002 parameters, a round of 15 steps of 32 images."""
    train, test = digits.load()
    return Task(
        model=mlp(64, (256, 256), 10),
        train=(train.x, train.y),
        validation=(test.x, test.y),
        optimizer=_sgd_of_tenth,
        batch_size=32,
        steps_per_round=15,
    )


def fashion_task(folder: Path) -> Task:
    """Fashion-MNIST, or MNIST, with a residual network: 307,690 parameters. Raises `TaskError`."""
    images = datasets.fashion_mnist(folder)
    model = residual_cnn(images.channels, (32, 64, 128), images.classes, blocks_per_stage=1, stem_stride=2)
    return Task(model, images.train, images.test.first(VALIDATION_IMAGES), steps_per_round=20)


def cifar10_task(folder: Path) -> Task:
    """CIFAR-10 with ResNet-18 at half its widths and resolution: 2,796,714 parameters. Raises `TaskError`."""
    images = datasets.cifar10(folder)
    model = resnet18(images.channels, images.classes, (32, 64, 128, 256), stem_stride=2)
    return Task(model, images.train, images.test.first(VALIDATION_IMAGES), steps_per_round=20)


def shakespeare_task(folder: Path) -> Task:
    """Next character of Tiny Shakespeare, with a Transformer of 2 layers: 413,440 parameters. Raises `TaskError`."""
    texts = datasets.tiny_shakespeare(folder)
    return _in_chapters(texts, vocabulary(texts.train), list, batch_size=32)


def speakers_task(folder: Path) -> Task:
    """The same, dealt by speaker: nobody's words are on two devices. Who says too little for a window is left out.

    Raises `TaskError`.
    """
    texts = datasets.tiny_shakespeare(folder)
    names = vocabulary(texts.train)
    said = [names.encode(own) for own in speeches(texts.train).values() if len(own) > CONTEXT]
    if len(said) < SPEAKERS_MIN:
        raise TaskError(
            f"{folder}: fewer than {SPEAKERS_MIN} speakers have more than {CONTEXT} characters; speeches begin with a "
            f"line NAME: and stand apart by empty lines (shakespeare:DIR deals any text in chapters)"
        )
    train = windows(said, CONTEXT)
    task = _language_task(texts, names, train, list, batch_size=32)
    return replace(task, partition=lambda parts, seed: by_group(train.streams, parts, seed))


def wikitext2_task(folder: Path) -> Task:
    """The next word of WikiText-2, with a Transformer of 2 layers: 4,664,576 parameters. Raises `TaskError`."""
    texts = datasets.wikitext2(folder)
    return _in_chapters(texts, vocabulary(words(texts.train)), words, batch_size=8)


def _in_chapters(texts: Texts, names: Vocabulary, cut: Callable[[str], Iterable[str]], *, batch_size: int) -> Task:
    """Dealt as contiguous pieces of the text."""
    train = windows([names.encode(cut(texts.train))], CONTEXT)
    task = _language_task(texts, names, train, cut, batch_size=batch_size)
    return replace(task, partition=lambda parts, seed: contiguous(len(train), parts))


def _language_task(
    texts: Texts, names: Vocabulary, train: Windows, cut: Callable[[str], Iterable[str]], *, batch_size: int
) -> Task:
    return Task(
        gpt(len(names), CONTEXT, 128, 2, 8, 512),
        train,
        _spread(names.encode(cut(texts.validation))),
        optimizer=_adam,
        batch_size=batch_size,
        steps_per_round=20,
    )


def _spread(tokens: Tokens) -> Windows:
    """At most `VALIDATION_WINDOWS` windows from the whole text."""
    stride = max(CONTEXT, -(-(len(tokens) - CONTEXT) // VALIDATION_WINDOWS))
    return windows([tokens], CONTEXT, stride)


def _sgd_of_tenth(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return Sgd(parameters, lr=0.1, momentum=0.9)


def _adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Transformers do not learn with plain SGD."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)


TASKS: Mapping[str, Callable[[], Task]] = MappingProxyType({"digits": digits_task})
_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k (each may be .gz)"
FOLDER_TASKS: Mapping[str, FolderTask] = MappingProxyType(
    {
        "fashion": FolderTask(fashion_task, f"Fashion-MNIST's {_IDX}"),
        "mnist": FolderTask(fashion_task, f"MNIST's {_IDX}"),
        "cifar10": FolderTask(cifar10_task, "the binary version of CIFAR-10, data_batch_1.bin and so on"),
        "shakespeare": FolderTask(shakespeare_task, "input.txt, any text: Tiny Shakespeare"),
        "speakers": FolderTask(speakers_task, "input.txt, a play whose speeches begin with a line NAME:"),
        "wikitext2": FolderTask(wikitext2_task, "wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens"),
    }
)
"""Given as `name:DIR`, wherever a task is asked for."""

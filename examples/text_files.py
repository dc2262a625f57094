"""A small language model of your own texts, character by character; here it reads this project's documentation.

    p2pfusion check examples/text_files.py
    p2pfusion join examples/text_files.py --slice 50% --data-part 0/3

With --data-part each device reads a piece of the text. The vocabulary comes from the texts, so all devices need the
same files; or write down the characters in `LETTERS`, and each may bring its own.
"""

from pathlib import Path

import torch

from p2pfusion import Task
from p2pfusion.zoo.partition import contiguous
from p2pfusion.zoo.text import vocabulary, windows
from p2pfusion.zoo.transformers import gpt

FILES = sorted(Path(__file__).resolve().parents[1].glob("docs/*.md"))
LETTERS = None
TIME = 64  # characters that the model sees at once


def task() -> Task:
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    letters = vocabulary(LETTERS or text)
    tokens = letters.encode(text)
    cut = len(tokens) * 9 // 10
    train, validation = windows([tokens[:cut]], TIME), windows([tokens[cut:]], TIME)
    return Task(
        gpt(vocabulary=len(letters), context=TIME, width=96, layers=2, heads=8, ffn=384),
        train,
        validation,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        steps_per_round=20,
        partition=lambda parts, seed: contiguous(len(train), parts),
    )

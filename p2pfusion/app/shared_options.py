"""Options that several commands of `p2pfusion` take: what all nodes of a run agree on, what is sent, how it is told.

Like `cli`, of which it is a part, it needs neither torch nor the network, and knows no command.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from p2pfusion.app import values
from p2pfusion.config import ALGORITHM_DEFAULT, CODEC_NAMES, COMMON_RATE_DEFAULT, MICRO_BATCHES_MAX

Command = Callable[..., Any]


def together(*decorators: Command) -> Command:
    """Several options as one decorator, in the order they are listed by --help."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _remember(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    remembered: list[bool] = context.obj
    remembered.append(value)
    return value


FOLDER = click.Path(file_okay=False, path_type=Path)
SPEECH = together(
    click.option("--json", is_flag=True, help="JSON Lines on stdout, everything else on stderr."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and what --json asks for."),
    click.option("-v", "--verbose", is_flag=True, callback=_remember, help="Log to stderr; tracebacks of bugs."),
)
SENDING = together(
    click.option("--codec", type=click.Choice(CODEC_NAMES), default="auto", show_default=True,
                 help="How contributions are compressed."),
    click.option("--density", type=values.DENSITY, default="1%", show_default=True,
                 help="How many of the values topk and stc send."),
)  # fmt: skip
AGREED = together(
    click.option("--algorithm", default=ALGORITHM_DEFAULT, show_default=True, metavar="NAME[:CHOICE...]",
                 help="What a node trains, and how (docs/choosing.md)."),
    click.option("--common", type=values.RATE, default=f"{COMMON_RATE_DEFAULT * 100:g}%", show_default=True,
                 help="The width that every device of the run can train."),
    click.option("--outer-momentum", "momentum", type=values.MOMENTUM, default="0%", show_default=True,
                 help="How much of the model's last movement each round repeats."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
                 help="Must be the same on all nodes."),
)  # fmt: skip
MICRO_BATCHES = click.option("--micro-batches", type=click.IntRange(1, MICRO_BATCHES_MAX), default=1, metavar="N",
                              show_default=True, help="Pieces of an owner's batch: few then fill a chain.")  # fmt: skip
CHAINED = together(
    click.option("--role", type=click.Choice(["owner", "relay", "both"]), default="owner", show_default=True,
                 help="With --algorithm mp_sl: train on own data, or hold the network's middle for others."),
    click.option("--memory", type=values.MEMORY, default=None,
                 help="What a relay gives at most, such as 2GB.  [default: half of what is free]"),
    click.option("--hop-codec", type=click.Choice(["fp32", "bf16", "int8", "topk"]), default="bf16", show_default=True,
                 help="How activations and gradients travel; topk: a tenth of the gradients."),
    MICRO_BATCHES,
    click.option("--keep-all", "keeps_all", is_flag=True, help="Keep all pieces, so that export has the whole model."),
)  # fmt: skip
SLICE_HELP = "The width that this device can train, as a share of every sliced axis"
TRAINING = together(
    click.option("--slice", "rate", type=values.RATE, default="50%", show_default=True, help=f"{SLICE_HELP}."), AGREED
)

"""`p2pfusion export`: a network out of a run's newest checkpoint as one plain safetensors file.

A model may hold several networks, of several widths; which, and how good they were, the checkpoint says. It may be in
pieces (`pieces`). Works on the state folder of a finished, crashed or running node. What the files look like is
`store`'s business.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from p2pfusion.algorithms.base import WHOLE, width_name
from p2pfusion.app.pieces import put_together
from p2pfusion.app.states import newest_folder, state_root, swarm_folder
from p2pfusion.app.values import parse_rate
from p2pfusion.app.words import count, enumeration, percent
from p2pfusion.core.depth import exit_name
from p2pfusion.core.fold import model_sha256
from p2pfusion.errors import StoreError, UsageError
from p2pfusion.node.contents import PART, Listed, taken, unpack
from p2pfusion.seams import Checkpoint
from p2pfusion.store.exported import write_model
from p2pfusion.store.folder import newest_checkpoint
from p2pfusion.store.shards import shards_in

SUFFIX = ".safetensors"
WIDTH, EXIT = "--width", "--exit"
"""The options that choose a network."""
AUTO = "auto"
"""The width that was best when it was measured last; else the one that is surely trained (`Product.fallback`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What `export` was called with."""

    file: Path
    width: str
    exit: str
    state: Path | None
    swarm: str | None
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and of which state of which run.

    `width`: which network of the model, None for all of it; its `accuracy` was measured in round `accuracy_round`.
    """

    file: str
    round: int
    chain: str
    model_sha256: str
    parameters: int
    width: str | None = None
    accuracy: float | None = None
    accuracy_round: int | None = None
    widths: Mapping[str, float | None] = field(default_factory=dict)
    """What there was to choose from, with what is known of it."""
    shard_rounds: Sequence[int] = ()
    """Of a model in pieces: the round that each shard's own ledger had come to."""


def run_export(options: ExportOptions) -> int:
    """Write the file and say what is in it; returns 0. Raises `StoreError`, `UsageError`."""
    if options.file.suffix != SUFFIX:
        raise UsageError(f"{options.file}: the file's name must end in {SUFFIX}")
    if options.state is not None and options.swarm is not None:
        raise UsageError("--state and --swarm both say where to look: give one")
    root = state_root() if options.swarm is None else swarm_folder(options.swarm)
    folder, candidates = newest_folder(options.state or root)
    if candidates > 1 and not options.quiet:
        choice = "choose with --swarm or --state"
        sys.stderr.write(f"{candidates} nodes have saved a model; taking the newest, {folder} ({choice})\n")
    exported = export_model(folder, options.file, *wanted(options.width, options.exit))
    if options.json:
        from p2pfusion.app.output import object_text

        sys.stdout.write(object_text("export", exported) + "\n")
    elif not options.quiet:
        sys.stdout.write(f"wrote {exported.file}: {words_of(exported)}\n")
    return 0


def wanted(width: str, exit_: str) -> tuple[str, str]:
    """The name of the network that `--width` and `--exit` ask for, and which of them did. Raises `UsageError`."""
    if exit_ == AUTO:
        return width, WIDTH
    if width != AUTO:
        raise UsageError(f"--width {width} --exit {exit_}: a model holds widths or exits; ask for one")
    if not exit_.isdecimal():
        raise UsageError(f"--exit {exit_}: must be auto or the number of an exit, 1 for the shallowest")
    return exit_name(int(exit_)), EXIT


def words_of(exported: Exported) -> str:
    """The same for a person."""
    words = [f"{count(exported.parameters)} parameters"]
    if len(exported.widths) > 1:
        name = exported.width if _has_exits(exported.widths) else f"width {exported.width}"
        words.append(f"{name} (there are {', '.join(exported.widths)})")
        option = EXIT if _has_exits(exported.widths) else WIDTH
        words += [] if exported.accuracy is not None else [f"none was measured (choose with {option})"]
    if exported.accuracy is not None:
        at = (
            ""
            if exported.accuracy_round == exported.round
            else f" when it was measured in round {exported.accuracy_round}"
        )
        words.append(f"accuracy {percent(exported.accuracy)}{at}")
    rounds = sorted(set(exported.shard_rounds))
    at = f"shards of rounds {enumeration(list(map(str, rounds)))}" if len(rounds) > 1 else f"round {exported.round}"
    return ", ".join([*words, at, f"model {exported.model_sha256}"])


def export_model(folder: Path, file: Path, width: str = AUTO, option: str = WIDTH) -> Exported:
    """Write a network of the newest checkpoint's model of one node's folder to `file`, in one step.

    `option` asked for it. Raises `StoreError`, `UsageError` for a width that the model does not hold.
    """
    checkpoint, sha256, rounds = put_together(folder) if shards_in(folder) else _whole(folder)
    model = {name: np.asarray(values, np.float32) for name, values in checkpoint.model.items()}
    try:
        listed = unpack(checkpoint.parts.get(PART))
        if rounds:  # its owner's shard was saved before the whole was measured
            listed = replace(listed, accuracy=None)
        name = chosen(listed, width, option)
        part = model if name is None else taken(model, listed.networks[name].cuts)
    except ValueError as error:
        raise StoreError(f"the newest checkpoint in {folder} cannot be used: {error}") from error
    accuracy = listed.accuracy if name is None else listed.networks[name].accuracy
    exported = Exported(
        file=str(file),
        round=checkpoint.round,
        chain=checkpoint.chain.hex(),
        model_sha256=sha256,
        parameters=sum(values.size for values in part.values()),
        width=name,
        accuracy=accuracy,
        accuracy_round=None if accuracy is None else listed.round,
        widths={one: network.accuracy for one, network in listed.networks.items()},
        shard_rounds=rounds,
    )
    write_model(file, part, _metadata(exported, listed))
    return exported


def _whole(folder: Path) -> tuple[Checkpoint, str, list[int]]:
    """Of a node that holds the whole model: no shards."""
    checkpoint = newest_checkpoint(folder)
    # In blueprint order, as the checkpoint keeps it: the hash is over the flat model.
    flat = np.concatenate([np.asarray(values, np.float32).reshape(-1) for values in checkpoint.model.values()])
    return checkpoint, model_sha256(flat), []


def chosen(listed: Listed, width: str, option: str) -> str | None:
    """Which network is asked for with that option; None: the whole model. Raises `UsageError`."""
    if width == AUTO:
        names = (listed.served, listed.fallback, *reversed(list(listed.networks)))
        return next((name for name in names if name in listed.networks), None)
    name = _named(width)
    if not listed.networks:
        if name == WHOLE:
            return None
        raise UsageError(f"{_asked(width, option)}: this checkpoint holds one network only; leave {option} out")
    if name not in listed.networks:
        raise UsageError(f"{_asked(width, option)}: {_choice(tuple(listed.networks), option)}")
    return name


def _named(width: str) -> str:
    """The name that networks of a rate have, however the rate is written (`25%`, `0.25`, `1/4`); others as they are."""
    try:
        return width_name(parse_rate(width))
    except ValueError:
        return width


def _asked(width: str, option: str) -> str:
    """What was asked for, as it was written."""
    return f"{option} {_number(width) if option == EXIT else width}"


def _choice(names: tuple[str, ...], option: str) -> str:
    """What can be asked for, and with which option where it is the other one."""
    if option == WIDTH:
        return f"choose auto or one of {', '.join(names)}"
    if not _has_exits(names):
        return f"this checkpoint holds no exits; choose with {WIDTH}: auto or one of {', '.join(names)}"
    return f"choose auto or one of {', '.join(map(_number, names))}"


def _number(name: str) -> str:
    """Of an exit, as `--exit` takes it."""
    return name.rpartition(" ")[2]


def _has_exits(names: Iterable[str]) -> bool:
    """Whether the networks of a model are those that end at its exits."""
    return all(name == exit_name(number) for number, name in enumerate(names, 1))


def _metadata(exported: Exported, listed: Listed) -> dict[str, str]:
    known = {
        **listed.origin,
        "round": exported.round,
        "chain": exported.chain,
        "model_sha256": exported.model_sha256,
        "width": exported.width,
        "accuracy": exported.accuracy,
        "accuracy_round": exported.accuracy_round,
    }
    return {name: str(value) for name, value in known.items() if value is not None}

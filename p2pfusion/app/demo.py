"""`p2pfusion demo`: several processes of our own on this computer find each other by mDNS, train, and are compared.

The parent hands no address to anybody. It starts `p2pfusion join` with `--json`, reads the children's lines as any
script could, shows them, and believes nothing: all must end with status 0, one model hash and one chain, and the model
each can export must have that hash. Then come the comparisons, whatever they say. Children leave when the parent goes,
however it goes, because their standard input ends with it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from p2pfusion import __version__
from p2pfusion.app.interrupts import HARD_EXIT_STATUS, terminate_like_interrupt
from p2pfusion.app.moments import mark
from p2pfusion.config import ALGORITHM_DEFAULT

if TYPE_CHECKING:
    from p2pfusion.app.children import Child
    from p2pfusion.app.live import View
    from p2pfusion.app.output import DemoDoneLine, DoneLine, Status
    from p2pfusion.lab.comparisons import Comparisons

DEMO_ROUNDS = 30
"""Enough for the digits to pass 93 % with half slices on three nodes; seconds on two slow cores."""
QUIET_MS = 100
"""All who will come are known by number: nobody has to wait whether somebody else comes."""
WAIT_S = 120
"""Children import torch all at once; on a slow, busy machine that alone takes most of a minute."""
TIMEOUT_S = 900
"""Never reached by a healthy demo; without it a sick one would hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `demo` was called with."""

    nodes: int
    rounds: int | None
    rate: float
    algorithm: str
    common: float
    momentum: float
    seed: int
    json: bool
    quiet: bool
    verbose: bool


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns 0 only if all nodes ended well with one model."""
    from p2pfusion.app.live import choose_view

    terminate_like_interrupt()
    streams = (sys.stdout, sys.stderr)
    view = choose_view(streams, os.environ, json=options.json, quiet=options.quiet, plain=options.verbose, tagged=True)
    folder = Path(mkdtemp(prefix="p2pfusion-demo-"))
    try:
        view.note(
            f"p2pfusion {__version__}: demo, {options.nodes} nodes on this computer learn digits; starting torch ..."
        )
        if options.algorithm != ALGORITHM_DEFAULT:
            from p2pfusion.algorithms.presets import check_live  # brings torch, which the comparisons need anyway

            check_live(options.algorithm)
        return _run(options, view, folder)
    except KeyboardInterrupt:
        return HARD_EXIT_STATUS
    finally:
        view.close()
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: DemoOptions, view: View, folder: Path) -> int:
    children = asyncio.run(_swarm(options, view, folder))
    view.close()
    status = exit_status(children)
    problem = complaint(children)
    if problem is None and status == 0:
        problem = _exports_differ(children)
    if problem is not None:
        sys.stderr.write(f"error: {problem}\n")
        status = status or 1
    comparisons = _compare(options, view) if status == 0 and (options.json or not options.quiet) else None
    line = summary(children, status, comparisons)
    if line is not None:
        view.show("demo", line)
        if status == 0:
            for words in report(line, mean_share(children)):
                view.note(words)
    return status


async def _swarm(options: DemoOptions, view: View, folder: Path) -> list[Child]:
    """Start the children, show what they say, and wait for all of them."""
    from p2pfusion.app.children import run_children

    mark("children")
    swarm = f"demo-{secrets.token_hex(4)}"
    return await run_children(commands(options, swarm, folder), view, give_up_s=TIMEOUT_S + WAIT_S)


def commands(options: DemoOptions, swarm: str, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Node name -> its command line and its state folder."""
    from itertools import islice

    from p2pfusion.app.states import friendly_names

    found: dict[str, tuple[list[str], Path]] = {}
    for index, name in enumerate(islice(friendly_names(), options.nodes)):
        state = folder / str(index)
        words = {
            "--swarm": swarm,
            "--name": name,
            "--listen": "127.0.0.1:0",
            "--min-peers": options.nodes,
            "--quiet-period": f"{QUIET_MS}ms",
            "--until": f"rounds={options.rounds or DEMO_ROUNDS}",
            "--data-part": f"{index}/{options.nodes}",
            "--state": state,
            "--seed": options.seed,
            "--algorithm": options.algorithm,
            "--common": options.common,
            "--outer-momentum": options.momentum,
            "--slice": options.rate,
            "--device": "cpu",  # to start a GPU takes longer than the digits do
            "--wait": f"{WAIT_S}s",
            "--timeout": f"{TIMEOUT_S}s",
        }
        line = [sys.executable, "-m", "p2pfusion", "join", "digits", "--json", "--quiet", "--leave-on-eof"]
        line += [str(word) for pair in words.items() for word in pair]
        found[name] = ([*line, "--verbose"] if options.verbose else line, state)
    return found


def exit_status(children: Sequence[Child]) -> int:
    """0 if all children ended with 0, else what the first that failed by itself ended with."""
    first = next((child for child in children if child.failed_first), None)
    failed = first or next((child for child in children if child.status), None)
    if failed is None:
        return 0
    # A negative status is a signal's number.
    return failed.status if failed.status > 0 else HARD_EXIT_STATUS if failed.was_asked else 1


def complaint(children: Sequence[Child]) -> str | None:
    """What is wrong with how the children ended, in one line; None if nothing is."""
    for child in children:
        if child.status and (child.failed_first or not child.was_asked):
            how = f"ended with status {child.status}" if child.status > 0 else f"was ended by signal {-child.status}"
            return f"{child.name} {how}: {child.last_words or 'it said nothing'}"
    if any(child.was_asked for child in children):
        return None
    if any(child.done is None or child.done.status != "ok" for child in children):
        return "a node ended without saying how"
    if len({(child.done.model_sha256, child.done.chain) for child in children if child.done}) != 1:
        return "the nodes ended with different models: this is our bug"
    return None


def _exports_differ(children: Sequence[Child]) -> str | None:
    from p2pfusion.app.exporting import export_model

    for child in children:
        exported = export_model(child.state, child.state / "exported.safetensors")
        if child.done is None or exported.model_sha256 != child.done.model_sha256:
            return f"what {child.name} exports is not the model it ended with: this is our bug"
    return None


def _compare(options: DemoOptions, view: View) -> Comparisons:
    from p2pfusion.app.tasks import find_task
    from p2pfusion.lab.comparisons import compare

    view.note("comparing: the same data and steps without slices ...")
    task = find_task("digits", options.seed)
    rounds = options.rounds or DEMO_ROUNDS
    return compare(task, nodes=options.nodes, rate=options.rate, rounds=rounds, seed=options.seed)


def summary(children: Sequence[Child], status: int, comparisons: Comparisons | None) -> DemoDoneLine | None:
    """The demo's own last line; None if no node had begun."""
    from p2pfusion.algorithms.base import Traffic
    from p2pfusion.app.output import DemoDoneLine

    nodes = tuple(child.done for child in children if child.done is not None)
    if not nodes:
        return None
    hashes, chains = ({getattr(node, name) for node in nodes} for name in ("model_sha256", "chain"))
    agreed = len(nodes) == len(children) and len(hashes) == len(chains) == 1
    return DemoDoneLine(
        status=_status_word(nodes, status),
        name="demo",
        round=min(node.round for node in nodes),
        accuracy=nodes[0].accuracy if agreed else None,
        model_sha256=nodes[0].model_sha256 if agreed else None,
        chain=nodes[0].chain if agreed else None,
        bytes_sent=sum(node.bytes_sent for node in nodes),
        bytes_received=sum(node.bytes_received for node in nodes),
        seconds=max(node.seconds for node in nodes),
        traffic=sum((node.traffic for node in nodes), Traffic()),
        widths=nodes[0].widths if agreed else {},
        served=nodes[0].served if agreed else None,
        nodes=nodes,
        alone_accuracy=comparisons.alone_accuracy if comparisons else None,
        small_accuracy=comparisons.small_accuracy if comparisons else None,
        full_accuracy=comparisons.full_accuracy if comparisons else None,
    )


def _status_word(nodes: Sequence[DoneLine], status: int) -> Status:
    if status == 0:
        return "ok"
    return next((node.status for node in nodes if node.status != "ok"), "failed")


def mean_share(children: Sequence[Child]) -> float | None:
    """Of the run's model, that a node trained in a round; None if nobody reported any."""
    shares = [share for child in children for share in child.shares]
    return sum(shares) / len(shares) if shares else None


def report(line: DemoDoneLine, share: float | None) -> list[str]:
    """What a person reads at the end; `share`: of the model, that a node trained."""
    from p2pfusion.app.words import clock, enumeration, percent, shares, split

    names = enumeration([node.name for node in line.nodes])
    traffic = f"sent {split(line.traffic, 'sent')}"
    part = f"its own 1/{len(line.nodes)} of the data"
    trained = f"{percent(share)} of the model at a time"
    widths = [f"           by width: {shares(line.widths)}"] if line.widths else []
    return [
        f"{names} hold the same model, bit for bit: {line.model_sha256}",
        f"{line.round} rounds in {clock(line.seconds)}, {traffic}. Accuracy on unseen images:",
        f"  {percent(line.accuracy):>7}  this swarm: each node trained {trained}, on {part}",
        *widths,
        f"  {percent(line.alone_accuracy):>7}  one node alone: the full model on {part}",
        f"  {percent(line.small_accuracy):>7}  everybody training the small model, as wide as a slice",
        f"  {percent(line.full_accuracy):>7}  everybody training the full model",
        "Next: run `p2pfusion join` here and on a second computer.",
    ]

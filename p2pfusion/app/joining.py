"""`p2pfusion join`: from options to a node on the LAN, and from how it ended to an exit status.

Everything that takes long to import is imported after the first line was written, so that nobody looks at a silent
terminal. Protocol, training and files are other packages' business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfusion import __version__
from p2pfusion.app.interrupts import HARD_EXIT_STATUS, terminate_like_interrupt
from p2pfusion.app.join_options import JoinOptions, numeric_address, part_of
from p2pfusion.app.moments import mark
from p2pfusion.app.values import Until
from p2pfusion.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from p2pfusion.app.live import View
    from p2pfusion.app.output import DoneLine
    from p2pfusion.app.session import Session
    from p2pfusion.core.task import Prepared
    from p2pfusion.node import Node

EXIT_TIMEOUT = 8
_HINT = (
    "nobody else found yet: start `p2pfusion join` on another computer of this network,"
    " or give its address here with --peer HOST:PORT"
)


def run_join(options: JoinOptions) -> int:
    """Join, train, leave; returns the exit status. Raises `P2PFusionError`."""
    from p2pfusion.app.live import choose_view

    terminate_like_interrupt()
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    view = choose_view(
        (sys.stdout, sys.stderr),
        os.environ,
        json=options.json,
        quiet=options.quiet,
        plain=options.verbose,
        tagged=False,
    )
    try:
        view.note(f"p2pfusion {__version__}: join {options.task}, swarm {options.swarm}; starting torch ...")
        from p2pfusion.net.device import require

        mark("imports")
        import torch  # noqa: F401 - named apart in the moments: nothing else takes so long

        from p2pfusion.algorithms.presets import check_live, is_chained

        require(options.device)
        check_live(options.algorithm)
        mark("task")
        is_in_pieces = (
            options.role != "owner" or options.memory is not None or options.micro_batches > 1 or options.keeps_all
        )
        if not is_chained(options.algorithm) and is_in_pieces:
            raise UsageError(
                "--role, --memory, --micro-batches and --keep-all are for a model in pieces: add --algorithm mp_sl"
            )
        if is_chained(options.algorithm):
            from p2pfusion.app.chaining import chained, join_chain

            pieces = chained(options, view)
            mark("node")
            line = asyncio.run(join_chain(options, pieces, view))
        else:
            prepared = _prepared(options)
            mark("node")
            line = asyncio.run(_join(options, prepared, view))
    except KeyboardInterrupt:
        return exit_status(None, options.until)
    finally:
        view.close()
    if line is not None:
        view.note(farewell(line))
    return exit_status(line, options.until)


def _prepared(options: JoinOptions) -> Prepared:
    from p2pfusion.app.tasks import find_task
    from p2pfusion.core.task import prepare

    return prepare(find_task(options.task, options.seed), options.seed, part_of(options))


async def _join(options: JoinOptions, prepared: Prepared, view: View) -> DoneLine | None:
    from p2pfusion.algorithms.presets import Terms
    from p2pfusion.app.placing import explained
    from p2pfusion.app.session import Session, follow
    from p2pfusion.app.states import chosen, forget
    from p2pfusion.net.lan import lan_node
    from p2pfusion.net.settling import settle

    peers = tuple(numeric_address(address, "--peer") for address in options.peers)
    listen = numeric_address(options.listen, "--listen")
    with chosen(options.swarm, options.name, options.state) as (name, folder):
        if options.fresh:
            forget(folder)
        goal = options.until or Until()
        view.note(f"you are {name}; state is kept in {folder}; Ctrl-C leaves")
        terms = Terms(common_rate=options.common, outer_momentum=options.momentum)
        settled = await settle(prepared, options.algorithm, device=options.device, rate=options.rate, terms=terms)
        context = lan_node(
            prepared,
            swarm=options.swarm,
            name=name,
            algorithm=options.algorithm,
            common=options.common,
            outer_momentum=options.momentum,
            listen=listen,
            state=folder,
            seed=options.seed,
            device=settled,
            min_peers=options.min_peers,
            wait_s=options.wait,
            until_rounds=goal.rounds,
            until_accuracy=goal.accuracy,
            timeout_s=options.timeout,
            peers=peers,
            gossip=options.gossip,
            codec=options.codec,
            codec_density=options.density,
            budget_bytes_per_h=options.budget,
            limit_bytes_per_s=options.limit_rate,
        )
        if (words := explained(settled)) is not None:
            view.note(words)
        session = Session(name, prepared.blueprint, view, _HINT)
        telling = _measured(_telling(context, folder, goal, session), options.metrics, view)
        return await follow(telling, session, leave_on_eof=options.leave_on_eof)


@asynccontextmanager
async def _measured(context: AbstractAsyncContextManager[Node], port: int | None, view: View) -> AsyncIterator[Node]:
    """The node, with its metrics served on this computer if asked for. Raises `PortError`."""
    async with context as node:
        if port is None:
            yield node
            return
        from p2pfusion.app.metrics import CONTENT_TYPE, measuring
        from p2pfusion.net.local_http import LocalPage

        async with measuring(node) as metrics, LocalPage(port, "/metrics", CONTENT_TYPE, metrics.text) as page:
            view.note(f"metrics at {page.url}")
            yield node


@asynccontextmanager
async def _telling(
    context: AbstractAsyncContextManager[Node], folder: Path, goal: Until, session: Session
) -> AsyncIterator[Node]:
    """The node, after one line on what it goes on from, if its folder was not empty."""
    from p2pfusion.app.states import resumption
    from p2pfusion.store.folder import saved_runs, set_aside

    saved, before = saved_runs(folder), _names(folder)
    async with context as node:
        session.blueprint = node.state.blueprint  # the run's, which the algorithm may make of the task's
        damaged = [name for name in set_aside(folder) if name.removesuffix(".damaged") in before]
        if (words := resumption(node.resumed_round, node.state.run_id, saved, goal, damaged)) is not None:
            session.view.note(words)
        yield node


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.glob("checkpoint-*.safetensors"))


def exit_status(line: DoneLine | None, until: Until | None) -> int:
    """What PROTOCOL.md 11 says of this end; an open-ended run may end at any time."""
    status = "interrupted" if line is None else line.status
    match status:
        case "interrupted":
            return 0 if until is None else HARD_EXIT_STATUS
        case "timeout":
            return 0 if until is None else EXIT_TIMEOUT
        case "failed":
            return TrainingError.exit_status
    return 0


def farewell(line: DoneLine) -> str:
    """One sentence at the end."""
    from p2pfusion.app.words import clock, percent, shares, split

    words = [f"{line.name}: {line.status} at round {line.round} after {clock(line.seconds)}"]
    if line.accuracy is not None:
        words.append(f"accuracy {percent(line.accuracy)}")
    if line.widths:
        words[-1] += f" with width {line.served} ({shares(line.widths)})"
    if line.model_sha256:
        words.append(f"model {line.model_sha256[:16]}")
    words.append(f"sent {split(line.traffic, 'sent')}; received {split(line.traffic, 'received')}")
    return ", ".join(words)

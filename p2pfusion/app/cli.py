"""`p2pfusion`: options, help, and what becomes of an error. Nothing else.

Every command body imports its own module, so that `--help` needs neither torch nor the network. A `P2PFusionError` is
one clear line on stderr and its exit status (PROTOCOL.md 11); whatever else escapes is our bug and says so, with a
traceback under `-v` only. This module does not know what the commands do.

Exit statuses: 0 done, or Ctrl-C of an open-ended join; 1 our bug; 2 usage; 3 task or configuration; 4 fewer than
--min-peers within --wait; 5 refused by the swarm; 6 port or interface; 7 training failed; 8 --until not reached in
--timeout; 130 Ctrl-C before --until was reached.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from p2pfusion import __version__
from p2pfusion.app import values
from p2pfusion.app.moments import mark
from p2pfusion.app.shared_options import (
    AGREED,
    CHAINED,
    FOLDER,
    MICRO_BATCHES,
    SENDING,
    SLICE_HELP,
    SPEECH,
    TRAINING,
    together,
)
from p2pfusion.errors import P2PFusionError, UsageError

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, what a shell reports of a program whose reader has gone."""

_COMPLETION = "_P2PFUSION_COMPLETE"
"""Set by a shell that asks click what could be typed next."""

Command = Callable[..., Any]
_EPILOG = """\b
Exit status: 0 ok, 1 our bug, 2 usage, 3 task or configuration, 4 too few peers,
5 refused by the swarm, 6 port or interface, 7 training failed, 8 timeout,
130 interrupted."""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="p2pfusion")
def commands() -> None:
    """Train one neural network together on one LAN, without a server.

    \b
    p2pfusion demo                  three nodes on this computer learn digits
    p2pfusion join                  join or start a swarm on this LAN
    p2pfusion new my_task.py        write a task file of your own, with comments
    p2pfusion join my_task.py       the same with your own model and data
    """


@commands.command(short_help="Three nodes on this computer learn digits.")
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True, help="How many processes.")
@click.option("--rounds", type=click.IntRange(1, 100_000), default=None, metavar="N", help="When to end.")
@TRAINING
@SPEECH
def demo(**options: Any) -> int:
    """Three nodes on this computer find each other and learn digits; then honest comparisons."""
    from p2pfusion.app.demo import DemoOptions, run_demo

    return run_demo(DemoOptions(**options))


@commands.command(short_help="Join or start a swarm on this LAN and train.")
@click.argument("task", default="digits", metavar="[TASK.py|NAME[:DIR]]")
@together(
    click.option("--swarm", type=values.SWARM, default="p2pfusion", show_default=True, help="Which swarm."),
    click.option("--name", type=values.NAME, default=None, help="Of this node.  [default: a free animal]"),
    click.option("--until", type=values.UNTIL, default=None, help="When to end.  [default: Ctrl-C]"),
    click.option("--timeout", type=values.DURATION, default=None, help="Give up after so long, such as 120s."),
    click.option("--wait", type=values.DURATION, default=None, help="Wait at most so long for --min-peers."),
    click.option("--min-peers", type=click.IntRange(1, 1024), default=1, show_default=True,
                 help="Train when so many are here, this node included."),
    click.option("--peer", "peers", type=values.ADDRESS, multiple=True, help="Call this address as well."),
    click.option("--listen", type=values.ADDRESS, default="0.0.0.0:0", show_default=True, help="Where to listen."),
    click.option("--data-part", type=values.PART, default=None, help="Train on part I of N of the data, I from 0."),
    click.option("--state", type=FOLDER, help="Folder of this node.  [default: the platform's state folder]"),
    click.option("--fresh", is_flag=True, help="Forget what this node saved before."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True,
                 help="Where to train; auto: a GPU if there is one and it is faster."),
    click.option("--limit-rate", type=values.LIMIT_RATE, default=None,
                 help="Send and receive at most so fast, such as 2MB/s."),
    click.option("--budget", type=values.BUDGET, default=None,
                 help="Choose a codec that keeps within so much traffic, such as 50MB/h."),
    click.option("--metrics", type=click.IntRange(0, 65535), default=None, metavar="PORT",
                 help="Serve Prometheus metrics on 127.0.0.1; 0: a free port."),
    click.option("--quiet-period", type=values.DURATION, default=None, hidden=True,
                 help="Begin when nobody new came for so long."),
    click.option("--leave-on-eof", is_flag=True, hidden=True, help="Leave when standard input ends."),
)  # fmt: skip
@SENDING
@click.option("--slice", "rate", type=values.RATE_OR_AUTO, default="50%", show_default=True,
              help=f"{SLICE_HELP}; auto: as much as this device can, measured for half a second.")  # fmt: skip
@CHAINED
@AGREED
@SPEECH
def join(**options: Any) -> int:
    """Join or start a swarm on this LAN and train until --until, --timeout or Ctrl-C.

    TASK is a file of your own (see `p2pfusion new`), digits, or the name of a data set in a folder of yours:
    fashion:DIR, mnist:DIR, cifar10:DIR, shakespeare:DIR, speakers:DIR or wikitext2:DIR.
    """
    from p2pfusion.app.join_options import JoinOptions
    from p2pfusion.app.joining import run_join

    given = click.get_current_context().get_parameter_source("density")
    if given is ParameterSource.COMMANDLINE and options["codec"] not in ("topk", "stc"):
        raise click.UsageError(f"--density is for --codec topk or stc; --codec {options['codec']} has none")
    return run_join(JoinOptions(**options))


@commands.command(short_help="Write a commented task file of your own.")
@click.argument("file", metavar="[FILE.py]", default="my_task.py", type=click.Path(dir_okay=False, path_type=Path))
@SPEECH
def new(**options: Any) -> int:
    """Write a commented task file, my_task.py by default, that works as it is; nothing is overwritten."""
    from p2pfusion.app.new_task import NewOptions, run_new

    return run_new(NewOptions(**options))


@commands.command(short_help="Say what would be sliced or refused; no network.")
@click.argument("task", metavar="TASK.py")
@SENDING
@TRAINING
@SPEECH
def check(**options: Any) -> int:
    """Say what would be sliced or refused and what a slice costs; no network."""
    from p2pfusion.app.checking import CheckOptions, run_check

    return run_check(CheckOptions(**options))


@commands.command(short_help="Say who would hold what in a chain of peers; no network.")
@click.argument("task", metavar="[TASK.py]", required=False)
@together(
    click.option("--relay", "relay", multiple=True, metavar="SPEED,MEMORY,LINK",
                 help="A device that could hold a part, such as 2x,4GB,100Mbit/s; once for each."),
    click.option("--relays", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file of [[relay]] tables."),
    click.option("--owners", type=click.IntRange(1, 1024), default=1, show_default=True,
                 help="How many devices bring data."),
    click.option("--owner", default="1x", show_default=True, metavar="SPEED,MEMORY,LINK",
                 help="What such a device is like."),
    click.option("--first", type=click.IntRange(1, 1024), default=1, show_default=True,
                 help="Blocks that stay with the owner in front."),
    click.option("--last", type=click.IntRange(1, 1024), default=1, show_default=True, help="The same at the end."),
    click.option("--batches", type=click.IntRange(1, 1_000_000), default=None, metavar="N",
                 help="Of each owner in a round.  [default: the task's, else 1]"),
    MICRO_BATCHES,
    click.option("--everybody", is_flag=True, help="Give every relay a part, also one that slows the chain down."),
    click.option("--paper", is_flag=True, help="Count as MP-SL's paper does (docs/plan.md)."),
    click.option("--profile", type=click.Path(dir_okay=False, path_type=Path),
                 help="Read what blocks take from this file instead of measuring."),
    click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write what was measured there."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the task."),
)  # fmt: skip
@SPEECH
def plan(**options: Any) -> int:
    """Say who would hold which blocks of a model that is trained across a chain of peers, and how long a round takes.

    Speeds are relative to the computer that was measured, as a rule this one: 2x is twice as fast.
    """
    from p2pfusion.app.planning import PlanOptions, run_plan

    return run_plan(PlanOptions(**options))


@commands.command(short_help="Write the model of a run.")
@click.argument("file", metavar="FILE.safetensors", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--width", default="auto", show_default=True, metavar="auto|RATE|NAME",
              help="Which of the networks in the model; auto: the best when it was measured last.")  # fmt: skip
@click.option("--exit", default="auto", show_default=True, metavar="auto|K",
              help="Of a model with exits, the network that ends at the Kth; 1 is the smallest.")  # fmt: skip
@click.option("--state", type=FOLDER, help="Folder of a node.  [default: the newest]")
@click.option("--swarm", type=values.SWARM, help="The newest of this swarm.  [default: of all]")
@SPEECH
def export(**options: Any) -> int:
    """Write the model of a run's newest checkpoint; of a model with several networks, the best."""
    from p2pfusion.app.exporting import ExportOptions, run_export

    return run_export(ExportOptions(**options))


@commands.command(short_help="Run many nodes in virtual time.")
@click.argument("name", metavar="NAME|FILE.toml|replay")
@click.argument("file", metavar="[TRACE.jsonl]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@together(
    click.option("--nodes", type=values.listed("n", values.parse_count(1, 256)), help="How many."),
    click.option("--rounds", type=values.listed("n", values.parse_count(1, 100_000)), help="When to end."),
    click.option("--half-life", type=values.listed("duration", values.parse_half_life),
                 help="Of nodes, until they crash; inf: none does."),
    click.option("--slow", type=values.listed("factor", values.parse_factor), help="How many times as slow node 0 is."),
    click.option("--apart", type=values.listed("duration", values.parse_latency), help="How long partitions last."),
    click.option("--loss", type=values.listed("share", values.parse_share), help="Of messages that get lost."),
    click.option("--latency", type=values.listed("duration", values.parse_latency), help="One way."),
    click.option("--bandwidth", type=values.listed("bandwidth", values.parse_bandwidth), help="Of a link."),
    click.option("--slice", "rate", type=values.listed("rate", values.parse_rate), help="What one node trains."),
    click.option("--algorithm", type=values.listed("name", values.parse_word), help="How slices are chosen."),
    click.option("--common", type=values.listed("rate", values.parse_rate), help="The width that all can train."),
    click.option("--outer-momentum", "momentum", type=values.listed("share", values.parse_momentum),
                 help="How much of its last movement a round repeats."),
    click.option("--task", type=values.listed("name", values.parse_word),
                 help="digits, light (synthetic, costs nothing) or a TASK.py."),
    click.option("--seed", type=values.FIRST_SEED, help="The first seed."),
    click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Runs of each."),
    click.option("--out", type=FOLDER, help="Write CSV, figure and traces there."),
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="Where the runs are done."),
    click.option("--jobs", type=click.IntRange(1, 256), help="Processes at once.  [default: one per core]"),
)  # fmt: skip
@SPEECH
def simulate(**options: Any) -> int:
    """Run many nodes in virtual time, reproducible from one seed.

    NAME: churn, latency, partition, scale or stragglers; options left out are as it says. Several values between
    commas are a sweep: every combination is run under every seed.

    \b
    p2pfusion simulate churn --half-life 10s,30s,inf --seeds 3 --out churn/
    p2pfusion simulate replay churn/trace-30s-seed1.jsonl
    """
    from p2pfusion.app.orders import SimulateOptions
    from p2pfusion.app.simulating import run_simulate

    return run_simulate(SimulateOptions(**options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; never raises."""
    mark("command")
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    verbose: list[bool] = []
    try:
        if _COMPLETION in os.environ:
            commands.main(words, prog_name="p2pfusion")
        # Not main(): it would answer Ctrl-C and a closed pipe in click's way, not ours.
        with commands.make_context("p2pfusion", words, obj=verbose) as context:
            status = commands.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        return _status_of(error, verbose=any(verbose))
    return status if isinstance(status, int) else 0


def _status_of(error: BaseException, *, verbose: bool) -> int:
    """Say what went wrong in one line and return the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            return _complain(_usage_words(error), UsageError.exit_status)
        case P2PFusionError():
            return _complain(str(error), error.exit_status)
        case BrokenPipeError():
            return _hang_up()
        case KeyboardInterrupt() | click.exceptions.Abort():
            return EXIT_INTERRUPTED
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case BaseExceptionGroup():
            # Only the first: the others are as a rule its consequences.
            return _status_of(error.exceptions[0], verbose=verbose)
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return _complain(f"this is our bug: {what} (please report it, with what -v shows)", 1)


def _complain(text: str, status: int) -> int:
    click.echo(f"error: {text}", err=True)
    return status


def _usage_words(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "p2pfusion"
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"{text} (see {path} --help)"


def _hang_up() -> int:
    """Nobody reads stdout any more: keep the interpreter from complaining about it once again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE

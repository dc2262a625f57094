"""All benches, in the order in which `bench.run` runs them: command, time limit, and what the figures should be.

A bench prints lines of JSON on standard output; `bench.run` keeps them and `bench.report` makes a table of them. To add
one, add a row. Goals are those of the issue that asked for speed; their paths name fields of a bench's first line.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.cohort import ROOT
from bench.tables import Goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One bench. `command` follows the Python: a script's path, or `-m` and a module, then options."""

    name: str
    title: str
    command: tuple[str, ...]
    limit_s: float = 600.0
    goals: tuple[Goal, ...] = ()
    note: str = ""
    """What a reader of its table must know, above all where the time goes when a goal is missed."""
    is_peer: bool = False
    """It needs the environments of `bench.peers.environments`."""

    @property
    def exists(self) -> bool:
        """Whether there is such a program."""
        if self.command[0] == "-m":
            return (ROOT / self.command[1].replace(".", "/")).with_suffix(".py").exists()
        return (ROOT / self.command[0]).exists()


def codec_goals(when: str) -> tuple[Goal, ...]:
    """Encode and decode together, GB/s of float32 per core."""
    return (
        Goal(f"int8, encode and decode{when}, GB/s per core", "rows.int8.both_gb_per_s", "at least", 1.0),
        Goal(f"top-k of 1 %, the same{when}, GB/s per core", "rows.topk 1 %.both_gb_per_s", "at least", 0.3),
    )


TRANSPORT_NOTE = """\
Missed, and why: for 64 MiB ours takes 98 ms of processor time at both ends together, the plain body 40. Of it the
client's loop takes 27 to 34 ms (plain 26), the server 25 (plain 14: aiohttp's 0.2 ms for each of 64 requests), the
gate 17 (BLAKE3 12, the sum of squares 2.5; the plain body is neither hashed nor judged). Three threads of two
processes share two cores, so even perfect sharing could not come below 49 ms where the plain body takes 21 on a calm
machine. On a busy machine the ratio was 0.4 to 0.68; before this work 0.31. Tried without gain: receive buffers of 64
to 256 KiB; 1, 2 or 8 connections a peer. What would help: several segments in one answer, or larger ones. Both change
the protocol."""


OVERLAP_NOTE = """\
The executor trains 99 % of the time; without training ahead it was 77 % (8 rounds, three seeds). The accuracy is NOT
equal yet after 20 rounds of 8 steps: 93.6 to 95.3 % on the slow link, 94.2 to 97.2 % on the free one; the ranges
overlap, but each seed ends 0.6 to 2.5 points lower, about what a round or two of staleness costs while learning is
still fast. Longer runs were not made."""


SLICE_COST_NOTE = """\
One training step, one thread, SGD with momentum, double shift's window. `time_share` stands beside `flops_share`, its
limit; `peak_share` (resident memory of a fresh process, parameters to scratch space) beside `counted_share`
(parameters, gradients, momentum and what autograd keeps, whose sum need not all be alive at once)."""

FOOTPRINT_NOTE = """\
MB are 10^6 bytes. `replica` is the same whatever slice a device trains, `training` is in a fresh process for each rate:
`sum_mb` by arithmetic and by counting what autograd keeps, `peak_mb` measured. docs/choosing.md says what follows."""


def learning_goals(data: str) -> tuple[Goal, ...]:
    """Of the best row that ends at most half a point below our own float32."""
    return (
        Goal(
            f"{data}: bytes of fp32 FedAvg over ours, to one accuracy", "best.times_fewer_than_fedavg", "at least", 20
        ),
        Goal(f"{data}: bytes of our fp32 slices over ours", "best.times_fewer_than_own_fp32", "at least", 4),
    )


BENCHES = (
    Bench(
        name="averaging_ours",
        title="Averaging, without other projects",
        command=("-m", "bench.averaging", "--name", "averaging_ours", "--systems", "ours", "gloo", "limits"),
        limit_s=1200,
    ),
    Bench(
        name="averaging",
        title="Averaging, beside hivemind and gloo",
        command=("-m", "bench.averaging"),
        limit_s=2400,
        is_peer=True,
    ),
    Bench(
        name="averaging8",
        title="Averaging among eight, more than two cores can serve fairly",
        command=(
            *("-m", "bench.averaging", "--name", "averaging8", "--peers", "8", "--millions", "10", "--repeats", "3"),
            *("--settings", "fp32/1", "fp32/0.5", "int8/1", "int8/0.5", "none/0.5", "uniform8/0.5", "fp32", "stream"),
        ),
        limit_s=900,
        is_peer=True,
    ),
    Bench(
        name="rounds",
        title="Rounds of a null model, beside hivemind, Flower and p2pfl",
        command=("-m", "bench.rounds"),
        limit_s=1500,
        is_peer=True,
    ),
    Bench(name="codecs", title="Codecs", command=("bench/codecs.py",), goals=codec_goals("")),
    Bench(
        name="codecs_busy",
        title="Codecs while another process keeps both cores busy",
        command=("bench/codecs.py", "--busy", "2"),
        goals=codec_goals(" while both cores are busy"),
    ),
    Bench(name="codecs_feedback", title="Bytes to the same error", command=("bench/codecs.py", "--feedback")),
    Bench(
        name="fold",
        title="Folding",
        command=("bench/fold.py",),
        goals=(
            Goal("fold of 50 M parameters from 4, times reading and writing once", "whole.to_memory", "at most", 3.0),
        ),
    ),
    Bench(
        name="transport",
        title="Segments over loopback",
        command=("-m", "bench.transport"),
        note=TRANSPORT_NOTE,
        goals=(
            Goal("64 MiB in segments, speed over that of one plain body", "contribution.ratio", "at least", 0.8),
            Goal("event loop's lag meanwhile, p99, ms", "contribution.lag_ms.client.p99", "at most", 50.0),
        ),
    ),
    Bench(
        name="idle",
        title="A swarm that does nothing",
        command=("bench/idle.py",),
        goals=(
            Goal("idle, bytes sent per second and node", "trees.this tree.sent_bytes_per_s", "at most", 1024),
            Goal("idle, bytes received per second and node", "trees.this tree.received_bytes_per_s", "at most", 1024),
            Goal("idle, per cent of a core per node", "trees.this tree.cpu_percent", "at most", 1.0),
        ),
    ),
    Bench(
        name="learning_digits",
        title="Learning per byte: digits",
        command=("-m", "bench.learning"),
        limit_s=3600,
        goals=learning_goals("digits"),
    ),
    Bench(
        name="learning_fashion",
        title="Learning per byte: Fashion-MNIST",
        command=(
            *("-m", "bench.learning", "--data", "fashion", "--rounds", "40"),
            *("--only", "0.5/fp32", "0.25/fp32", "0.5/int8", "0.5/stc/0.05", "0.25/stc/0.05"),
        ),
        limit_s=3600,
        goals=learning_goals("Fashion-MNIST"),
    ),
    Bench(
        name="overlap",
        title="The executor trains all the time",
        command=("-m", "bench.overlap", "--rounds", "20"),
        note=OVERLAP_NOTE,
        limit_s=3600,
        goals=(
            Goal("20 Mbit/s, 11 M parameters: share of the time the executor trains", "slow_busy", "at least", 0.9),
        ),
    ),
    Bench(name="startup", title="From the command to the first training step", command=("bench/startup.py",)),
    Bench(name="codec_cost", title="Encoding and decoding messages", command=("bench/codec_cost.py",)),
    Bench(
        name="slice_cost",
        title="What a slice costs",
        command=("bench/slice_cost.py",),
        limit_s=1800,
        note=SLICE_COST_NOTE,
    ),
    Bench(
        name="footprint",
        title="What fits on a device",
        command=("-m", "bench.footprint"),
        limit_s=900,
        note=FOOTPRINT_NOTE,
    ),
    Bench(name="sim_loop", title="The simulator's loop", command=("bench/sim_loop.py",)),
    Bench(name="sim_scale", title="The simulator with many nodes", command=("bench/sim_scale.py",)),
    Bench(name="bias", title="Who is slow, and whose data the model learns", command=("bench/bias.py",)),
)

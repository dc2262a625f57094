"""`p2pfusion simulate`: many nodes in virtual time, swept over lists of values; the same seed, the same trace.

Options become orders through the knobs of `lab`, engines do the runs, and here is said and written what came out. How
virtual time passes is `sim`'s business; which scenarios there are, `sim.loading`'s.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from p2pfusion.app.interrupts import terminate_like_interrupt
from p2pfusion.app.words import percent
from p2pfusion.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from p2pfusion.app.progress import Meter
    from p2pfusion.lab.engines import Say
    from p2pfusion.lab.knobs import Order, Value
    from p2pfusion.lab.results import Simulated
    from p2pfusion.lab.writing import Folder
    from p2pfusion.sim.world import Learner

EXIT_BAD = 1
"""A run ended without agreement, or broke an invariant."""
PIPE_COLUMNS = 160
"""Width of a table that no terminal limits."""
REPLAY = "replay"
LIGHT = "light"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What `simulate` was called with; units as `values` parses them.

    What carries the name of a knob of `lab.knobs` is None (as the scenario says) or the values to be run with.
    """

    name: str
    file: Path | None = None
    nodes: tuple[int, ...] | None = None
    rounds: tuple[int, ...] | None = None
    rate: tuple[float, ...] | None = None
    task: tuple[str, ...] | None = None
    algorithm: tuple[str, ...] | None = None
    loss: tuple[float, ...] | None = None
    latency: tuple[float, ...] | None = None
    bandwidth: tuple[float, ...] | None = None
    half_life: tuple[float, ...] | None = None
    slow: tuple[float, ...] | None = None
    apart: tuple[float, ...] | None = None
    seed: tuple[int, ...] | None = None
    seeds: int = 1
    out: Path | None = None
    engine: Literal["local", "ray"] = "local"
    jobs: int | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False


def chosen_by(options: SimulateOptions) -> dict[str, tuple[Value, ...]]:
    """The knobs that the options turn."""
    from p2pfusion.lab.knobs import KNOBS

    return {name: values for name in KNOBS if (values := getattr(options, name)) is not None}


def orders_of(options: SimulateOptions) -> tuple[Order, ...]:
    """The runs that the options ask for. Raises `UsageError`, `ConfigError`: before anything is done."""
    from p2pfusion.lab.knobs import order_of
    from p2pfusion.lab.sweeps import expand
    from p2pfusion.sim.loading import load, named, names

    if options.file is not None:
        raise UsageError("a second name goes with replay only: p2pfusion simulate replay TRACE.jsonl")
    if options.name.endswith(".toml"):
        scenario = load(Path(options.name))
    elif options.name in names():
        scenario = named(options.name)
    else:
        raise UsageError(
            f"no scenario is named {options.name!r}: choose one of {', '.join(names())}, or give a file that ends "
            "in .toml"
        )
    return expand(order_of(scenario), chosen_by(options), options.seeds)


def command_of(options: SimulateOptions) -> str:
    """The command line that asks for the same runs."""
    from p2pfusion.lab.knobs import KNOBS

    words = ["p2pfusion", "simulate", options.name]
    for name, values in chosen_by(options).items():
        option = "slice" if name == "rate" else name.replace("_", "-")
        words += [f"--{option}", ",".join(map(KNOBS[name].text, values))]
    words += ["--seeds", str(options.seeds)] if options.seeds != 1 else []
    words += ["--engine", options.engine] if options.engine != "local" else []
    words += ["--out", str(options.out)] if options.out is not None else []
    return shlex.join(words)


def run_simulate(options: SimulateOptions) -> int:
    """Do the runs, or replay one; returns 0 if in every run all nodes agreed and no invariant was violated."""
    from p2pfusion.app.progress import choose_meter

    terminate_like_interrupt()
    with closing(choose_meter(os.environ, quiet=options.quiet)) as meter:
        if options.name == REPLAY:
            from p2pfusion.app.replaying import run_replay

            return run_replay(options, meter)
        return _sweep(options, meter)


def _sweep(options: SimulateOptions, meter: Meter) -> int:
    from p2pfusion.lab.traces import result_of
    from p2pfusion.lab.writing import Folder, trace_names

    orders = orders_of(options)
    folder = None if options.out is None else Folder(options.out)
    names = trace_names(orders)
    meter.start([order.scenario.rounds for order in orders])
    rows: list[Simulated] = []
    with closing(_in_order(_results(options, orders, meter), meter)) as traces:
        for number, trace in enumerate(traces):
            rows.append(result_of(trace))
            if folder is not None:
                folder.write(names[number], trace)
            say_run(options, rows[-1])
    meter.close()
    if len(rows) > 1 and not options.json and not options.quiet:
        _print_table(rows)
    if folder is not None:
        _write(options, orders, rows, folder, meter)
    return 0 if all(row.is_good for row in rows) else EXIT_BAD


def _results(options: SimulateOptions, orders: Sequence[Order], meter: Meter) -> Generator[tuple[int, str], None, None]:
    """(number, trace) as runs finish."""
    from p2pfusion.lab import engines
    from p2pfusion.lab.traces import order_text

    texts = [order_text(order) for order in orders]
    if options.engine == "ray":
        return engines.on_ray(texts, work, meter.told, engines.find_ray())
    return engines.local(texts, work, meter.told, options.jobs or engines.default_jobs(len(texts)))


def _in_order(results: Generator[tuple[int, str], None, None], meter: Meter) -> Generator[str, None, None]:
    """The traces by their number, each as soon as all before it are there; closing this closes `results`."""
    early: dict[int, str] = {}
    count = 0
    with closing(results):
        for number, trace in results:
            meter.finished(number)
            early[number] = trace
            while count in early:
                yield early.pop(count)
                count += 1


def work(text: str, say: Say) -> str:
    """One run, wherever an engine does it: order -> trace. Raises what `lab.traces.perform` raises."""
    from p2pfusion.lab.traces import order_from, perform

    return perform(order_from(text), learner_of, say)


def learner_of(order: Order) -> Learner:
    """What each node learns: the task on its part of the data, or next to nothing. Raises `TaskError`, `UsageError`."""
    scenario = order.scenario
    if scenario.learns == LIGHT:
        from p2pfusion.sim.light import light_learner

        return light_learner() if scenario.round_cost_s is None else light_learner(cost_s=scenario.round_cost_s)
    from p2pfusion.algorithms.presets import algorithm
    from p2pfusion.algorithms.sliced import Sliced
    from p2pfusion.app.tasks import find_task
    from p2pfusion.core.task import prepare

    run_seed = scenario.run.seed
    task = find_task(order.task, run_seed)

    def learner(index: int) -> Sliced:
        prepared = prepare(task, run_seed, (index, scenario.nodes))
        made = algorithm(order.algorithm, prepared, seed=index)
        if scenario.round_cost_s is not None:
            made.step_cost_s = scenario.round_cost_s / prepared.steps_per_round
        return made

    return learner


def say_run(options: SimulateOptions, row: Simulated) -> None:
    """One run: an object for scripts, a line for people, nothing with -q."""
    from p2pfusion.app.output import VERSION
    from p2pfusion.lab.results import row_json
    from p2pfusion.lab.sweeps import setting_texts

    if options.json:
        value = {"v": VERSION, "event": "simulated", **row_json(row)}
        sys.stdout.write(json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n")
    elif not options.quiet:
        varied = "".join(f"{text}, " for text in setting_texts(row.settings).values())
        sys.stdout.write(f"{varied}seed {row.seed}: {_run_words(row)}\n")
    sys.stdout.flush()


def _run_words(row: Simulated) -> str:
    if row.failure is not None:
        return f"FAILED: {row.failure}"
    end = f"all agree on {row.model_sha256[:16]}" if row.model_sha256 else "the nodes DISAGREE"
    return (
        f"{row.nodes} nodes, {row.rounds} rounds in {row.virtual_s or 0:.1f} virtual s, "
        f"accuracy {percent(row.accuracy)}, {end}, trace {(row.trace_hash or '-')[:16]}"
    )


def _print_table(rows: Sequence[Simulated]) -> None:
    """Without the ranges where the terminal is too narrow for them."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    table = _table(rows, has_range=True)
    if console.measure(table, options=console.options.update_width(PIPE_COLUMNS)).minimum > console.width:
        table = _table(rows, has_range=False)
    console.print(table)


def _table(rows: Sequence[Simulated], *, has_range: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from p2pfusion.lab.tables import headings, table_rows

    caption = "mean over the seeds" + (" (least-greatest)" if has_range else "")
    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    lines = table_rows(rows, has_range=has_range)
    for name, *cells in zip(headings(rows), *lines, strict=True):
        # Headings wrap between words, numbers nowhere.
        width = max(len(text) for text in [*name.split(), *cells])
        table.add_column(name, justify="right", min_width=width)
    for cells in lines:
        table.add_row(*cells)
    return table


def _write(
    options: SimulateOptions, orders: Sequence[Order], rows: Sequence[Simulated], folder: Folder, meter: Meter
) -> None:
    """Everything besides the traces, which are there already."""
    from p2pfusion.lab.sweeps import swept
    from p2pfusion.lab.traces import versions
    from p2pfusion.lab.writing import NO_FIGURE, readme, title_of, trace_names

    traces, title = trace_names(orders), title_of(orders)
    folder.write_csv(rows, swept(chosen_by(options)))
    has_figure = folder.write_figure(rows, title, traces)
    text = readme(
        rows, title=title, command=command_of(options), versions=versions(), traces=traces, has_figure=has_figure
    )
    folder.write("README.md", text)
    if not has_figure:
        meter.note(NO_FIGURE)
    if not options.quiet:
        meter.note(f"wrote {folder.path}")

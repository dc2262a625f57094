"""`p2pfusion simulate`: many nodes in virtual time, swept over lists of values; the same seed, the same trace.

Options become orders through the knobs of `lab`, engines do the runs, and here is said and written what came out. How
virtual time passes is `sim`'s business; which scenarios there are, `sim.loading`'s.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfusion.app.interrupts import HARD_EXIT_STATUS, interrupted_once
from p2pfusion.app.orders import EXIT_BAD, LIGHT, SimulateOptions, work
from p2pfusion.app.runs import plan_words, print_table, runs_words, say_run
from p2pfusion.errors import UsageError

if TYPE_CHECKING:
    from p2pfusion.app.progress import Meter
    from p2pfusion.lab.knobs import Order, Value
    from p2pfusion.lab.results import Simulated
    from p2pfusion.lab.writing import Folder

REPLAY = "replay"
_OPTIONS = {"rate": "slice", "momentum": "outer-momentum"}
"""Knobs whose option has another name."""


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
    orders = expand(order_of(scenario), chosen_by(options), options.seeds)
    _check_tasks(orders)
    return orders


def _check_tasks(orders: Sequence[Order]) -> None:
    """Names only: a task file is run where its nodes are. Raises `TaskError`."""
    seeds = {order.task: order.scenario.run.seed for order in orders if order.scenario.learns != LIGHT}
    for name, seed in seeds.items():
        if not name.endswith(".py"):
            from p2pfusion.app.tasks import find_task  # brings torch, which a light run does without

            find_task(name, seed)


def command_of(options: SimulateOptions) -> str:
    """The command line that asks for the same runs."""
    from p2pfusion.lab.knobs import KNOBS

    words = ["p2pfusion", "simulate", options.name]
    for name, values in chosen_by(options).items():
        option = _OPTIONS.get(name) or name.replace("_", "-")
        words += [f"--{option}", ",".join(map(KNOBS[name].text, values))]
    words += ["--seeds", str(options.seeds)] if options.seeds != 1 else []
    words += ["--engine", options.engine] if options.engine != "local" else []
    words += ["--out", str(options.out)] if options.out is not None else []
    return shlex.join(words)


def run_simulate(options: SimulateOptions) -> int:
    """Do the runs, or replay one; returns 0 if in every run all nodes agreed and no invariant was violated."""
    from p2pfusion.app.progress import choose_meter

    with interrupted_once(), closing(choose_meter(os.environ, quiet=options.quiet)) as meter:
        if options.name == REPLAY:
            from p2pfusion.app.replaying import run_replay

            return run_replay(options, meter)
        return _sweep(options, meter)


def _sweep(options: SimulateOptions, meter: Meter) -> int:
    from p2pfusion.lab.writing import Folder

    orders = orders_of(options)
    folder = None if options.out is None else Folder(options.out)
    rows: dict[int, Simulated] = {}
    try:
        _do_runs(options, orders, folder, rows, meter)
    except KeyboardInterrupt:
        pass  # what is done is told and written like a whole sweep
    finally:
        if folder is not None and not rows:
            folder.discard()
    meter.close()
    done = {number: rows[number] for number in sorted(rows)}
    gap = next(number for number in range(len(orders) + 1) if number not in rows)
    for number in done:
        if number > gap:  # had to wait for one that will not come
            say_run(options, done[number])
    if len(rows) > 1 and not options.json and not options.quiet:
        print_table(list(done.values()))
    if folder is not None and rows:
        _write(options, orders, done, folder, meter)
    if len(rows) < len(orders):
        written = "" if folder is None or not rows else f", written to {folder.path}"
        meter.note(f"interrupted: {len(rows)} of {runs_words(len(orders))} done{written}")
        return HARD_EXIT_STATUS
    return 0 if all(row.is_good for row in rows.values()) else EXIT_BAD


def _do_runs(
    options: SimulateOptions, orders: Sequence[Order], folder: Folder | None, rows: dict[int, Simulated], meter: Meter
) -> None:
    """Fill `rows` by the number of the run; a trace is written when its run ends, a line said in the order of runs."""
    from p2pfusion.lab.traces import result_of
    from p2pfusion.lab.writing import trace_names

    names, said = trace_names(orders), 0
    with closing(_results(options, orders, meter)) as results:
        meter.note(plan_words(options, orders))
        meter.start([order.scenario.rounds for order in orders])
        for number, trace in results:
            meter.finished(number)
            if folder is not None:
                if not rows:
                    folder.clear()
                folder.write(names[number], trace)
            rows[number] = result_of(trace)
            while said in rows:
                say_run(options, rows[said])
                said += 1


def _results(options: SimulateOptions, orders: Sequence[Order], meter: Meter) -> Generator[tuple[int, str], None, None]:
    """(number, trace) as runs finish."""
    from p2pfusion.lab import engines
    from p2pfusion.lab.traces import order_text

    texts = [order_text(order) for order in orders]
    if options.engine == "ray":
        return engines.on_ray(texts, work, meter.told, engines.find_ray())
    return engines.local(texts, work, meter.told, options.jobs or engines.default_jobs(len(texts)))


def _write(
    options: SimulateOptions, orders: Sequence[Order], done: Mapping[int, Simulated], folder: Folder, meter: Meter
) -> None:
    """Everything besides the traces, which are there already; no figure of an interrupted sweep: nobody waits for it.

    `done`: rows by the number of the run.
    """
    from p2pfusion.lab.sweeps import swept
    from p2pfusion.lab.traces import versions
    from p2pfusion.lab.writing import NO_FIGURE, readme, title_of, trace_names

    names, rows, title = trace_names(orders), list(done.values()), title_of(orders)
    is_whole, traces = len(done) == len(orders), [names[number] for number in done]
    if not is_whole:
        title += f" (interrupted: {len(done)} of {runs_words(len(orders))} done)"
    folder.write_csv(rows, swept(chosen_by(options)))
    has_figure = is_whole and folder.write_figure(rows, title, traces)
    text = readme(
        rows, title=title, command=command_of(options), versions=versions(), traces=traces, has_figure=has_figure
    )
    folder.write("README.md", text)
    if not is_whole:
        return
    if not has_figure:
        meter.note(NO_FIGURE)
    if not options.quiet:
        meter.note(f"wrote {folder.path}")

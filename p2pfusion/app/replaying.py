"""`p2pfusion simulate replay TRACE.jsonl`: the run of a trace once more, and whether it came out the same.

Everything it needs stands in the trace's first line. It changes no file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfusion.app.orders import EXIT_BAD, SimulateOptions, work
from p2pfusion.app.runs import say_run
from p2pfusion.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from p2pfusion.app.progress import Meter
    from p2pfusion.lab.knobs import Order
    from p2pfusion.lab.results import Simulated

TRACE_BYTES_MAX = 1 << 30
"""256 nodes of 1,000 rounds take a tenth of it; a wrong path is not read into memory."""


def run_replay(options: SimulateOptions, meter: Meter) -> int:
    """Returns 0 if the run gave the same, bit for bit. Raises `UsageError`, `ConfigError` for what is no trace."""
    from p2pfusion.lab.traces import changed_since, differences, event_differences, order_text, result_of

    trace = _read(options)
    order, before = _parsed(trace, options.file)
    for change in changed_since(trace):
        meter.note(f"warning: {change}: the result may differ")
    meter.start([order.scenario.rounds])
    again = work(order_text(order), lambda rounds: meter.told(0, rounds))
    after = result_of(again)
    meter.close()
    say_run(options, after)
    different = [*differences(before, after), *event_differences(trace, again)]
    if different:
        sys.stderr.write(f"error: the replay differs from {options.file}: {'; '.join(different)}\n")
        return EXIT_BAD
    if not options.quiet and not options.json:
        sys.stdout.write(f"the same result as in {options.file}, bit for bit{_named(after.model_sha256)}\n")
    return 0


def _parsed(trace: str, file: Path | None) -> tuple[Order, Simulated]:
    """Order and result of a trace; errors name the file."""
    from p2pfusion.lab.traces import NoTrace, order_from, result_of

    try:
        return order_from(trace.partition("\n")[0]), result_of(trace)
    except NoTrace as error:
        raise UsageError(f"{file} is not a trace: give a trace-....jsonl that `simulate --out` wrote") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _named(model_sha256: str | None) -> str:
    """What was compared."""
    return " (trace hash and model hash are equal)" if model_sha256 else " (trace hash is equal)"


def _read(options: SimulateOptions) -> str:
    file = options.file
    if file is None:
        raise UsageError("replay needs a trace: p2pfusion simulate replay TRACE.jsonl")
    if options != _plain(options):
        raise UsageError("replay runs what the trace says: give no other options but --json, -q and -v")
    return _text(file)


def _plain(options: SimulateOptions) -> SimulateOptions:
    """The same without anything that would have to change the run."""
    return SimulateOptions(
        name=options.name, file=options.file, json=options.json, quiet=options.quiet, verbose=options.verbose
    )


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > TRACE_BYTES_MAX:
            raise UsageError(f"{file}: longer than {TRACE_BYTES_MAX} bytes: no trace")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not a trace, which is UTF-8 text ({error.reason})") from error

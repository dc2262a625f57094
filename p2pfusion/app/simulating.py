"""`p2pfusion simulate`: many nodes in virtual time, from a named scenario and a seed; the same seed, the same trace.

Prints what came out, or writes it as CSV. How virtual time passes is `sim`'s business; which scenarios there are,
`lab.simulations`'.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfusion.app.words import percent
from p2pfusion.errors import StoreError

if TYPE_CHECKING:
    from p2pfusion.lab.simulations import Setting

EXIT_DISAGREED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """What `simulate` was called with; units as `values` parses them."""

    name: str
    nodes: int
    rounds: int
    loss: float
    latency: float
    bandwidth: float
    seeds: int
    out: Path | None
    rate: float
    algorithm: str
    seed: int
    json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One run. `agreed`: all nodes ended with one model, whose hash is `model_sha256`."""

    name: str
    seed: int
    nodes: int
    rounds: int
    virtual_s: float
    accuracy: float | None
    agreed: bool
    model_sha256: str | None
    trace_hash: str


def setting_of(options: SimulateOptions) -> Setting:
    """The options as the scenarios take them."""
    from p2pfusion.lab.simulations import Setting

    return Setting(
        nodes=options.nodes,
        rounds=options.rounds,
        rate=options.rate,
        loss=options.loss,
        latency_s=options.latency,
        bandwidth_bytes_per_s=options.bandwidth,
        algorithm=options.algorithm,
        run_seed=options.seed,
    )


def run_simulate(options: SimulateOptions) -> int:
    """Run the scenario under each seed; returns 0 if in every run all nodes agreed."""
    from p2pfusion.lab.simulations import scenario_named

    scenario_named(options.name, setting_of(options))  # a wrong name or number is told before anything is done
    results = []
    for seed in range(options.seed, options.seed + options.seeds):
        results.append(simulate_once(options, seed))
        _say(options, results[-1])
    if options.out is not None:
        write_csv(options.out / f"{options.name}.csv", results)
    return 0 if all(result.agreed for result in results) else EXIT_DISAGREED


def simulate_once(options: SimulateOptions, seed: int) -> Simulated:
    """One run in virtual time: the digits, dealt to as many nodes as there are."""
    from p2pfusion.app.tasks import find_task
    from p2pfusion.lab.simulations import simulate_named

    result = simulate_named(options.name, setting_of(options), find_task("digits", options.seed), seed)
    ends = [outcome.done for outcome in result.outcomes if outcome.done is not None]
    agreed = len(ends) == options.nodes and len(result.model_hashes) == len(result.chains) == 1
    return Simulated(
        name=options.name,
        seed=seed,
        nodes=options.nodes,
        rounds=min((end.round for end in ends), default=0),
        virtual_s=round(result.virtual_s, 3),
        accuracy=ends[0].accuracy if agreed else None,
        agreed=agreed,
        model_sha256=result.model_hashes[0] if agreed else None,
        trace_hash=result.trace_hash,
    )


def _say(options: SimulateOptions, result: Simulated) -> None:
    if options.json:
        from p2pfusion.app.output import object_text

        sys.stdout.write(object_text("simulated", result) + "\n")
    elif not options.quiet:
        end = f"all agree on {result.model_sha256[:16]}" if result.model_sha256 else "the nodes DISAGREE"
        sys.stdout.write(
            f"seed {result.seed}: {result.nodes} nodes, {result.rounds} rounds in {result.virtual_s:.1f} virtual s, "
            f"accuracy {percent(result.accuracy)}, {end}, trace {result.trace_hash[:16]}\n"
        )
    sys.stdout.flush()


def write_csv(file: Path, results: Sequence[Simulated]) -> None:
    """One row per run. Raises `StoreError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, [item.name for item in fields(Simulated)])
            writer.writeheader()
            writer.writerows(asdict(result) for result in results)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}; choose another folder with --out") from error

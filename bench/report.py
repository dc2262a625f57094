"""Write `BENCHMARKS.md` from what lies in `bench/results`. It measures nothing and invents nothing.

    python -m bench.report [--print]

Ratios come first: each is the median over the turns of two times taken in the same turn. What has not been measured is
said to be missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import results
from bench.catalogue import BENCHES, Bench
from bench.cohort import ROOT
from bench.report_averaging import Verdict, averaging_section, averaging_verdicts, column_of, median_of, sizes, where
from bench.summary import grouped, ratio
from bench.tables import MISSING, columns, flat, is_table, number, pick, short_by, table

PAGE = ROOT / "BENCHMARKS.md"
TABLES = {"averaging", "averaging8", "averaging_ours"}
ROUND_GOALS = {
    "flower_simulation": 2.0,
    "flower_deployment": 2.0,
    "hivemind": 2.0,
    "p2pfl_memory": 20.0,
    "p2pfl_grpc": 20.0,
}
"""How many times their rounds a second ours should be."""


# -- rounds ------------------------------------------------------------------------------------------------------------

ROUNDS_NOTES = """\
256 float32, no training, everybody takes part in every round. Ours, hivemind, Flower's deployment and p2pfl over gRPC
have a process per node; Flower's simulation runs in Ray's workers, p2pfl's memory protocol and our simulator in one
process without a network. The first round is left out of rounds a second. Systems that take seconds for a round ran
once."""


def rounds_section() -> Iterator[str]:
    found = results.read("rounds")
    if found is None:
        return
    rows, about = found
    systems = grouped(rows, lambda row: str(row["system"]))
    ours = [dict(row) for row in systems.get("ours", [])]
    lines = []
    for name, group in systems.items():
        of_one = [dict(row) for row in group]
        rate = column_of(of_one, "rounds_per_s")
        lines.append(
            (
                name,
                ratio(ours, of_one, "rounds_per_s"),
                rate and rate.median,
                rate and f"{number(rate.low)} to {number(rate.high)}",
                median_of(of_one, "median_s"),
                median_of(of_one, "longest_s"),
                median_of(of_one, "first_s"),
                median_of(of_one, "cpu_s_per_round"),
                median_of(of_one, "bytes_per_node_and_round"),
                len(of_one),
                "; ".join(dict.fromkeys(row["note"] for row in of_one if row.get("note"))) or MISSING,
            )
        )
    header = "system, ours / theirs, rounds/s, quartiles, median round s, longest s, first round s, CPU s per round, "
    header += "bytes per node and round, runs, note"
    yield "## Rounds of a null model"
    yield ROUNDS_NOTES
    yield where(about)
    yield table(header.split(", "), lines)
    if left_out := about.get("left_out"):
        yield "Left out: " + "; ".join(left_out) + "."


def rounds_verdicts() -> Iterator[Verdict]:
    found = results.read("rounds")
    if found is None:
        return
    systems = grouped(found[0], lambda row: str(row["system"]))
    ours = [dict(row) for row in systems.get("ours", [])]
    for name, goal in ROUND_GOALS.items():
        times = ratio(ours, [dict(row) for row in systems.get(name, [])], "rounds_per_s")
        text = f"rounds a second, ours over those of {name}"
        yield text, f"at least {number(goal)}", number(times), short_by(times, "at least", goal)


# -- any other bench ---------------------------------------------------------------------------------------------------


def other_section(bench: Bench) -> Iterator[str]:
    found = results.read_lines(bench.name)
    if found is None:
        return
    lines, about = found
    yield f"## {bench.title}"
    yield f"`{about.get('command', '')}`. " + where(about)
    if bench.note:
        yield bench.note
    if about.get("wrong"):
        yield f"**It did not end well: {about['wrong']}.**"
    for group in grouped(lines, lambda line: tuple(line)).values():
        if len(group) > 1:
            yield columns(group)
        else:
            yield from one_line(group[0])


def one_line(line: Mapping[str, Any]) -> Iterator[str]:
    """Its lists of rows as tables, the rest as a list of figures."""
    tables = {name: value for name, value in line.items() if is_table(value)}
    for name, rows in tables.items():
        yield f"{name.replace('_', ' ').capitalize()}:"
        yield columns(rows)
    if rest := flat({name: value for name, value in line.items() if name not in tables}):
        yield table(("figure", "value"), rest.items())


def other_verdicts(bench: Bench) -> Iterator[Verdict]:
    found = results.read_lines(bench.name)
    for goal in bench.goals:
        figures = [pick(line, goal.path) for line in (found[0] if found is not None else [])]
        measured = next((figure for figure in figures if figure is not None), None)
        yield goal.text, goal.said(), number(measured), goal.short_by(measured)


# -- the page ----------------------------------------------------------------------------------------------------------

HEAD = """\
# Benchmarks

Written by `python -m bench.report` from the files in `bench/results`; do not edit. `make bench` measures what needs
only this project, `make bench-peers` what stands beside other projects (each in an environment and processes of its
own, in turns with ours; about 2.8 GB of packages and some minutes the first time). Read the ratios: both their times
come from the same turn of the same run. Absolute times say how busy the machine was."""


def versions_table(versions: Mapping[str, Mapping[str, str]]) -> str:
    return table(
        ("system", "versions"),
        [(name, ", ".join(f"{one} {number}" for one, number in found.items())) for name, found in versions.items()],
    )


def _abouts() -> list[dict[str, Any]]:
    found = [results.read(bench.name) or results.read_lines(bench.name) for bench in BENCHES]
    return [one[1] for one in found if one is not None]


def verdicts() -> list[Verdict]:
    found = results.read("averaging")
    lines: list[Verdict] = []
    if found is not None:
        for size, settings in sizes(found[0]).items():
            lines += averaging_verdicts(size, settings)
    lines += rounds_verdicts()
    for bench in BENCHES:
        lines += other_verdicts(bench)
    return lines


def missing() -> Sequence[str]:
    """Benches without results, and why."""
    return [
        f"{bench.title} (`{' '.join(bench.command)}`): " + ("has not run" if bench.exists else "is not written")
        for bench in BENCHES
        if results.read(bench.name) is None and results.read_lines(bench.name) is None
    ]


def page() -> str:
    """The whole text."""
    abouts = _abouts()
    parts = [HEAD]
    machines = list(dict.fromkeys(_machine(about["machine"]) for about in abouts if "machine" in about))
    parts.append("Machine: " + "; or ".join(machines) + "." if machines else "Nothing has been measured yet.")
    versions = {name: found for about in abouts for name, found in about.get("versions", {}).items()}
    if versions:
        parts.append(versions_table(versions))
    parts += ["## Goals, and what is short of them", table(("what", "goal", "measured", "short by"), verdicts())]
    for bench in BENCHES:
        if bench.name in TABLES:
            parts += averaging_section(bench)
        elif bench.name == "rounds":
            parts += rounds_section()
        else:
            parts += other_section(bench)
    if lines := missing():
        parts += ["## Missing", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    flags = ", ".join(machine["flags"]) or "no wide vectors"
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}"
    )


def write() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="on standard output instead")
    if parser.parse_args().print:
        print(page())
    else:
        write()


if __name__ == "__main__":
    main()

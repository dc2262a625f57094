"""The averaging tables of `BENCHMARKS.md`, and whether ours keep what was asked. It measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench import results
from bench.catalogue import Bench
from bench.summary import Spread, grouped, ratio, spread
from bench.tables import MISSING, number, short_by, table

EQUAL_ERROR = 1.1
"""Two errors are called equal up to this factor."""
LOAD_MAX = 2.0
"""Load at the start above which figures say little about anybody."""
EXACT = 1e-6
"""Errors below this are float32's own rounding: equal, whoever rounds once more."""
SLICE_SHARE = 0.5
"""What a slice of a half or a quarter may take at most of the time of the others' whole."""

Rows = list[dict[str, str]]
Verdict = tuple[str, str, str, str]
"""What, goal, measured, short by."""


def sizes(rows: Rows) -> dict[tuple[int, int], dict[str, Rows]]:
    """(parameters, peers) -> `system setting` -> its rows."""
    by_size = grouped(rows, lambda row: (int(row["elements"]), int(row["peers"])))
    return {
        size: {name: list(map(dict, group)) for name, group in grouped(of_size, _setting).items()}
        for size, of_size in by_size.items()
    }


def _setting(row: Mapping[str, Any]) -> str:
    return f"{row['system']} {row['setting']}"


def column_of(rows: Rows, name: str) -> Spread | None:
    values = [float(row[name]) for row in rows if row.get(name) not in (None, "", "nan")]
    return spread(values) if values else None


def median_of(rows: Rows, name: str) -> float | None:
    found = column_of(rows, name)
    return None if found is None else found.median


def averaging_table(settings: Mapping[str, Rows]) -> str:
    """One size: a row per system and setting."""
    ours = settings.get("ours fp32/1", [])
    lines = []
    for name, rows in settings.items():
        seconds, is_limit = column_of(rows, "seconds"), name.startswith("limits")
        bytes_ = median_of(rows, "bytes_per_node")
        bad = sum(not _is_good(row) for row in rows)
        lines.append(
            (
                name,
                ratio(rows, ours, "seconds"),
                None if seconds is None else seconds.median,
                None if seconds is None else f"{number(seconds.low)} to {number(seconds.high)}",
                median_of(rows, "allreduce_s"),
                None if bytes_ is None or is_limit else bytes_ / 1e6,
                None if is_limit else median_of(rows, "error"),
                None if is_limit else _worst(rows),
                median_of(rows, "cpu_s_per_node"),
                median_of(rows, "memory_mb_per_node"),
                f"{len(rows)}" + (f", {bad} wrong" if bad else ""),
            )
        )
    header = "system and setting, time / ours fp32, seconds, quartiles, all-reduce alone s, MB per node, error, "
    header += "worst error, CPU s per node, MB of memory per node, runs"
    return table(header.split(", "), lines)


def _is_good(row: Mapping[str, str]) -> bool:
    """It averaged, with everybody, and our nodes ended with the same bits; others may differ in the last ones."""
    needed = ("is_moved", "is_complete", "is_equal") if row["system"] == "ours" else ("is_moved", "is_complete")
    return all(row.get(name) == "True" for name in needed)


def _worst(rows: Rows) -> float | None:
    return max((float(row["error"]) for row in rows if row.get("error")), default=None)


def averaging_verdicts(size: tuple[int, int], settings: Mapping[str, Rows]) -> Iterator[Verdict]:
    """Whole models against the fastest of hivemind that errs no more; slices against the same."""
    theirs = {name: rows for name, rows in settings.items() if name.startswith("hivemind")}
    if (mine := settings.get("ours fp32/1")) and (gloo := settings.get("gloo fp32")):
        text = f"{size[0] / 1e6:g} M among {size[1]}, fp32, whole model: time over that of gloo (nobody may fail)"
        yield text, "none", number(ratio(mine, gloo, "seconds")), "behind: the near limit"
    for codec in ("fp32", "bf16", "int8"):
        whole = settings.get(f"ours {codec}/1")
        if not whole or not theirs:
            continue
        allowed = max(EXACT, EQUAL_ERROR * (median_of(whole, "error") or 0.0))
        good = {name: rows for name, rows in theirs.items() if (median_of(rows, "error") or 0.0) <= allowed}
        best = min(good, key=lambda name: median_of(good[name], "seconds") or 0.0, default=None)
        where = f"{size[0] / 1e6:g} M among {size[1]}, {codec}"
        if best is None:
            yield f"{where}: no setting of hivemind errs as little", "-", MISSING, "nothing to compare"
            continue
        for rate, bound in (("1", 1.0), ("0.5", SLICE_SHARE), ("0.25", SLICE_SHARE)):
            mine = settings.get(f"ours {codec}/{rate}")
            if not mine:
                continue
            found = ratio(mine, good[best], "seconds")
            what = "whole model" if rate == "1" else f"slices at rate {rate}"
            text = f"{where}, {what}: time over that of {best}"
            yield text, f"at most {number(bound)}", number(found), short_by(found, "at most", bound)
            if rate != "1":
                less = (median_of(mine, "bytes_per_node") or 0.0) / (median_of(good[best], "bytes_per_node") or 1.0)
                yield (
                    f"{where}, {what}: bytes per node over its",
                    "at most 1",
                    number(less),
                    short_by(less, "at most", 1),
                )


AVERAGING_NOTES = """\
Every process starts with a known float32 vector (standard deviation 0.02, the peers' offsets 0.007, seeded); measured
from a common moment until the last process holds the mean. For us that is: the *sealed* model of every node has the
round, and all hashes are equal; genesis is the part that the vectors share, contributions are the difference. The
others average the vectors themselves. Error is the relative L2 distance to the exact float64 mean (for slices: to the
fold's formula), the worst of all processes; ours is computed in the first turn of each setting, and in every turn all
hashes must be equal and all contributions counted; of the others every process checks a sample of elements each time.
MB per node is what the loopback interface carried, headers included, divided by the number of processes. **A
contribution that goes to everybody costs K - 1 times its size per node, an all-reduce 2 (K - 1) / K times**: at K = 2
the same, at 4 twice as much, at 8 four times. What that buys: nobody waits for anybody, a late one still counts, and
whoever joins later gets the same model.

`ours CODEC/RATE`: rate 1 is the whole model, 0.5 and 0.25 are slices of the double shift on every axis, a quarter and
a sixteenth of the parameters. `hivemind CODEC/S`: S is `min_matchmaking_time`, 5 s its default; matchmaking is part
of the step and so of its seconds, and the all-reduce alone stands beside. gloo assumes that nobody fails or joins.
`limits`: one TCP stream over loopback and one copy in memory of the vector. Memory is the proportional set size.
Stores are in memory, addresses are given, one thread for every numeric library. One exchange before warms everybody
up. Fewer runs than others have, or a system that is not in a table: see what was left out, below it."""


def averaging_section(bench: Bench) -> Iterator[str]:
    found = results.read(bench.name)
    if found is None:
        return
    rows, about = found
    yield f"## {bench.title}"
    if bench.name == "averaging":
        yield AVERAGING_NOTES
    yield where(about)
    for (elements, peers), settings in sizes(rows).items():
        yield f"### {elements / 1e6:g} M parameters, {peers} processes"
        yield averaging_table(settings)
    if left_out := about.get("left_out"):
        yield "Left out: " + "; ".join(left_out) + "."


def where(about: Mapping[str, Any]) -> str:
    parts = [f"Day {about.get('day', 'unknown')}, load {about.get('load_at_start', 'unknown')} at the start"]
    parts += [f"{name} {about[name]}" for name in ("seed", "repeats") if name in about]
    if float(about.get("load_at_start", 0.0)) > LOAD_MAX:
        parts.append("**the machine was busy with other things: this only shows that the bench works**")
    if about.get("network") == "shared":
        parts.append("the loopback interface was shared with whatever else ran")
    return ", ".join(parts) + "."

"""How long until K processes hold the mean of what they held? Ours beside hivemind's averager and gloo, in turns.

    python -m bench.averaging [--peers 2 4] [--millions 10 50] [--repeats 5] [--systems ours hivemind gloo]

Every process starts with a known float32 vector (`bench.peers.problem`). Measured from a common moment until the last
process holds the mean; outside that time the result is compared with the exact float64 mean. Systems take turns within
every repeat, so that what else the machine does hits all of them. Bytes are those of the loopback interface, headers
included, divided by K: a contribution sent to everybody costs K - 1 times its size, an all-reduce about two.

Writes `bench/results/averaging.csv`, a row per exchange, and says one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import results
from bench.cohort import Cohort, Failed, free_port, loopback_bytes, nothing_left, own_loopback, python_module
from bench.peers.environments import ENVIRONMENTS
from bench.peers.talk import now_s
from bench.summary import spread

LOGS = results.FOLDER.parent.parent / ".bench" / "logs"
LEAD_S = 0.1
"""Between the signal and the common start: every process has read its line by then."""
MOVED = 0.1
"""Relative error above which nothing was averaged: the start is 0.2 to 0.3 away from the mean. Ours proves with the
hash that all nodes hold the same bits, and one of them compares with the formula in the first turn, which takes
seconds; of the others every process checks a sample of elements each time."""
LARGE = 20_000_000
"""Parameters above which only the brief settings are measured: each of these exchanges takes seconds."""
OURS = tuple(f"{codec}/{rate}" for codec in ("fp32", "bf16", "int8") for rate in ("1", "0.5", "0.25"))
HIVEMIND = ("none/0.5", "float16/0.5", "uniform8/0.5", "blockwise8/0.5", "none/5")
"""Tuned, and once with the library's own default of 5 s."""
NOT_LARGE = ("bf16/0.5", "bf16/0.25", "blockwise8/0.5", "none/5")


@dataclass(frozen=True, slots=True)
class Size:
    """What is averaged among how many."""

    peers: int
    elements: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that can be measured; `copies` are the vectors one process holds at once, for the memory it takes."""

    name: str
    settings: tuple[str, ...]
    start: Callable[[Cohort, Size, Sequence[str]], dict[str, str]]
    copies: Callable[[Size, Sequence[str]], float]
    process_bytes: int


def start_ours(cohort: Cohort, size: Size, settings: Sequence[str]) -> dict[str, str]:
    port = free_port(size.peers)
    for rank in range(size.peers):
        cohort.start(_command("bench.exchange", size, rank, port=port), LOGS / f"ours-{rank}.log")
    return _versions([child.hear() for child in cohort.children])


def start_gloo(cohort: Cohort, size: Size, settings: Sequence[str]) -> dict[str, str]:
    port = free_port(1)
    for rank in range(size.peers):
        command = _command("bench.peers.gloo_averaging", size, rank, port=port)
        cohort.start(command, LOGS / f"gloo-{rank}.log", {"GLOO_SOCKET_IFNAME": "lo"})
    return _versions([child.hear() for child in cohort.children])


def start_limits(cohort: Cohort, size: Size, settings: Sequence[str]) -> dict[str, str]:
    """Two processes, however many the others have."""
    port = free_port(1)
    for rank in range(2):
        command = python_module("bench.peers.limits", rank=rank, elements=size.elements, port=port)
        cohort.start(command, LOGS / f"limits-{rank}.log")
    return _versions([child.hear() for child in cohort.children])


def start_hivemind(cohort: Cohort, size: Size, settings: Sequence[str]) -> dict[str, str]:
    """The first node's address is needed by the others; averagers are started outside what is measured."""
    command = partial(_command, "bench.peers.hivemind_averaging", size, python=ENVIRONMENTS["hivemind"].python)
    first = cohort.start(command(0), LOGS / "hivemind-0.log").hear()
    for rank in range(1, size.peers):
        cohort.start(command(rank, first=first["address"]), LOGS / f"hivemind-{rank}.log")
    answers = [child.hear() for child in cohort.children[1:]]
    for setting in settings:
        cohort.tell_all({"do": "open", "setting": setting})
    return _versions([first, *answers])


def _command(module: str, size: Size, rank: int, python: Path | None = None, **options: object) -> list[str]:
    given = {"rank": rank, "peers": size.peers, "elements": size.elements, "seed": size.seed, **options}
    return python_module(module, python, **given)


def _versions(answers: Sequence[dict[str, Any]]) -> dict[str, str]:
    return dict(answers[0]["versions"])


# `copies` as measured: ours keep two rounds of payload and their own last contributions, hivemind a vector per setting.
SYSTEMS = {
    system.name: system
    for system in (
        System(
            name="ours",
            settings=OURS,
            start=start_ours,
            copies=lambda size, settings: 8 + 3 * size.peers,
            process_bytes=120 << 20,
        ),
        System(
            name="hivemind",
            settings=HIVEMIND,
            start=start_hivemind,
            copies=lambda size, settings: 3 + 3 * len(settings),
            process_bytes=700 << 20,
        ),
        System(
            name="gloo", settings=("fp32",), start=start_gloo, copies=lambda size, settings: 4, process_bytes=300 << 20
        ),
        System(
            name="limits",
            settings=("stream", "memcpy"),
            start=start_limits,
            copies=lambda size, settings: 3,
            process_bytes=40 << 20,
        ),
    )
}


def exchange(cohort: Cohort, setting: str, turn: int) -> dict[str, Any]:
    """One exchange of a cohort that stands ready. Raises `Failed`."""
    ready = cohort.tell_all({"do": "prepare", "setting": setting, "turn": turn})
    before, used = loopback_bytes(), cohort.used()
    at_s = now_s() + LEAD_S
    answers = cohort.tell_all({"do": "go", "at_s": at_s})
    after, peak = loopback_bytes(), cohort.used()
    first, *others = cohort.children
    for child in others:
        child.tell({"do": "verify", "is_full": False})
    first.tell({"do": "verify", "is_full": turn == 0})
    checked = [child.hear() for child in cohort.children]
    errors = [answer["error"] for answer in checked if "error" in answer]
    peers = len(cohort.children)
    row = {
        "seconds": max(answer["done_s"] for answer in answers) - at_s,
        "error": max(errors, default=None),
        "is_equal": len({answer["model"] for answer in checked}) == 1,
        "is_moved": max(errors, default=0.0) < MOVED,
        "bytes_per_node": (after - before) // peers,
        "cpu_s_per_node": (peak.cpu_s - used.cpu_s) / peers,
        "memory_mb_per_node": (peak.memory_bytes >> 20) // peers,
        "checksum": ready[0]["checksum"],
    }
    for name in ("allreduce_s", "published_s", "complete_s"):
        if name in answers[0]:
            row[name] = max(answer[name] for answer in answers)
    if "cpu_by_thread" in answers[0]:
        row["cpu_by_thread"] = json.dumps(answers[0]["cpu_by_thread"])
    counted = {answer.get("counted", peers) for answer in answers}
    row["is_complete"] = counted == {peers}
    return row


def fits(systems: Sequence[tuple[System, Sequence[str]]], size: Size) -> bool:
    """Whether all of these may live at once, with a fifth of the free memory left alone."""
    needed = sum(
        size.peers * (system.process_bytes + 4 * size.elements * system.copies(size, settings))
        for system, settings in systems
    )
    return bool(needed < 0.8 * psutil.virtual_memory().available)


class Bench:
    """All systems at one size."""

    def __init__(self, size: Size, chosen: Sequence[tuple[System, Sequence[str]]]) -> None:
        self._size = size
        self._chosen = chosen
        self.versions: dict[str, dict[str, str]] = {}
        self.left_out: list[str] = []

    def rows(self, repeats: int) -> Iterator[dict[str, Any]]:
        """A row per exchange. Cohorts stay where memory lasts; else each is started anew for every turn."""
        possible = [item for item in self._chosen if fits([item], self._size)]
        self._note([item[0] for item in self._chosen if item not in possible], "does not fit into memory")
        if fits(possible, self._size):
            with ExitStack() as stack:
                cohorts = [(*item, cohort) for item in possible if (cohort := self._opened(stack, *item))]
                for turn in range(repeats):
                    for system, settings, cohort in cohorts:
                        yield from self._turn(system, settings, cohort, turn)
            return
        for turn in range(repeats):
            for item in possible:
                with ExitStack() as stack:
                    if cohort := self._opened(stack, *item):
                        yield from self._turn(*item, cohort, turn)

    def _opened(self, stack: ExitStack, system: System, settings: Sequence[str]) -> Cohort | None:
        cohort = stack.enter_context(Cohort())
        try:
            self.versions[system.name] = system.start(cohort, self._size, settings)
            exchange(cohort, settings[0], -1)  # first pages, first connections: warm for everybody
        except Failed as failure:
            cohort.close(0.0)
            self._note([system], f"did not start: {failure}")
            return None
        return cohort

    def _turn(self, system: System, settings: Sequence[str], cohort: Cohort, turn: int) -> Iterator[dict[str, Any]]:
        for setting in settings:
            if not cohort.children:
                return
            about = {"system": system.name, "setting": setting, "peers": self._size.peers}
            about |= {"elements": self._size.elements, "repeat": turn}
            try:
                yield about | exchange(cohort, setting, turn)
            except Failed as failure:
                self._note([system], f"{setting}, turn {turn}: {failure}")
                cohort.close(0.0)

    def _note(self, systems: Sequence[System], why: str) -> None:
        for system in systems:
            text = f"{system.name}, {self._size.peers} x {self._size.elements}: {why}"
            self.left_out.append(text)
            print(text, file=sys.stderr)


def measure(options: argparse.Namespace) -> None:
    network = "own" if own_loopback() else "shared"
    chosen = [(SYSTEMS[name], _settings(SYSTEMS[name], options.settings)) for name in options.systems]
    rows: list[dict[str, Any]] = []
    about = results.about(seed=options.seed, repeats=options.repeats, network=network)
    versions: dict[str, dict[str, str]] = {}
    left_out: list[str] = []
    for elements in options.elements:
        for peers in options.peers:
            fitting = [(system, _brief(settings, elements)) for system, settings in chosen]
            bench = Bench(Size(peers, elements, options.seed), [item for item in fitting if item[1]])
            for row in bench.rows(options.repeats):
                rows.append(row)
                _tell(row)
            versions |= bench.versions
            left_out += bench.left_out
            results.write(options.name, rows, {**about, "versions": versions, "left_out": left_out})
    medians = {
        f"{system} {setting} {peers}x{elements}": round(
            spread(r["seconds"] for r in rows if _key(r) == (system, setting, peers, elements)).median, 3
        )
        for system, setting, peers, elements in dict.fromkeys(map(_key, rows))
    }
    print(json.dumps({"bench": options.name, "rows": len(rows), "seconds": medians, "left_out": left_out}))


def _key(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["system"], row["setting"], row["peers"], row["elements"]


def _settings(system: System, wanted: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(setting for setting in system.settings if wanted is None or setting in wanted)


def _brief(settings: Sequence[str], elements: int) -> tuple[str, ...]:
    return tuple(setting for setting in settings if elements <= LARGE or setting not in NOT_LARGE)


def _tell(row: dict[str, Any]) -> None:
    text = "{system:9} {setting:15} {peers} x {elements:>9} #{repeat}: {seconds:7.3f} s"
    good = row["is_moved"] and row["is_complete"] and (row["is_equal"] or row["system"] != "ours")
    megabytes = row["bytes_per_node"] / 1e6
    line = text.format(**row) + ("" if row["error"] is None else f"  error {row['error']:.1e}")
    line += f"  {megabytes:7.1f} MB  cpu {row['cpu_s_per_node']:5.2f} s  {row['memory_mb_per_node']} MB"
    print(line + ("" if good else "  WRONG"), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--millions", type=float, nargs="+", default=[10, 50], help="parameters")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--settings", nargs="+", help="only these, such as int8/0.5 or none/5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="averaging", help="of the files written to bench/results")
    options = parser.parse_args()
    options.elements = [round(1e6 * millions) for millions in options.millions]
    with nothing_left():
        measure(options)


if __name__ == "__main__":
    main()

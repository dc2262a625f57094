"""Real processes over loopback: `python -m bench.chains.run time|memory|learn [--seeds N]`.

`time`: throttled relays, forecast of a round against what it took. `memory`: resident memory of a four-owner run beside
its plan. `learn`: accuracy, bytes and time of a chain, of whole networks averaged, and of MSfusion's slices. Every run
is a line of `bench/results/chains.jsonl`; docs/mp_sl.md has the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from bench.chains.stuff import STUFF, clock_s, pieces, typed
from p2pfusion.core.playing import round_s
from p2pfusion.hops.chains import choose, times
from p2pfusion.hops.split import Split
from p2pfusion.wire.hops import Offer

RESULTS = Path(__file__).resolve().parents[1] / "results" / "chains.jsonl"
LIMIT_S = 900.0
"""For one run of all its processes: the longest takes a few minutes."""
Spec = dict[str, Any]


class Party:
    """Processes of one run, the first of which all others call."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._specs = specs

    def run(self) -> list[dict[str, Any]]:
        """Start all, wait for all; what each told. Raises when one fails."""
        running: list[subprocess.Popen[str]] = []
        try:
            peers: list[str] = []
            for spec in self._specs:
                process = _start({**spec, "peers": peers})
                running.append(process)
                if not peers:
                    peers = [_address(process)]
            return [_told(process) for process in running]
        finally:
            for process in running:
                process.kill()


def _start(spec: Spec) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.chains.device", json.dumps(spec)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("at "):
            return line.split()[1]
    raise SystemExit("a device ended before it listened")


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise SystemExit(f"a device failed:\n{err[-2000:]}")
    return dict(json.loads(out.splitlines()[-1]))


def devices(what: str, owners: int, relays: int, rounds: int, **changes: Any) -> list[Spec]:
    """Owners first; relays have room for everything."""
    common = {
        "what": what, "owners": owners, "rounds": rounds, "seed": 0, "speed": 1.0, "is_throttled": False, "peers": [],
        "codec": "fp32", "ledger_codec": "fp32", "listen": "127.0.0.1:0", "memory_bytes": 1 << 40, "measures": False,
        "folder": None, "rate": 1.0, "lanes": 1, "micro_batches": 1, **changes,
    }  # fmt: skip
    names = [("owner", f"owner{n}", n) for n in range(owners)] + [("relay", f"relay{n}", n) for n in range(relays)]
    return [{**common, "role": role, "name": name, "part": part} for role, name, part in names]


# -- time --------------------------------------------------------------------------------------------------------------


def toy_split() -> Split:
    split = pieces("toy", (0, 1), 0).split
    return replace(split, profile=typed(split.blueprint))


def offers(split: Split, relays: int, speed: float = 1.0) -> list[Offer]:
    """Of relays that are all alike."""
    last = split.shards.count - 1
    batch_us = round(1e6 * (split.forward_s(1, last) + split.backward_s(1, last)) / speed)
    return [
        Offer(
            run=split.tag, device=bytes([n]) * 16, name=f"relay{n}", addresses=(f"127.0.0.1:{5000 + n}",),
            incarnation=1, beat=1, is_owner=False, is_relay=True, is_leaving=False, round=0, memory_bytes=1 << 40,
            batch_us=batch_us, chain=(), held=(),
        )
        for n in range(relays)
    ]  # fmt: skip


def forecast_s(split: Split, owners: int, relays: int, batches: int, micro_batches: int = 1) -> float:
    """A round of the chain that is chosen, played."""
    known = offers(split, relays)
    return round_s(times(split, choose(split, known, owners), known, owners), batches, micro_batches)


def run_times() -> Iterator[dict[str, Any]]:
    """K = 2, 4, 6 owners and P = 3, 4, 5 parts."""
    split = toy_split()
    for relays in (1, 2, 3):
        for owners in (2, 4, 6):
            told = Party(devices("toy", owners, relays, rounds=2, is_throttled=True)).run()
            mine = [one for one in told if one["role"] == "owner"]
            took_s = max(one["times_s"][-1] for one in mine)  # the first round learns patience and warms up
            said_s = forecast_s(split, owners, relays, mine[0]["steps"])
            yield {"bench": "time", "owners": owners, "parts": relays + 2, "measured_s": round(took_s, 3),
                   "forecast_s": round(said_s, 3), "error": round(said_s / took_s - 1, 4),
                   "lost": sum(one["owner"]["lost"] for one in mine)}  # fmt: skip


# -- memory ------------------------------------------------------------------------------------------------------------


def run_memory() -> Iterator[dict[str, Any]]:
    """Four owners, three relays and a wide network; the same with a network of nothing, for what a process takes."""
    empty = Party(devices("toy", 1, 1, rounds=2)).run()
    base = {one["role"]: one["peak_bytes"] for one in empty}
    with TemporaryDirectory() as folder:
        specs = devices("wide", 4, 3, rounds=4, ledger_codec="auto")
        told = Party([{**one, "folder": f"{folder}/{one['name']}"} for one in specs]).run()
    split = pieces("wide", (0, 4), 0).split
    for one in told:
        held = one["held"]
        planned = _planned(split, one)
        grown = one["peak_bytes"] - base[one["role"]]
        yield {
            "bench": "memory", "name": one["name"], "shards": held, "blocks": one["blocks"],
            "of": len(split.blueprint.blocks), "peak_mb": round(grown / 1e6, 1), "planned_mb": round(planned / 1e6, 1),
            "process_mb": round(base[one["role"]] / 1e6, 1), "network_mb": round(4 * split.blueprint.size / 1e6, 1),
        }  # fmt: skip


def _planned(split: Split, told: dict[str, Any]) -> int:
    """At its most of stage copies and ledgers; of the shards that it keeps a backup of in the end, ledgers."""
    if told["role"] == "owner":
        last = split.shards.count
        return split.memory_bytes(0, 0, 1) + split.memory_bytes(last, last, 1)
    figures, stage = told["figures"], told["figures"]["stage"]
    taken = range(stage[0], stage[1] + 1) if stage else range(0)
    return int(figures["taken_bytes_most"]) + sum(split.ledger_bytes(one) for one in told["held"] if one not in taken)


# -- learning ----------------------------------------------------------------------------------------------------------


ROWS = ("mp_sl fp32", "mp_sl bf16", "full", "msfusion")


def run_learning(what: str, rounds: int, seed: int, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A chain of three relays, whole networks, and MSfusion at a quarter, four devices with data each."""
    alone = devices(what, 4, 0, rounds, seed=seed, ledger_codec="auto")
    chain = devices(what, 4, 3, rounds, seed=seed, measures=True, ledger_codec="auto")
    rows = {
        "mp_sl fp32": chain,
        "mp_sl bf16": [{**one, "codec": "bf16"} for one in chain],
        "full": [{**one, "role": "full"} for one in alone],
        "msfusion": [{**one, "role": "msfusion", "rate": 0.25} for one in alone],
    }
    for row in only:
        specs = rows[row]
        began_s = clock_s()
        told = Party(specs).run()
        owners = [one for one in told if one["role"] != "relay"]
        yield {
            "bench": "learn", "what": what, "row": row, "rounds": rounds, "seed": seed,
            "accuracy": owners[0]["done"]["accuracy"], "loss": owners[0]["loss"],
            "hashes": len({one["done"]["model_sha256"] for one in told}),
            "owner_mb": round(fmean(one["done"]["bytes_sent"] for one in owners) / 1e6, 2),
            "all_mb": round(sum(one["done"]["bytes_sent"] for one in told) / 1e6, 2),
            "round_s": round(fmean(fmean(one["times_s"][1:]) for one in owners), 3),
            "owner_peak_mb": round(max(one["peak_bytes"] for one in owners) / 1e6),
            "run_s": round(clock_s() - began_s, 1),
            "lost": sum(one["owner"]["lost"] for one in owners if one.get("owner")),
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; each line is written when it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench.chains.run", description=__doc__)
    parser.add_argument("bench", choices=["time", "memory", "learn"])
    parser.add_argument("--what", choices=[name for name in STUFF if name not in ("toy", "wide")], default="fashion")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options = parser.parse_args(arguments)
    runs = {"time": run_times, "memory": run_memory}
    found = (
        runs[options.bench]()
        if options.bench in runs
        else (line for seed in options.seeds for line in run_learning(options.what, options.rounds, seed, options.rows))
    )
    for line in found:
        with RESULTS.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

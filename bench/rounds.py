"""How many rounds a second when training costs nothing? Eight nodes of ours beside hivemind, Flower and p2pfl.

    python -m bench.rounds [--nodes 8] [--repeats 3] [--systems ours hivemind flower_simulation ...]

A model of 1 KB (256 float32), no training, everybody takes part in every round. Ours and hivemind are measured in
processes of their own, one each; Flower's simulation in Ray's workers; its deployment with one SuperLink and a
SuperNode per node; p2pfl in one process per node over gRPC, and in one process over its memory protocol. The systems
take turns. Rounds a second leave the first round out: it starts Ray, or votes; `first_s` says how long it took.

Systems that take seconds for a round are measured once, with fewer rounds. Writes `bench/results/rounds.csv` and says
one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from bench import results
from bench.averaging import LEAD_S, LOGS, Size, start_hivemind
from bench.cohort import ROOT, Child, Cohort, Failed, end, free_port, loopback_bytes, nothing_left, own_loopback
from bench.cohort import python_module as module
from bench.peers.environments import ENVIRONMENTS
from bench.peers.talk import now_s
from bench.summary import spread

ELEMENTS = 256
LOOK_S = 0.1
ROUNDS_LEAST = 2
"""The first does not count, so one more is needed."""
APP = ROOT / "bench" / "peers" / "flower_app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Moments before the first round and after each, and what was used between the first and the last."""

    moments: Sequence[float]
    loopback_bytes: int
    cpu_s: float
    versions: Mapping[str, str]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How to measure one system; a slow one is measured once."""

    name: str
    rounds: int
    measure: Callable[[int, int], Measured | dict[str, Any]]
    is_slow: bool = False


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(nodes: int, rounds: int) -> dict[str, Any]:
    """`bench/null_rounds.py`, which counts for itself."""
    return _null_rounds(nodes, rounds, ("--store", "memory"))


def ours_simulated(nodes: int, rounds: int) -> dict[str, Any]:
    """The same nodes in one process on the simulator, with no network at all: real seconds."""
    return _null_rounds(nodes, rounds, ("--simulated",))


def _null_rounds(nodes: int, rounds: int, more: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "bench" / "null_rounds.py"), "--repeats", "1"]
    command += ["--nodes", str(nodes), "--rounds", str(rounds), *more]
    found = json.loads(_output(command, limit_s=180))
    (only,) = found["trees"].values()
    row = {"rounds": rounds, "rounds_per_s": only["rounds_per_s"], "cpu_s_per_round": only["cpu_ms"] / 1000}
    if "lo_bytes" in only:
        row["bytes_per_node_and_round"] = round(only["lo_bytes"])
    return row


def _output(command: Sequence[str], limit_s: float) -> str:
    """Last line of what a program prints. Raises `Failed`; whatever it left running is ended."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done in {limit_s:g} s") from None
    finally:
        _end_tree(process.pid)
        process.wait()
    if process.returncode or not output.strip():
        raise Failed(f"exit status {process.returncode}")
    return output.strip().splitlines()[-1]


def _end_tree(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        end([process, *process.children(recursive=True)])


# -- hivemind ----------------------------------------------------------------------------------------------------------


def hivemind(nodes: int, rounds: int, setting: str = "none/0.5") -> Measured:
    """Steps of the averager one behind the other; the round is over when its last peer has it."""
    with Cohort() as cohort:
        versions = start_hivemind(cohort, Size(nodes, ELEMENTS, 0), [setting])
        cohort.tell_all({"do": "prepare", "setting": setting})
        lo, used, at_s = loopback_bytes(), cohort.used(), now_s() + LEAD_S
        answers = cohort.tell_all({"do": "loop", "setting": setting, "rounds": rounds, "at_s": at_s})
        lo_bytes, cpu_s = loopback_bytes() - lo, cohort.used().cpu_s - used.cpu_s
        failed = max(answer["failed"] for answer in answers)
        ends = [max(moments) for moments in zip(*(answer["moments"] for answer in answers), strict=True)]
    note = f"{failed} of {rounds} steps failed or had a smaller group" if failed else ""
    return Measured(moments=[at_s, *ends], loopback_bytes=lo_bytes, cpu_s=cpu_s, versions=versions, note=note)


# -- Flower ------------------------------------------------------------------------------------------------------------


def flower_simulation(nodes: int, rounds: int) -> Measured:
    """Flower's simulation: `run_simulation` on Ray."""
    environment = ENVIRONMENTS["flower"]
    with tempfile.TemporaryDirectory() as folder, Cohort() as cohort:
        extra = _flower_environment(folder, nodes, rounds)
        command = module("bench.peers.flower_simulation", environment.python, clients=nodes, rounds=rounds)
        cohort.start(command, LOGS / "flower-simulation.log", extra)
        return _watched(cohort, Path(extra["P2PFUSION_BENCH_MOMENTS"]), environment.versions(), limit_s=180)


def flower_deployment(nodes: int, rounds: int) -> Measured:
    """Flower as it is deployed: a SuperLink, a SuperNode per node, the app submitted to them."""
    environment = ENVIRONMENTS["flower"]
    binaries = environment.folder / "bin"
    with tempfile.TemporaryDirectory() as folder, Cohort() as cohort:
        extra = _flower_environment(folder, nodes, rounds)
        extra["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        port = free_port(nodes + 1)
        superlink = f"127.0.0.1:{port}"
        text = f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{superlink}"\ninsecure = true\n'
        Path(folder, "config.toml").write_text(text, encoding="utf-8")
        start = [str(binaries / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
        cohort.start([*start, "--port", str(port)], LOGS / "flower-superlink.log", extra)
        for rank in range(nodes):
            start = [str(binaries / "flower-supernode"), "--insecure", "--superlink", superlink]
            command = [*start, "--port", str(port + 1 + rank)]
            cohort.start(command, LOGS / f"flower-supernode-{rank}.log", extra)
        _submit([str(binaries / "flwr"), "run", str(APP), "bench"], extra)
        return _watched(cohort, Path(extra["P2PFUSION_BENCH_MOMENTS"]), environment.versions(), limit_s=400)


def _flower_environment(folder: str, nodes: int, rounds: int) -> dict[str, str]:
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "P2PFUSION_BENCH_MOMENTS": str(Path(folder, "moments.json")),
        "P2PFUSION_BENCH_ROUNDS": str(rounds),
        "P2PFUSION_BENCH_CLIENTS": str(nodes),
    }


def _submit(command: Sequence[str], extra: Mapping[str, str], limit_s: float = 60.0) -> None:
    """Try until the SuperLink listens. Raises `Failed`."""
    deadline_s = now_s() + limit_s
    while now_s() < deadline_s:
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **extra}, capture_output=True, timeout=30, check=False
            )
            if done.returncode == 0:
                return
        time.sleep(1.0)
    raise Failed("the app could not be submitted")


def _watched(cohort: Cohort, moments: Path, versions: Mapping[str, str], limit_s: float) -> Measured:
    """Wait for the file of moments; bytes and processor time are of the whole run, start included."""
    lo, deadline_s = loopback_bytes(), now_s() + limit_s
    while not moments.exists() or not moments.read_text(encoding="utf-8").endswith("]"):
        if now_s() > deadline_s:
            raise Failed(f"not done in {limit_s:g} s")
        time.sleep(LOOK_S)
    return Measured(
        moments=json.loads(moments.read_text(encoding="utf-8")),
        loopback_bytes=loopback_bytes() - lo,
        cpu_s=cohort.used().cpu_s,
        versions=versions,
        note="bytes and processor time include the start",
    )


# -- p2pfl -------------------------------------------------------------------------------------------------------------


def p2pfl_grpc(nodes: int, rounds: int) -> Measured:
    """A process per node, gRPC, everybody connected to everybody."""
    with Cohort() as cohort:
        port = free_port(nodes)
        for rank in range(nodes):
            _start_p2pfl(cohort, rank, protocol="grpc", nodes=1, port=port + rank)
        return _p2pfl(cohort, nodes, rounds)


def p2pfl_memory(nodes: int, rounds: int) -> Measured:
    """All nodes in one process, without a network."""
    with Cohort() as cohort:
        _start_p2pfl(cohort, 0, protocol="memory", nodes=nodes)
        return _p2pfl(cohort, nodes, rounds)


def _start_p2pfl(cohort: Cohort, rank: int, **options: object) -> Child:
    command = module("bench.peers.p2pfl_rounds", ENVIRONMENTS["p2pfl"].python, **options)
    return cohort.start(command, LOGS / f"p2pfl-{options['protocol']}-{rank}.log")


def _p2pfl(cohort: Cohort, nodes: int, rounds: int, limit_s: float = 150.0) -> Measured:
    answers = [child.hear() for child in cohort.children]
    cohort.tell_all({"do": "connect", "addresses": [one for answer in answers for one in answer["addresses"]]})
    deadline_s = now_s() + limit_s
    while any(answer["neighbours"] < nodes - 1 for answer in cohort.tell_all({"do": "count"})):
        if now_s() > deadline_s:
            raise Failed("the nodes did not find each other")
        time.sleep(LOOK_S)
    lo, used, begin_s = loopback_bytes(), cohort.used(), now_s()
    order = {"do": "run", "rounds": rounds, "peers": nodes, "limit_s": limit_s}
    for rank, child in enumerate(cohort.children):
        child.tell({**order, "is_first": rank == 0})
    ran = [child.hear() for child in cohort.children]
    done = min(len(answer["moments"]) - 1 for answer in ran)
    if done < ROUNDS_LEAST or any(answer["first"] < done for answer in ran):
        raise Failed(f"not all nodes did {ROUNDS_LEAST} rounds in {limit_s:g} s")
    note = "" if done == rounds else f"{done} of {rounds} rounds in {limit_s:g} s"
    ends = [max(moments) for moments in zip(*(answer["moments"][1 : done + 1] for answer in ran), strict=True)]
    return Measured(
        moments=[begin_s, *ends],
        loopback_bytes=loopback_bytes() - lo,
        cpu_s=cohort.used().cpu_s - used.cpu_s,
        versions=answers[0]["versions"],
        note=note,
    )


# -- all ---------------------------------------------------------------------------------------------------------------

SYSTEMS = {
    system.name: system
    for system in (
        System(name="ours", rounds=100, measure=ours),
        System(name="ours_simulated", rounds=100, measure=ours_simulated),
        System(name="hivemind", rounds=15, measure=hivemind),
        System(name="flower_simulation", rounds=40, measure=flower_simulation),
        System(name="flower_deployment", rounds=4, measure=flower_deployment, is_slow=True),
        System(name="p2pfl_memory", rounds=4, measure=p2pfl_memory, is_slow=True),
        System(name="p2pfl_grpc", rounds=4, measure=p2pfl_grpc, is_slow=True),
    )
}


def row_of(measured: Measured, nodes: int) -> dict[str, Any]:
    """Rounds a second without the first round, and how long rounds took."""
    took = [after - before for before, after in pairwise(measured.moments)]
    first_s, later = took[0], took[1:]
    rounds = len(took)
    return {
        "rounds": rounds,
        "rounds_per_s": len(later) / sum(later),
        "median_s": spread(later).median,
        "longest_s": max(later),
        "first_s": first_s,
        "cpu_s_per_round": measured.cpu_s / rounds,
        "bytes_per_node_and_round": round(measured.loopback_bytes / rounds / nodes),
        "note": measured.note,
    }


def measure(options: argparse.Namespace) -> None:
    about = results.about(nodes=options.nodes, network="own" if own_loopback() else "shared")
    rows: list[dict[str, Any]] = []
    versions: dict[str, Mapping[str, str]] = {}
    left_out: list[str] = []
    for turn in range(options.repeats):
        for system in (SYSTEMS[name] for name in options.systems):
            if system.is_slow and turn >= options.slow_repeats:
                continue
            try:
                found = system.measure(options.nodes, system.rounds)
            except (Failed, json.JSONDecodeError) as failure:
                left_out.append(f"{system.name}, turn {turn}: {failure}")
                print(left_out[-1], file=sys.stderr, flush=True)
                continue
            if isinstance(found, Measured):
                versions[system.name] = found.versions
                found = row_of(found, options.nodes)
            rows.append({"system": system.name, "nodes": options.nodes, "repeat": turn, **found})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            results.write(options.name, rows, {**about, "versions": versions, "left_out": left_out})
    medians = {
        name: round(spread(row["rounds_per_s"] for row in rows if row["system"] == name).median, 3)
        for name in dict.fromkeys(row["system"] for row in rows)
    }
    print(json.dumps({"bench": options.name, "nodes": options.nodes, "rounds_per_s": medians, "left_out": left_out}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow-repeats", type=int, default=1, help="for systems that take seconds for a round")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--name", default="rounds", help="of the files written to bench/results")
    options = parser.parse_args()
    with nothing_left():
        measure(options)


if __name__ == "__main__":
    main()

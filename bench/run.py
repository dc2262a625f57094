"""Run the benches one by one and write what they say: `make bench`, and `make bench-peers` with other projects.

    python -m bench.run [--peers] [--only fold transport] [--list]

Each bench is a program of its own with a time limit; its lines of JSON are kept as `bench/results/NAME.jsonl` and
`BENCHMARKS.md` is written anew after each. Nothing is left running, also after Ctrl-C. With `--peers` only those that
need the environments of other projects run, and the environments are made first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import psutil

from bench import report, results
from bench.catalogue import BENCHES, Bench
from bench.cohort import ROOT, end, nothing_left
from bench.peers.environments import ENVIRONMENTS
from bench.peers.talk import ONE_THREAD, now_s
from bench.tables import scrubbed


def run(bench: Bench) -> str:
    """Run one and keep its lines; what went wrong, or nothing."""
    about = results.about(command=" ".join(("python", *bench.command)))
    begin_s, environment = now_s(), {**results.environment(), **ONE_THREAD}
    process = subprocess.Popen(
        [sys.executable, *bench.command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    wrong = ""
    try:
        output, _ = process.communicate(timeout=bench.limit_s)
        wrong = f"exit status {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        wrong = f"not done in {bench.limit_s:g} s"
        end(psutil.Process().children(recursive=True))
        output, _ = process.communicate()
    lines = [line for line in map(_parsed, output.splitlines()) if line is not None]
    if not lines and not wrong:
        wrong = "it printed no line of JSON"
    about |= {"seconds": round(now_s() - begin_s), "wrong": wrong}
    results.keep_lines(bench.name, [scrubbed(line, str(ROOT)) for line in lines], about)
    return wrong


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def make_environments() -> None:
    """The environments of other projects; minutes the first time, a second later."""
    for environment in ENVIRONMENTS.values():
        if not environment.is_ready:
            print(f"making the environment of {environment.name}", file=sys.stderr, flush=True)
        environment.make()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="those that need other projects, and only those")
    parser.add_argument("--only", nargs="+", choices=[bench.name for bench in BENCHES], help="whatever they need")
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    options = parser.parse_args()
    chosen = [
        bench
        for bench in BENCHES
        if bench.exists and (bench.name in options.only if options.only else bench.is_peer == options.peers)
    ]
    if options.list:
        for bench in chosen:
            print(f"{bench.name:16} {' '.join(bench.command)}")
        return 0
    wrong = {}
    with nothing_left():
        if any(bench.is_peer for bench in chosen):
            make_environments()
        for bench in chosen:
            print(f"== {bench.name}", file=sys.stderr, flush=True)
            if failure := run(bench):
                wrong[bench.name] = failure
                print(f"{bench.name}: {failure}", file=sys.stderr, flush=True)
            report.write()
    print(json.dumps({"benches": len(chosen), "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""How near are segments to what loopback and aiohttp can do, and does the loop stay responsive meanwhile?

    python -m bench.transport [--mebibytes 64] [--repeats 5] [--codec fp32] [--nodes 4] [--millions 10]

First two processes: one holds a contribution of so many MiB in segments of 1 MiB, the other fetches it as a node does,
hashes and the gate included. Beside it, in turns, a plain aiohttp body of the same size, streamed in pieces of 256 KiB
and read into a buffer that is there already. `ratio` is plain's time over ours, each pair from the same turn: above 0.8
is the goal. `lag` is how late the event loops of both processes came back to a task that slept for 5 ms.

Then so many nodes, each with a contribution of so many million elements that all others want: `duplicates` is payload
bytes received over payload bytes needed, the worst node's; 1 is the best there can be.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from bench import results
from bench.cohort import Child, Cohort, nothing_left, python_module
from bench.peers.talk import now_s
from bench.summary import spread

LOGS = results.FOLDER.parent.parent / ".bench" / "logs"
LEAD_S = 0.2
"""Between an order and the moment it is for: everybody has read it by then."""
NOT_OPEN = 1000
"""A round of which the nodes do not talk to each other: it is fetched when we say so, and not before."""


def ask(child: Child, **order: Any) -> dict[str, Any]:
    child.tell(order)
    return child.hear()


def started(cohort: Cohort, count: int, elements: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Parties that know each other."""
    for rank in range(count):
        cohort.start(
            python_module("bench.party", rank=rank, elements=elements, codec=options.codec, limit=options.limit),
            LOGS / f"party-{rank}.log",
        )
    said = [child.hear() for child in cohort.children]
    cohort.tell_all({"do": "meet", "addresses": [one["address"] for one in said]})
    return said


def late(samples: Sequence[float]) -> dict[str, float]:
    """Of lags in ms: median, 99th percentile, largest."""
    ordered = sorted(samples) or [0.0]
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
        "samples": len(samples),
    }


def one_contribution(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the plain body in turns; the first turn warms up and is not counted."""
    elements = options.mebibytes << 18
    ours, plain, lags, copies = [], [], {"server": [], "client": [], "plain": []}, 0.0
    used, used_plain = [], []
    with Cohort() as cohort:
        said = started(cohort, 2, elements, options)
        server, client = cohort.children
        for turn in range(options.repeats + 1):
            held = ask(server, do="hold", round=NOT_OPEN + turn, is_known=True)
            ask(server, do="mark")
            found = ask(client, do="want", wanted=[held], at_s=now_s() + LEAD_S)
            serving = ask(server, do="measured")
            ask(server, do="mark")
            beside = ask(client, do="plain", url=said[0]["url"])
            plainly = ask(server, do="measured")
            for child in cohort.children:
                ask(child, do="forget", round=NOT_OPEN + turn)
            if turn or not options.repeats:
                ours.append(found["seconds"])
                plain.append(beside["seconds"])
                lags["client"] += found["lag_ms"]
                lags["server"] += serving["lag_ms"]
                used.append(found["cpu_s"] + serving["cpu_s"])
                used_plain.append(beside["cpu_s"] + plainly["cpu_s"])
                lags["plain"] += beside["lag_ms"]
                copies = max(copies, found["received"] / found["needed"])
    return {
        "mebibytes": options.mebibytes,
        "seconds": round(spread(ours).median, 4),
        "plain_seconds": round(spread(plain).median, 4),
        "cpu_s": round(spread(used).median, 4),
        "plain_cpu_s": round(spread(used_plain).median, 4),
        "ratio": round(spread(p / o for p, o in zip(plain, ours, strict=True)).median, 3),
        "ratios": [round(p / o, 2) for p, o in zip(plain, ours, strict=True)],
        "lag_ms": {name: late(samples) for name, samples in lags.items()},
        "duplicates": round(copies, 3),
    }


def exchange(options: argparse.Namespace) -> dict[str, Any]:
    """Everybody's contribution to everybody."""
    seconds, copies, lags = [], [], []
    with Cohort() as cohort:
        started(cohort, options.nodes, round(1e6 * options.millions), options)
        for turn in range(options.repeats + 1):
            held = cohort.tell_all({"do": "hold", "round": turn + 1, "is_known": False})
            told = {"do": "exchange", "all": held, "round": turn + 1, "at_s": now_s() + LEAD_S}
            found = cohort.tell_all(told)
            cohort.tell_all({"do": "forget", "round": turn + 1})
            if turn or not options.repeats:
                seconds.append(max(one["seconds"] for one in found))
                copies.append(max(one["received"] / one["needed"] for one in found))
                lags += [lag for one in found for lag in one["lag_ms"]]
    return {
        "nodes": options.nodes,
        "millions": options.millions,
        "seconds": round(spread(seconds).median, 3),
        "duplicates": round(spread(copies).median, 3),
        "duplicates_max": round(max(copies), 3),
        "lag_ms": late(lags),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--codec", default="fp32")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--millions", type=float, default=10.0)
    parser.add_argument("--limit", type=float, help="bytes a second that each node may send, and receive")
    parser.add_argument("--only", choices=("contribution", "exchange"))
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    found: dict[str, Any] = {
        "bench": "transport",
        "codec": options.codec,
        "repeats": options.repeats,
        "limit": options.limit,
        "load": load,
    }
    with nothing_left():
        if options.only != "exchange":
            found["contribution"] = one_contribution(options)
        if options.only != "contribution":
            found["exchange"] = exchange(options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Where results live: `bench/results/NAME.csv`, a row per measurement, and `NAME.about.json`, what was measured where.

Benches that print lines of JSON instead have them kept as `NAME.jsonl`. No host name is written anywhere.
"""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "sha_ni")
"""Of a CPU's flags those that change what these benches do."""


def machine() -> dict[str, Any]:
    """Cores, memory, CPU model and flags, system and Python: what a reader needs to compare."""
    model, flags = platform.machine(), ""
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = value
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")), 0)
    has = frozenset(flags.split())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in has],
        "memory_gib": round(memory_kb / 2**20, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


def about(**values: object) -> dict[str, Any]:
    """What every result says of itself: machine, day, load at the start, and the values given."""
    day = datetime.now(UTC).date().isoformat()
    return {"machine": machine(), "day": day, "load_at_start": round(os.getloadavg()[0], 1), **values}


def environment() -> dict[str, str]:
    """Ours, for a child whose lines are read while it runs."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def write(name: str, rows: Sequence[Mapping[str, Any]], said: Mapping[str, Any]) -> None:
    """Rows of one bench, whose columns may differ, and what is said about them."""
    FOLDER.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (FOLDER / f"{name}.about.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def keep_lines(name: str, lines: Sequence[Mapping[str, Any]], said: Mapping[str, Any]) -> None:
    """Lines of JSON that a bench printed, behind a first one about the machine."""
    FOLDER.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in ({"about": said}, *lines))
    (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")


def read(name: str) -> tuple[list[dict[str, str]], dict[str, Any]] | None:
    """Rows and what is said about them; None when this bench has not run."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = FOLDER / f"{name}.about.json"
    return rows, json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}


def read_lines(name: str) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """Kept lines and what is said about them; None when this bench has not run."""
    path = FOLDER / f"{name}.jsonl"
    if not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    said = lines.pop(0)["about"] if lines and "about" in lines[0] else {}
    return lines, said


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

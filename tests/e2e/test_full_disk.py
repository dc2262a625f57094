"""A disk that fills up under a running node and is freed again: a real file system of 16 MiB, in a mount namespace."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHELL = """
mount -t tmpfs -o size=16m tmpfs "$0" || exit 99
"$@" < /dev/null &
while read word; do
    case $word in
        fill) cat /dev/zero > "$0/filler" 2> /dev/null ;;
        free) rm "$0/filler" ;;
    esac
done
wait $!
"""


def warnings(events: list[dict[str, Any]]) -> list[str]:
    return [event["code"] for event in events if event["event"] == "warning"]


def test_a_full_disk_costs_one_warning_and_is_used_again_when_it_has_room(tmp_path: Path) -> None:
    command = [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SHELL, str(tmp_path)),
        *(sys.executable, "-m", "p2pfusion", "join", "digits", "--json", "--listen", "127.0.0.1:0"),
        *("--swarm", f"test-{uuid.uuid4().hex[:12]}", "--state", str(tmp_path / "state"), "--until", "rounds=45"),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        events: list[dict[str, Any]] = []
        for line in process.stdout:
            events.append(json.loads(line))
            what = {9: "fill", 25: "free"}.get(events[-1].get("round", 0))
            if events[-1]["event"] == "round" and what:
                process.stdin.write(what + "\n")
                process.stdin.flush()
            if events[-1]["event"] == "done":
                break
        process.stdin.close()
        assert process.stderr is not None
        notes = process.stderr.read()
        assert process.wait(timeout=30) == 0, notes
    assert events[-1]["event"] == "done"
    assert (events[-1]["status"], events[-1]["round"]) == ("ok", 45)
    assert warnings(events) == ["store", "store-recovered"], [e for e in events if e["event"] == "warning"]
    text = next(event["text"] for event in events if event["event"] == "warning")
    assert "No space left on device; free some space" in text
    assert "training goes on in memory" in text

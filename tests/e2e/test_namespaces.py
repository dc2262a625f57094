"""Several hosts on a LAN of their own: real multicast between real network stacks."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

HOSTS = 3
CHILD = str(Path(__file__).with_name("lan_child.py"))


def say_why_not(namespaces: ModuleType) -> bool:
    """Whether namespaces cannot be made here; then the reason is printed and must be a sentence for a person."""
    why = namespaces.verdict()
    if why is None:
        return False
    print(f"NOT TESTED: {why}")
    assert why.startswith("network namespaces cannot be made here: ")
    assert len(why.split()) > 7
    assert "\n" not in why
    return True


def start(lan: Any, host: int, tag: str, expected: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    child: subprocess.Popen[str] = lan.popen(
        host, [sys.executable, "-W", "error", CHILD, tag, str(expected)], **options
    )
    return child


def heard(child: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert child.stdout is not None
    found: dict[str, Any] = json.loads(child.stdout.readline())
    assert found["event"] == event
    return found


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def test_hosts_find_and_call_each_other_within_5_s(namespaces: ModuleType) -> None:
    if say_why_not(namespaces):
        return
    tag = secrets.token_hex(8)
    with namespaces.lan(HOSTS) as lan:
        children = [start(lan, host, tag, HOSTS - 1) for host in range(HOSTS)]
        for child in children:
            heard(child, "ready")
        for child in children:
            go(child)
        addresses = [heard(child, "serving")["addresses"] for child in children]
        assert [address.rpartition(":")[0] for (address,) in addresses] == list(lan.addresses)
        for child, (own,) in zip(children, addresses, strict=True):
            others = heard(child, "met")["others"]
            print(f"{own} met {others}")
            assert sorted(others) == sorted(address for (address,) in addresses if address != own)
            assert max(others.values()) < 5
        for child in children:
            go(child)
            heard(child, "left")
            assert child.wait(timeout=10) == 0


def test_a_late_host_is_found_by_those_already_there(namespaces: ModuleType) -> None:
    if say_why_not(namespaces):
        return
    tag = secrets.token_hex(8)
    with namespaces.lan(2) as lan:
        early, late = (start(lan, host, tag, 1) for host in range(2))
        heard(early, "ready")
        go(early)
        heard(early, "serving")
        heard(late, "ready")
        go(late)
        heard(late, "serving")
        print(f"late met {heard(late, 'met')['others']}")
        assert len(heard(early, "met")["others"]) == 1


CALL = """
import asyncio, sys
from p2pfusion.errors import DeadlineExceeded
from p2pfusion.net.http import HttpTransport
from p2pfusion.seams import Request
async def main():
    transport = HttpTransport()
    try:
        await transport.call(sys.argv[1], Request("GET", "/v1/ping"), deadline_s=0.5)
    except DeadlineExceeded as error:
        print(error)
    await transport.close()
asyncio.run(main())
"""


def test_a_pulled_cable_is_silence_until_our_own_deadline(namespaces: ModuleType) -> None:
    if say_why_not(namespaces):
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with namespaces.lan(2) as lan:
        lan.cable(1, plugged=False)
        argv = [sys.executable, "-W", "error", "-c", CALL, f"{lan.addresses[1]}:5000"]
        caller = lan.popen(0, argv, stdout=subprocess.PIPE, text=True, env=environment)
        assert caller.communicate(timeout=30)[0] == f"{lan.addresses[1]}:5000: no answer within 0.5 s\n"


JOIN = ("-m", "p2pfusion", "join", "digits", "--min-peers", "3", "--until", "rounds=8", "--json")


def test_three_hosts_on_a_lan_train_one_model_with_no_address_given(namespaces: ModuleType, tmp_path: Path) -> None:
    """The whole product: `p2pfusion join` in three namespaces; the third to start meets the others within 5 s."""
    if say_why_not(namespaces):
        return

    def state(host: int) -> tuple[str, str]:
        return "--state", str(tmp_path / str(host))

    with namespaces.lan(3) as lan:
        nodes = [
            lan.popen(
                host,
                [
                    sys.executable,
                    *JOIN,
                    "--data-part",
                    f"{host}/3",
                    "--name",
                    f"host-{host}",
                    "--state",
                    f"{tmp_path}/{host}",
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host in range(3)
        ]
        dones = []
        for node in nodes:
            out, err = node.communicate(timeout=120)
            assert node.returncode == 0, err
            events = [json.loads(line) for line in out.splitlines()]
            assert (
                len({event["name"] for event in events if event["event"] == "peer" and event["state"] == "alive"}) == 2
            )
            dones.append(events[-1])
        print({done["name"]: f"{done['seconds']:.1f} s" for done in dones})
        assert {done["status"] for done in dones} == {"ok"}
        assert len({(done["chain"], done["model_sha256"]) for done in dones}) == 1
        # From ready to the end: meeting, 2 s of quiet, 8 rounds. Had they met late, the quiet would have begun late.
        assert min(done["seconds"] for done in dones) < 5 + 2 + 8 * 1.5


def test_nothing_is_left_behind(namespaces: ModuleType) -> None:
    if say_why_not(namespaces):
        return

    def links() -> list[str]:
        return [line.split()[0] for line in Path("/proc/net/dev").read_text().splitlines()[2:]]

    before = links()
    with namespaces.lan(2) as lan:
        child = lan.popen(0, ["sleep", "60"])
        assert links() == before
        assert f"p2pf-{os.getpid()}" in lan.names[0]
    assert child.returncode is not None
    assert links() == before
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"p2pf-{os.getpid()}" not in named


def test_what_is_missing_is_said_in_one_sentence(namespaces: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool == "nsenter" else tool)
    assert namespaces.verdict() == "network namespaces cannot be made here: nsenter is not installed"
    monkeypatch.undo()
    monkeypatch.setattr(namespaces, "_HOLD", "echo mount: permission denied >&2; exit 1")
    assert namespaces.verdict() == (
        "network namespaces cannot be made here: mount: permission denied; run as root or allow user namespaces"
    )

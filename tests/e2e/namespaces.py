"""A LAN of several hosts on one computer: network namespaces on a bridge, for root and for ordinary users alike.

Everything lives inside one holder process (`unshare`), in a network and mount namespace of its own: the bridge, the
veth pairs and the names of the hosts (`p2pf-<pid>-<host>`). Nothing is made in the computer's own network, and when the
holder ends, however it ends, the kernel takes everything away with it. Processes are put onto a host by `Lan.popen`.

Needs `unshare`, `nsenter` and `ip` on Linux, and either root or user namespaces. Where that is not given, `lan` raises
`Unavailable` and `verdict` says why in one sentence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NETWORK = "10.77.0"
HOSTS_MAX = 64
_TOOLS = ("unshare", "nsenter", "ip")
_HOLD = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && echo ready && exec cat"


class Unavailable(Exception):
    """Namespaces cannot be made here; the text is one sentence for a person."""


@dataclass
class Lan:
    """Hosts that see each other and nothing else. `addresses[i]` is the IP address of host `i`."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    enter: tuple[str, ...]
    """The command that runs another command beside the bridge."""
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        """`argv`, on that host."""
        return [*self.enter, "ip", "netns", "exec", self.names[host], *argv]

    def popen(self, host: int, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on that host; its pid is the program's own. It is killed when the LAN goes."""
        process = subprocess.Popen(self.command(host, argv), **options)
        self.processes.append(process)
        return process

    def cable(self, host: int, *, plugged: bool) -> None:
        """Pull or plug that host's cable, at the switch: the host itself sees its interface stay up."""
        run([*self.enter, "ip", "link", "set", f"port{host}", "up" if plugged else "down"])


@contextlib.contextmanager
def lan(hosts: int = 3) -> Iterator[Lan]:
    """A LAN for as long as the block lasts. Raises `Unavailable`."""
    assert 1 <= hosts <= HOSTS_MAX
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"network namespaces cannot be made here: {', '.join(missing)} is not installed")
    holder, enter = _hold()
    names = tuple(f"p2pf-{os.getpid()}-{host}" for host in range(hosts))
    made = Lan(names, tuple(f"{NETWORK}.{host + 1}" for host in range(hosts)), enter)
    try:
        run([*enter, "sh", "-e", "-c", _plan(made)])
        yield made
    finally:
        for process in made.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        holder.communicate()  # end of input ends it, and with it the namespaces


def verdict() -> str | None:
    """None where a LAN can be made, else the reason in one sentence."""
    try:
        with lan(1):
            return None
    except Unavailable as reason:
        return str(reason)


def run(argv: Sequence[str]) -> None:
    """Run a set-up command. Raises `Unavailable` with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise Unavailable(f"network namespaces cannot be made here: {_said(done.stderr)}")


def _hold() -> tuple[subprocess.Popen[str], tuple[str, ...]]:
    """Start the holder: as root plainly if we are root, else as root of a user namespace of our own."""
    said = ""
    for user in ([], ["--user"]) if os.geteuid() == 0 else (["--user"],):
        mapped = ["--map-root-user"] if user else []
        holder = subprocess.Popen(
            ["unshare", *user, *mapped, "--net", "--mount", "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() == "ready\n":
            kept = ["--preserve-credentials"] if user else []
            return holder, ("nsenter", "--target", str(holder.pid), *user, *kept, "--net", "--mount", "--wd")
        said = _said(holder.communicate()[1])
    raise Unavailable(f"network namespaces cannot be made here: {said}; run as root or allow user namespaces")


def _said(text: str) -> str:
    return (text.strip().splitlines() or ["the command said nothing"])[-1]


def _plan(made: Lan) -> str:
    """The shell script that makes the switch and plugs every host in."""
    lines = ["ip link add switch type bridge mcast_snooping 0", "ip link set switch up"]
    for host, (name, address) in enumerate(zip(made.names, made.addresses, strict=True)):
        lines += [
            f"ip netns add {name}",
            f"ip link add port{host} type veth peer name eth0 netns {name}",
            f"ip link set port{host} master switch up",
            f"ip -n {name} addr add {address}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ]
    return "\n".join(lines)

"""Options, help, and what becomes of an error: one line, the right status, no traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from p2pfusion.app import cli, demo, joining
from p2pfusion.app.cli import main
from p2pfusion.app.demo import DemoOptions
from p2pfusion.app.join_options import JoinOptions
from p2pfusion.app.values import Part, Until
from p2pfusion.config import ALGORITHM_DEFAULT, COMMON_RATE_DEFAULT
from p2pfusion.errors import P2PFusionError, PortError, Refused, StoreError, TooFewPeers, TrainingError

ROOT = Path(cli.__file__).parents[2]
COMMANDS = ["demo", "join", "new", "check", "plan", "export", "simulate"]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[JoinOptions]:
    """What `join` was called with, instead of joining."""
    seen: list[JoinOptions] = []

    def run_join(options: JoinOptions) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(joining, "run_join", run_join)
    return seen


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_join(options: JoinOptions) -> int:
        raise error

    monkeypatch.setattr(joining, "run_join", run_join)


def test_defaults_of_join(joined: list[JoinOptions]) -> None:
    assert main(["join"]) == 0
    assert joined == [
        JoinOptions(
            task="digits", swarm="p2pfusion", name=None, until=None, timeout=None, wait=None, min_peers=1, peers=(),
            listen="0.0.0.0:0", data_part=None, state=None, fresh=False, device="auto", codec="auto", density=0.01,
            limit_rate=None, budget=None, metrics=None, quiet_period=None, leave_on_eof=False, rate=0.5,
            role="owner", memory=None, hop_codec="bf16", micro_batches=1, keeps_all=False,
            algorithm=ALGORITHM_DEFAULT, common=COMMON_RATE_DEFAULT, momentum=0.0, seed=0,
            json=False, quiet=False, verbose=False,
        )
    ]  # fmt: skip


def test_every_option_of_join(joined: list[JoinOptions]) -> None:
    line = (
        "join my_task.py --swarm lab --name fox --algorithm fedrolex --slice 25% --until accuracy=0.95 --timeout 2m "
        "--wait 30s --min-peers 3 --peer 10.0.0.1:7790 --peer wren:1 --listen 127.0.0.1:7790 --data-part 1/3 "
        "--state folder --fresh --seed 7 --common 12.5% --outer-momentum 0.6 --device cpu --json -q -v --leave-on-eof "
        "--codec topk --density 0.5% --limit-rate 2MB/s --budget 50MB/h --metrics 0 --quiet-period 100ms "
        "--role relay --memory 2GB --hop-codec int8 --micro-batches 4 --keep-all"
    )
    assert main(line.split()) == 0
    assert joined == [
        JoinOptions(
            task="my_task.py", swarm="lab", name="fox", until=Until(accuracy=0.95), timeout=120.0, wait=30.0,
            min_peers=3, peers=("10.0.0.1:7790", "wren:1"), listen="127.0.0.1:7790", data_part=Part(1, 3),
            state=Path("folder"), fresh=True, device="cpu", codec="topk", density=0.005, limit_rate=2e6,
            budget=5e7, metrics=0, quiet_period=0.1, leave_on_eof=True, rate=0.25, algorithm="fedrolex",
            common=0.125, momentum=0.6, seed=7, role="relay", memory=2 * 10**9, hop_codec="int8",
            micro_batches=4, keeps_all=True,
            json=True, quiet=True, verbose=True,
        )
    ]  # fmt: skip


def test_join_may_choose_the_slice_itself(joined: list[JoinOptions]) -> None:
    assert main(["join", "--slice", "auto"]) == 0
    assert joined[0].rate == "auto"


def test_options_of_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DemoOptions] = []

    def run_demo(options: DemoOptions) -> int:
        seen.append(options)
        return 8

    monkeypatch.setattr(demo, "run_demo", run_demo)
    assert main(["demo"]) == 8
    line = (
        "demo --nodes 4 --slice 0.25 --algorithm full --common 50% --outer-momentum 30% --rounds 5 --seed 9 --json -q"
    )
    assert main(line.split()) == 8
    common: dict[str, Any] = {"verbose": False}
    assert seen == [
        DemoOptions(
            nodes=3, rounds=None, rate=0.5, algorithm=ALGORITHM_DEFAULT, common=COMMON_RATE_DEFAULT, momentum=0.0,
            seed=0, json=False, quiet=False, **common
        ),
        DemoOptions(nodes=4, rounds=5, rate=0.25, algorithm="full", common=0.5, momentum=0.3, seed=9, json=True,
            quiet=True, **common),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jion", ["jion", "p2pfusion --help"]),
        ("join --slcie 50%", ["--slcie", "p2pfusion join --help"]),
        ("join --slice 50", ["--slice", "write it like 50% or 0.5"]),
        ("join --slice 0%", ["trains nothing"]),
        ("join --slice most", ["write it like 50% or 0.5"]),
        ("demo --slice auto", ["write it like 50% or 0.5"]),
        ("join --common 0%", ["--common", "trains nothing"]),
        ("join --outer-momentum 100%", ["--outer-momentum", "never comes to rest"]),
        ("join --until 50", ["rounds=50"]),
        ("join --timeout soon", ["30s"]),
        ("join --min-peers 0", ["--min-peers", "1"]),
        ("join --data-part 3/3", ["I/N"]),
        ("join --peer 7790", ["HOST:PORT"]),
        ("join --listen :", ["HOST:PORT"]),
        ("join --device tpu", ["--device", "cuda"]),
        ("join --seed -1", ["--seed"]),
        ("join --codec zip", ["--codec", "int8"]),
        ("join --density 0%", ["--density", "sends nothing", "1%"]),
        ("join --limit-rate 2MB", ["--limit-rate", "2MB/s"]),
        ("join --limit-rate 2MB/h", ["--limit-rate", "at least 66kB/s"]),
        ("join --density 5%", ["--density", "--codec topk or stc"]),
        ("join --codec int8 --density 5%", ["--density", "--codec topk or stc"]),
        ("join --role server", ["--role", "relay"]),
        ("join --memory much", ["--memory", "4GB or 512MiB"]),
        ("join --budget 50", ["--budget", "50MB/h"]),
        ("join --metrics 65536", ["--metrics"]),
        ("join --name", ["--name"]),
        ("join a.py b.py", ["b.py"]),
        ("check", ["TASK"]),
        ("export", ["FILE"]),
        ("demo --nodes 99", ["--nodes"]),
        ("simulate latency --loss 200%", ["--loss"]),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(
    line: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("disk is full; free some space"), 3),
        (TooFewPeers("only 1 of 3 after 30 s: start another"), 4),
        (Refused("your model is not the swarm's"), 5),
        (PortError("port 7790 is in use: choose another"), 6),
        (TrainingError("the loss is nan: lower the learning rate"), 7),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [PortError("port 7790 is in use: choose another")])]), 6),
    ],
)
def test_our_errors_are_one_line_and_their_status(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert main(["join", "-v"]) == status
    out, err = capsys.readouterr()
    inner = error
    while isinstance(inner, ExceptionGroup):
        inner = inner.exceptions[0]
    assert (out, err) == ("", f"error: {inner}\n")


def test_anything_else_is_our_bug_with_a_traceback_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, RuntimeError("first line\nsecond line"))
    assert main(["join"]) == 1
    err = capsys.readouterr().err
    assert err == "error: this is our bug: RuntimeError: first line (please report it, with what -v shows)\n"
    assert main(["join", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupts_and_exits_keep_their_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, status in ((KeyboardInterrupt(), 130), (click.exceptions.Abort(), 130), (SystemExit(3), 3)):
        fail_with(monkeypatch, error)
        assert main(["join"]) == status
    assert capsys.readouterr() == ("", "")


def test_every_error_of_the_tree_has_a_status_of_the_table() -> None:
    def descend(kind: type[P2PFusionError]) -> list[type[P2PFusionError]]:
        return [kind, *(found for inner in kind.__subclasses__() for found in descend(inner))]

    assert {kind.exit_status for kind in descend(P2PFusionError)} == {1, 2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_no_error(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "Usage: p2pfusion" in out
    assert "leave-on-eof" not in out
    assert "quiet-period" not in out
    assert err == ""
    if not line:
        assert all(name in out for name in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import p2pfusion

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"p2pfusion, version {p2pfusion.__version__}\n"


def run(*line: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, **options
    )


HEAVY = "import sys; print(sorted({'torch', 'numpy', 'aiohttp', 'zeroconf', 'rich'} & sys.modules.keys()))"


@pytest.mark.parametrize("line", [["--help"], ["--version"], ["join", "--help"], ["demo", "--help"], ["join", "--x"]])
def test_what_needs_no_torch_imports_none(line: list[str]) -> None:
    done = run("-c", f"from p2pfusion.app.cli import main\nmain({line!r})\n{HEAVY}")
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_is_light() -> None:
    assert run("-c", f"import p2pfusion\n{HEAVY}").stdout == "[]\n"


def test_python_m_p2pfusion_is_the_command() -> None:
    done = run("-m", "p2pfusion", "join", "--slice", "50")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert run("-m", "p2pfusion", "--help").stdout.startswith("Usage: p2pfusion ")


def test_a_reader_that_has_gone_is_no_bug() -> None:
    code = (
        "import os, sys; from p2pfusion.app.cli import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(main(['--help']))"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_that_cannot_show_a_character_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["--version"]) == 0
    assert out.errors == "replace"


def test_a_shell_can_ask_what_could_be_typed_next() -> None:
    environ = {**os.environ, "_P2PFUSION_COMPLETE": "bash_complete", "COMP_WORDS": "p2pfusion jo", "COMP_CWORD": "1"}
    assert run("-m", "p2pfusion", env=environ).stdout == "plain,join\n"


def test_options_may_come_in_any_order(joined: list[JoinOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", "--json", "digits", "--until=rounds=5"]) == 0
    assert joined[0].until == Until(rounds=5)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    command: Any = cli.commands.commands[name]
    options: list[Callable[..., Any]] = [item for item in command.params if isinstance(item, click.Option)]
    assert all(getattr(option, "help", None) for option in options)

"""From how a run ended to an exit status and a sentence; addresses by name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from p2pfusion.app import joining
from p2pfusion.app.cli import main
from p2pfusion.app.join_options import numeric_address
from p2pfusion.app.joining import exit_status, farewell
from p2pfusion.app.output import DoneLine
from p2pfusion.app.states import resumption
from p2pfusion.app.values import Until
from p2pfusion.errors import UsageError
from p2pfusion.net.lan import lan_node
from p2pfusion.zoo.tasks import digits_task

GOAL = Until(rounds=50)


@pytest.mark.parametrize(
    ("status", "until", "expected"),
    [
        ("ok", GOAL, 0),
        ("ok", None, 0),
        ("interrupted", GOAL, 130),
        ("interrupted", None, 0),
        ("timeout", GOAL, 8),
        ("timeout", None, 0),
        ("failed", GOAL, 7),
        ("failed", None, 7),
    ],
)
def test_exit_statuses(status: str, until: Until | None, expected: int, done_line: Callable[..., DoneLine]) -> None:
    assert exit_status(done_line(status=status), until) == expected


def test_a_run_that_never_began_was_interrupted() -> None:
    assert exit_status(None, None) == 0
    assert exit_status(None, GOAL) == 130


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--role relay", "add --algorithm mp_sl"),
        ("--memory 1GB", "add --algorithm mp_sl"),
        ("--algorithm mp_sl --metrics 0", "--metrics is not there for a model in pieces"),
        ("--algorithm mp_sl --outer-momentum 10%", "--outer-momentum is not there for a model in pieces"),
        ("--algorithm mp_sl --until accuracy=0.9", "a chain ends by rounds"),
    ],
)
def test_options_that_do_not_go_together_are_refused(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", "digits", *line.split()]) == 2
    assert words in capsys.readouterr().err


def test_what_no_swarm_runs_is_refused_before_anything_is_prepared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joining, "_prepared", lambda options: pytest.fail("the task was prepared"))
    assert main(["join", "--algorithm", "ring", "-q"]) == 2
    err = capsys.readouterr().err
    assert "p2pfusion.lab.rounds" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("options", [{"algorithm": "alone"}, {"common": 0.0}, {"outer_momentum": 1.0}])
def test_an_embedded_node_refuses_the_same(options: dict[str, Any]) -> None:
    async def enter() -> None:
        async with lan_node(digits_task(), listen="127.0.0.1:0", **options):
            pass

    with pytest.raises(UsageError):
        asyncio.run(enter())


def test_the_last_sentence_tells_what_is_known(done_line: Callable[..., DoneLine]) -> None:
    assert farewell(done_line(seconds=75.0)) == (
        "fox: ok at round 3 after 1:15, accuracy 90.0 %, model 1212121212121212, "
        "sent 3.0 kB (weights 2.7 kB, lists 180 B, talk 120 B); "
        "received 6.0 kB (weights 5.4 kB, lists 360 B, talk 240 B)"
    )
    told = farewell(done_line(widths={"25%": 0.85, "50%": 0.9}, served="50%"))
    assert "accuracy 90.0 % with width 50% (25%: 85.0 %, 50%: 90.0 %), model " in told
    assert farewell(done_line(accuracy=None, model_sha256=None, status="interrupted")) == (
        "fox: interrupted at round 3 after 0:01, "
        "sent 3.0 kB (weights 2.7 kB, lists 180 B, talk 120 B); "
        "received 6.0 kB (weights 5.4 kB, lists 360 B, talk 240 B)"
    )


@pytest.mark.parametrize("address", ["192.168.1.40:7790", "[::1]:7790"])
def test_numbers_are_taken_as_they_are(address: str) -> None:
    assert numeric_address(address, "--peer") == address


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **options: Any) -> list[Any]:
        if host != "otter.local":
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.168.1.40", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert numeric_address("otter.local:7790", "--peer") == "192.168.1.40:7790"
    with pytest.raises(UsageError, match=r"--peer wren:1: nobody knows a computer named wren: give its IP address"):
        numeric_address("wren:1", "--peer")


def test_a_device_that_is_not_there_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from p2pfusion.app import joining
    from p2pfusion.app.cli import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(joining, "_prepared", lambda options: pytest.fail("the task was read first"))
    assert main(["join", "--device", "cuda", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("error: --device cuda: ")
    assert "use --device cpu" in err


MINE, OTHER = b"m" * 32, b"o" * 32


def test_a_node_says_what_it_goes_on_from() -> None:
    assert resumption(None, MINE, {}, Until()) is None
    assert resumption(37, MINE, {MINE: 37}, Until()) == "resumed from round 37 of this run"
    assert resumption(37, MINE, {MINE: 37, OTHER: 50}, GOAL) == "resumed from round 37 of this run"
    assert resumption(50, MINE, {MINE: 50}, GOAL) == (
        "resumed from round 50 of this run, where it was to end: "
        "choose a later --until rounds=N, or start anew with --fresh"
    )


def test_a_node_says_that_the_folder_holds_another_run() -> None:
    text = resumption(None, MINE, {OTHER: 12}, GOAL)
    assert text is not None
    assert "round 12 of another run: this one starts anew beside it; of each of the last 4 other runs" in text
    assert resumption(None, MINE, {MINE: 3}, GOAL) is None, "one that cannot be resumed is told elsewhere"


def test_a_node_says_that_what_it_had_is_damaged() -> None:
    text = resumption(None, MINE, {OTHER: 12}, GOAL, ["checkpoint-8.safetensors.damaged"])
    assert text == (
        "damaged in the state folder: checkpoint-8.safetensors.damaged; nothing of this run can be used: it starts anew"
    )
    resumed = resumption(8, MINE, {MINE: 8}, Until(), ["checkpoint-16.safetensors.damaged"])
    assert resumed == "resumed from round 8 of this run"

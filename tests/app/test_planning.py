"""`plan`: the forecast in words and as JSON, what the documentation shows, and one line for whatever is wrong."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.app import planning
from p2pfusion.app.cli import main
from p2pfusion.app.relays import FILE_BYTES_MAX, parse_device, read_devices
from p2pfusion.core.planning import OWNERS_MAX, RELAYS_MAX, Relay
from p2pfusion.core.profiles import from_json
from p2pfusion.errors import TaskError

DOCS = Path(__file__).parents[2] / "docs"
PROFILE = str(DOCS / "resnet18.profile.json")
TASK = """
import torch
from torch import nn
from p2pfusion import Task

def task():
    x, y = torch.randn(64, 10), torch.randint(0, 3, (64,))
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 3))
    return Task(model, (x, y))
"""

ODD = """
from torch import nn

class Odd(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.shortcut = nn.Linear(10, 3)

    def forward(self, x):
        return self.inner(x) + self.shortcut(x)
"""


NINES = "9" * 400
"""More than a float can hold."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("plan opened a socket")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(planning, "MEASURED_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my_task.py").write_text(TASK)
    return tmp_path / "my_task.py"


Object = dict[str, Any]


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., Object]:
    def call(*line: str) -> Object:
        assert main(["plan", *line, "--json"]) == 0
        (text,) = capsys.readouterr().out.splitlines()
        value: Object = json.loads(text)
        return value

    return call


def transcripts() -> list[tuple[str, str]]:
    """Commands of the page with what they print, where it shows that."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (DOCS / "plan.md").read_text(), re.MULTILINE | re.DOTALL)
    parts = [block.removeprefix("$ ").partition("\n") for block in blocks if block.count("$ ") == 1]
    return [(line, printed) for line, _, printed in parts]


@pytest.mark.parametrize(("line", "printed"), transcripts())
def test_the_page_shows_what_is_printed(
    line: str, printed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS)
    status = main(shlex.split(line)[1:])
    out, err = capsys.readouterr()
    assert out + err == printed
    assert status == (3 if err else 0)


def test_the_page_has_transcripts() -> None:
    assert len(transcripts()) == 2


def test_a_task_is_measured_and_planned(file: Path, planned: Callable[..., Object]) -> None:
    value = planned(str(file), "--relay", "2x,1GB,100Mbit/s", "--owners", "3", "--everybody")
    assert (value["v"], value["event"], value["batch"], value["owners"]) == (1, "plan", 32, 3)
    assert value["blocks"] == ["0", "2", "4", "5"]
    assert value["batches"] == 2, "the task's: 64 samples in batches of 32"
    (stage,) = value["stages"]
    assert (stage["relay"], stage["blocks"], stage["memory_limit_bytes"]) == ("relay1", ["2", "4"], 10**9)
    assert stage["forward_s"] > 0 < stage["backward_s"]
    parameters = 4 * (16 * 16 + 16 + 16 * 8 + 8)
    assert stage["memory_bytes"] > 3 * 3 * parameters, "parameters, gradients and momentum of three owners"
    assert stage["link_s"] == pytest.approx(4 * 32 * 16 * 8 / 1e8)
    assert value["one_hop"]["round_s"] == pytest.approx(value["round_s"])
    assert value["round_s"] > 4 * value["batch_s"], "five batches, of which the last steps may still be due"


def test_what_was_measured_can_be_kept_and_used_again(
    file: Path, tmp_path: Path, planned: Callable[..., Object]
) -> None:
    kept = tmp_path / "kept.json"
    line = [str(file), "--relay", "1x", "--relay", "3x", "--owners", "2"]
    first = planned(*line, "--save", str(kept))
    assert "measured on one thread" in first["origin"]
    assert from_json(kept.read_text()).names == ("0", "2", "4", "5")
    assert planned(*line, "--profile", str(kept)) == first
    alone = planned(*line[1:], "--profile", str(kept))
    of_a_round = ("batches", "round_s", "one_hop", "side_by_side")
    assert alone | {name: first[name] for name in of_a_round} == first


def test_owners_keep_what_they_are_told_to(planned: Callable[..., Object]) -> None:
    value = planned("--profile", PROFILE, "--relay", "1x", "--first", "2", "--last", "3")
    assert value["first"] == ["stem", "stage0_0"]
    assert value["last"] == ["stage3_0", "stage3_1", "head"]
    assert value["stages"][0]["blocks"] == ["stage0_1", "stage1_0", "stage1_1", "stage2_0", "stage2_1"]


def test_memory_that_costs_time_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--profile", PROFILE, "--relay", "4x,250MB", "--relay", "1x,4GB", "--owners", "4"]
    assert main(["plan", *line]) == 0
    (batch,) = (text for text in capsys.readouterr().out.splitlines() if text.startswith(" batch"))
    assert re.search(r"memory is short: with more it would be [\d.]+ s", batch)


def test_who_is_left_out_is_said(capsys: pytest.CaptureFixture[str], planned: Callable[..., Object]) -> None:
    line = ["--profile", PROFILE, "--relay", "1x", "--relay", "0.001x", "--owners", "4"]
    assert main(["plan", *line]) == 0
    assert " idle   relay2: " in capsys.readouterr().out
    assert planned(*line)["idle"] == ["relay2"]
    assert planned(*line, "--everybody")["idle"] == []


def test_more_owners_than_a_plan_may_have_can_be_what_would_fill_it(planned: Callable[..., Object]) -> None:
    value = planned("--profile", PROFILE, "--relay", "1000x", "--owner", "0.01x")
    assert value["fill_owners"] > value["owners_max"] == OWNERS_MAX


def test_the_same_devices_without_hops_stand_beside_it(planned: Callable[..., Object]) -> None:
    line = ["--profile", PROFILE, "--relay", "1x,2GB", "--relay", "2x,2GB", "--owners", "6"]
    assert planned(*line)["side_by_side"]["owners"] == {"relay1": 2, "relay2": 4}
    line[3], line[5] = "1x,1.2GB", "1x,1.2GB"
    assert planned(*line)["side_by_side"]["owners"] == {"relay1": 3, "relay2": 3}
    line[3], line[5], line[7] = "1x,400MB", "1x,400MB", "1"
    assert planned(*line)["side_by_side"] is None


def test_the_papers_way_counts_less(planned: Callable[..., Object], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--profile", PROFILE, "--relay", "1x,4GB,1Mbit/s", "--relay", "1x,4GB,1Mbit/s", "--owners", "4"]
    full, paper = planned(*line), planned(*line, "--paper")
    assert (full["mode"], paper["mode"]) == ("full", "paper")
    assert full["full_s"] > 10 * paper["full_s"], "the link is the slowest"
    assert sum(stage["memory_bytes"] for stage in full["stages"]) > 2 * sum(
        stage["memory_bytes"] for stage in paper["stages"]
    )
    assert main(["plan", *line]) == 0
    assert "as fast as the link of relay" in capsys.readouterr().out


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--profile", PROFILE, "--relay", "1x", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["--relay", "1x"], 2, "TASK.py to measure, or --profile FILE"),
        (["--profile", PROFILE], 2, "--relay 2x,4GB,100Mbit/s once for each"),
        (["--profile", PROFILE, "--relay", "1x", "--save", "x.json"], 2, "with --profile nothing is"),
        (["--profile", PROFILE, "--relay", "fast"], 2, "--relay: 'fast' is no part of a device"),
        (["--profile", PROFILE, "--relay", "1x,2x"], 2, "says its speed twice"),
        (["--profile", PROFILE, "--relay", "0x"], 2, "write 2x for twice as fast"),
        (["--profile", PROFILE, "--relay", "10001x"], 2, "write 2x for twice as fast"),
        (["--profile", PROFILE, "--relay", f"1x,{NINES}GB"], 2, "is not an amount of memory"),
        (["--profile", PROFILE, "--relay", f"{NINES}Gbit/s"], 2, "is not the speed of a link"),
        (["--profile", PROFILE, "--relay", "1x", "--owner", "lots"], 2, "--owner: 'lots' is no part"),
        (["--profile", PROFILE, "--relay", "1x", "--owners", "0"], 2, "--owners"),
        (["--profile", "missing.json", "--relay", "1x"], 3, "missing.json: cannot be read"),
        (["--profile", __file__, "--relay", "1x"], 3, "is not JSON"),
        (["digits", "--profile", PROFILE, "--relay", "1x"], 3, "10 blocks stem to head, the model has 3"),
        (["--profile", PROFILE, "--relay", "1x", "--first", "5", "--last", "5"], 3, "leaves none for a relay"),
        (["--profile", PROFILE, "--relay", "1x,1MB"], 3, "not even one owner fits"),
        (["--profile", PROFILE, "--relay", "1x", "--owner", "1x,1MB"], 3, "an owner lacks 29.1 MB"),
        (["--profile", PROFILE, "--relays", "missing.toml"], 3, "missing.toml: cannot be read as TOML"),
        (["digits", "--relay", "1x", "--save", "/nowhere/x.json"], 3, "/nowhere/x.json: cannot be written"),
        (["nonsense", "--relay", "1x"], 3, "no task is named"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    line: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *line, "-q"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


def test_a_model_that_cannot_be_cut_is_refused_with_the_fix(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(ODD + TASK.replace("return Task(model,", "return Task(Odd(model),"))
    assert main(["plan", str(file), "--relay", "1x", "-q"]) == 3
    assert "cannot be parted, because more than one value passes" in capsys.readouterr().err


def test_a_device_in_any_order() -> None:
    full = Relay(name="", speed=2.0, memory_bytes=512 * 2**20, bytes_per_s=12.5e6)
    assert parse_device("2x,512MiB,100Mbit/s") == parse_device(" 100Mbit, 2x , 512MiB") == full
    assert parse_device("10MB/s") == Relay(name="", bytes_per_s=1e7)


@pytest.mark.parametrize(
    ("most", "beyond"),
    [("1024TiB", "1025TiB"), ("1000GB/s", "1001GB/s"), ("8bit/s", "7bit/s"), ("10000x", "10001x")],
)
def test_numbers_of_a_device_end_somewhere(most: str, beyond: str) -> None:
    parse_device(most)
    unit = most.lstrip("0123456789")
    for text in (beyond, NINES + unit, f"0{unit}"):
        with pytest.raises(ValueError, match="is not") as caught:
            parse_device(text)
        assert len(str(caught.value)) < 200


def test_devices_of_a_file(tmp_path: Path) -> None:
    assert [relay.name for relay in read_devices(DOCS / "relays.toml")] == ["desktop", "laptop", "old-laptop"]
    file = tmp_path / "relays.toml"
    for text, words in [
        ("", "must hold 1 to"),
        ("[[relay]]\n" * (RELAYS_MAX + 1), "must hold 1 to"),
        ("[[relay]]\n[owner]\n", "and nothing else"),
        ("relay = 1", "must hold"),
        ("[[relay]]\nspeed = 2\n", 'relay 1: must be a table of texts, such as speed = "2x"'),
        ('[[relay]]\n[[relay]]\ncores = "2"\n', "relay 2: there is no key 'cores'; known are name, speed"),
        ('[[relay]]\nmemory = "4x"\n', "relay 1: '4x' is not an amount of memory"),
        ('[[relay]]\nlink = "4GB"\n', "is not the speed of a link"),
        ('[[relay]]\nname = " "\n', "is not a name"),
        ("#" * (FILE_BYTES_MAX + 1), "is longer than"),
        ("[" * (FILE_BYTES_MAX + 1), "is longer than"),
        ("relay = " + "[" * 60_000, "cannot be read as TOML"),
        (f'[[relay]]\nlink = "{NINES}Gbit/s"\n', "is not the speed of a link"),
        (f"[[relay]]\n{NINES} = '1x'\n", "there is no key '999"),
    ]:
        file.write_text(text)
        with pytest.raises(TaskError) as caught:
            read_devices(file)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < len(str(file)) + 200
        assert words in str(caught.value)
    assert len(read_devices_of(file, "[[relay]]\n" * RELAYS_MAX)) == RELAYS_MAX


def test_devices_of_as_long_a_file_as_may_be(tmp_path: Path) -> None:
    text = "[[relay]]\n".ljust(FILE_BYTES_MAX, "#")
    assert len(read_devices_of(tmp_path / "relays.toml", text)) == 1
    with pytest.raises(TaskError, match="is longer than"):
        read_devices_of(tmp_path / "relays.toml", text + "#")


def read_devices_of(file: Path, text: str) -> tuple[Relay, ...]:
    file.write_text(text)
    return read_devices(file)


def test_two_relays_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "relays.toml"
    file.write_text('[[relay]]\nname = "relay1"\n')
    assert main(["plan", "--profile", PROFILE, "--relay", "1x", "--relays", str(file), "-q"]) == 3
    assert "two relays are named 'relay1'" in capsys.readouterr().err

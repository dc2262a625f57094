"""`check`: the model's axes, what a slice costs, and refusals with their fix; no network is touched."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from p2pfusion.app import checking
from p2pfusion.app.cli import main
from p2pfusion.wire.compression import CODECS

GOOD = """
import torch
from torch import nn
from p2pfusion import Task

def task():
    x, y = torch.randn(64, 10), torch.randint(0, 3, (64,))
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
    return Task(model, (x, y), (x, y))
"""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("check opened a socket")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(checking, "TIMED_STEPS", 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "my_task.py").write_text(GOOD)
    return tmp_path / "my_task.py"


def test_a_device_with_other_classes_is_told_that_it_is_calibrated(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace("(x, y), (x, y)", "(x, y * 0), (x, y)"))
    assert main(["check", str(file)]) == 0
    data = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" data"))
    assert data.endswith(" steps per round; calibrated, for classes are not as frequent here as in the validation data")


def test_what_is_said_of_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "--algorithm", "fedrolex"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, model, blocks, data, run, part, *rates, wire, codecs, verdict = out.splitlines()
    assert first.endswith("check digits")
    assert model == " model  85 002 parameters in 3 blocks; sliced axes: hidden1 256 and hidden2 256"
    assert blocks == " blocks hidden1, hidden2 and out"
    assert data == " data   train 1 437, validation 360, 15 steps per round"
    assert part.startswith(" slice  50% of every axis: 26 122 parameters, 30.7 % of the run's model; ")
    assert run.startswith(" run    fedrolex: one window")
    assert run.endswith("; 85 002 parameters")
    assert [line.split()[1] for line in rates] == ["1", "1/2", "1/4", "1/8"]
    assert re.fullmatch(
        r" rate   1/2 30\.7 % of the full model's parameters, 30\.6 % of its FLOPs "
        r"\(51\.7 kFLOP a sample\), [\d.]+ kB a round",
        rates[1],
    )
    assert re.fullmatch(r" wire   [\d.]+ kB per node and round with int8", wire)
    assert codecs.startswith(" codecs fp32 104 kB, bf16 52.2 kB, int8 ")
    assert ", topk 1% " in codecs
    assert "fingerprint" in verdict


def test_a_script_gets_one_object(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--json", "--slice", "25%", "--algorithm", "fedrolex"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    value = json.loads(text)
    assert (value["v"], value["event"], value["rate"]) == (1, "check", 0.25)
    assert value["axes"] == {"0.out": 16}
    assert value["parameters"] == 10 * 16 + 16 + 16 * 3 + 3
    assert value["slice_parameters"] == 10 * 4 + 4 + 4 * 3 + 3
    assert value["codec"] == "fp32", "so few values are sent as they are"
    assert value["bytes_per_round"] == 4 * value["slice_parameters"] == value["bytes_by_codec"]["fp32"]
    assert list(value["bytes_by_codec"]) == list(CODECS)
    assert value["full_step_s"] > 0 < value["slice_step_s"]


STACK = """
import torch
from p2pfusion import Task
from p2pfusion.zoo.transformers import gpt

def task():
    x = torch.randint(0, 9, (40, 8))
    return Task(gpt(9, 8, 16, 5, 2, 32), train=(x, x))
"""


def test_the_layers_of_a_stack_are_one_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stack.py").write_text(STACK)
    assert main(["check", str(tmp_path / "stack.py")]) == 0
    model = capsys.readouterr().out.splitlines()[1]
    assert model.endswith("axes: stream 16, 5 x layer*.heads 16 in 2 groups and 5 x layer*.ffn 32")


def test_what_stays_in_one_piece_is_not_called_sliced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stack.py").write_text(STACK.replace("(x, x))", "(x, x), whole_streams=True)"))
    assert main(["check", str(tmp_path / "stack.py")]) == 0
    model = capsys.readouterr().out.splitlines()[1]
    assert model.endswith("axes: 5 x layer*.heads 16 in 2 groups and 5 x layer*.ffn 32; in one piece: stream 16")


RESIDUAL = """
import torch
from torch import nn
from p2pfusion import Task

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv1 = nn.GroupNorm(4, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fused = nn.Conv2d(8, 16, 1)

    def forward(self, x):
        a, b = self.fused(x).chunk(2, dim=1)
        return x + self.conv2(torch.relu(self.conv1(self.norm(x)))) + a * b

def task():
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 3, (64,))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *(Block() for _ in range(5)), nn.Flatten(), nn.Linear(8 * 36, 3))
    return Task(model, (x, y), (x, y))
"""


def test_an_ordinary_module_is_traced_and_what_stays_whole_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "residual.py").write_text(RESIDUAL)
    assert main(["check", str(tmp_path / "residual.py")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("in 7 blocks; sliced axes: 5 x *.conv1.out 8")
    assert lines[2] == " blocks 0, 1, 2, 3, 4, 5 and 1 more"
    assert lines[3].startswith(" note   0.out, 1.conv2.out and 4 more: whole, because ")
    assert main(["check", str(tmp_path / "residual.py"), "--json", "--algorithm", "nested"]) == 0
    value = json.loads(capsys.readouterr().out)
    shares = [(row["rate"], row["share"], row["flops_share"]) for row in value["rates"]]
    assert [rate for rate, _, _ in shares] == [1.0, 0.5, 0.25, 0.125]
    assert shares[0][1:] == (1.0, 1.0)
    assert shares == sorted(shares, reverse=True)
    assert value["units"] == dict.fromkeys(value["axes"], 1)
    assert len(value["block_names"]) == value["blocks"]
    assert any("chunk" in finding for finding in value["findings"])


LONG = """
import torch
from torch import nn
from p2pfusion import Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.ModuleDict({"feed_forward": nn.ModuleList(nn.Linear(8, 8) for _ in range(9))})

    def forward(self, x):
        for layer in self.transformer["feed_forward"]:
            x = layer(x)
        return x

def task():
    x, y = torch.randn(64, 8), torch.randint(0, 3, (64,))
    return Task(Net(), (x, y), (x, y))
"""


def test_blocks_with_long_names_stay_within_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.py").write_text(LONG)
    assert main(["check", str(tmp_path / "long.py")]) == 0
    (blocks,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" blocks ")]
    assert blocks == " blocks transformer.feed_forward.0, transformer.feed_forward.1 and 7 more"
    assert len(blocks) <= 80


def test_the_codec_that_is_asked_for_is_the_one_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "--json", "--codec", "topk", "--density", "25%"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert (dense["codec"], dense["density"]) == ("topk", 0.25)
    assert dense["bytes_per_round"] == dense["bytes_by_codec"]["topk"]
    assert main(["check", "digits", "--json", "--codec", "topk"]) == 0
    sparse = json.loads(capsys.readouterr().out)
    assert sparse["density"] == 0.01
    assert sparse["bytes_per_round"] < dense["bytes_per_round"]


def test_the_full_algorithm_slices_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--json", "--algorithm", "full"]) == 0
    assert json.loads(capsys.readouterr().out)["share"] == 1.0


def test_small_networks_are_compared_with_the_full_model(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["check", "digits", "--slice", "25%", "--common", "25%"]
    assert main([*line, "--algorithm", "small"]) == 0
    *_, part, all_alike, _, _, _ = capsys.readouterr().out.splitlines()
    assert part.startswith(" slice  8 970 parameters, 100.0 % of the run's model; ")
    costs = "of the full model's parameters, "
    assert all_alike.startswith(f" rate   1, 1/2, 1/4 and 1/8 10.6 % {costs}10.5 % of its FLOPs ")
    assert main([*line, "--algorithm", "members"]) == 0
    *_, part, strong, weak, _, _, _ = capsys.readouterr().out.splitlines()
    assert part.startswith(" slice  1 of 2 networks, 8 970 parameters, 50.0 % of the run's model; ")
    assert strong.startswith(f" rate   1 and 1/2 21.1 % {costs}20.9 % of its FLOPs ")
    assert weak.startswith(f" rate   1/4 and 1/8 10.6 % {costs}10.5 % of its FLOPs ")


EXITS = """
import torch
from p2pfusion import Task
from p2pfusion.zoo.transformers import vit

def task():
    x, y = torch.randn(64, 1, 4, 4), torch.randint(0, 3, (64,))
    return Task(vit(4, 2, 1, 16, 4, 4, 16, 3, exits=4), (x, y), (x, y))
"""


def test_a_slice_that_becomes_narrower_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "exits.py").write_text(EXITS)
    line = ["check", str(tmp_path / "exits.py"), "--algorithm", "co_s2p"]
    assert main([*line, "--slice", "50%", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert 0 < value["later_parameters"] < 0.7 * value["slice_parameters"]
    assert main([*line, "--slice", "50%"]) == 0
    (later,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith(" later ")]
    share = 100 * value["later_parameters"] / value["run_parameters"]
    words = f"{value['later_parameters']:,} parameters, {share:.1f} % of the run's model".replace(",", " ", 1)
    assert later == f" later  {words}: the figures here are of the first rounds"
    assert main([*line, "--slice", "100%"]) == 0
    assert " later " not in capsys.readouterr().out


def test_quiet_says_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("nn.ReLU()", "nn.BatchNorm1d(16)", ["1: BatchNorm1d", "GroupNorm"]),
        ("nn.ReLU()", "nn.LSTM(16, 16)", ["1: LSTM", "Blueprint"]),
        ("def task", "def make_task", ["my_task.py", "task()"]),
        ("return Task(model, (x, y), (x, y))", "return model", ["my_task.py:6", "Sequential"]),
        ("nn.Linear(10, 16)", "nn.Linear(11, 16)", ["0: Linear"]),
        ("import torch", "import torche", ["my_task.py:2", "torche"]),
        ("def task", "def task(:", ["my_task.py:6"]),
    ],
)
def test_what_cannot_be_trained_is_one_line_with_the_fix(
    before: str, after: str, words: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace(before, after, 1))
    assert main(["check", str(file), "-q"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_every_layer_that_would_be_refused_is_named_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("nn.ReLU()", "nn.BatchNorm1d(16), nn.BatchNorm1d(16), nn.LSTM(16, 16)"))
    assert main(["check", str(file), "-q"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert [" ".join(line.split()[:3]) for line in err.splitlines()] == [
        "error: model: cannot",
        "1: BatchNorm1d statistics",
        "2: BatchNorm1d statistics",
        "3: LSTM cannot",
    ]


@pytest.mark.parametrize("name", ["digit", "nonsense", "my_task.txt"])
def test_an_unknown_task_names_the_known_ones(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name, "-q"]) == 3
    err = capsys.readouterr().err
    assert "Built in: digits" in err
    assert "my_task.py" in err
    assert ("did you mean digits?" in err) == (name == "digit")


def test_a_missing_file_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "missing.py", "-q"]) == 3
    assert "there is no such file" in capsys.readouterr().err


def test_an_unknown_algorithm_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "-q", "--algorithm", "magic"]) == 2
    assert "msfusion" in capsys.readouterr().err

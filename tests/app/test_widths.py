"""From a checkpoint to a network that predicts: what `export` writes of each width gives the accuracy that was told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import p2pfusion
from p2pfusion.algorithms.base import Vector
from p2pfusion.algorithms.presets import MEMBERS, PRESETS, Terms, algorithm
from p2pfusion.algorithms.sliced import Sliced
from p2pfusion.app.cli import main
from p2pfusion.app.exporting import WIDTH, chosen, export_model
from p2pfusion.core.task import Task, prepare
from p2pfusion.errors import StoreError, TaskError, UsageError
from p2pfusion.lab.rounds import rounds
from p2pfusion.node.contents import PART, Contents, Listed, Measured, Network, pack
from p2pfusion.node.resuming import named
from p2pfusion.seams import Checkpoint
from p2pfusion.store.folder import FolderStore
from p2pfusion.zoo.transformers import vit

LIVE = [name for name, preset in PRESETS.items() if preset.reach == "all"]
TERMS = Terms(common_rate=0.25, outer_momentum=0.5)
_X = np.random.default_rng(0).standard_normal((240, 1, 6, 6)).astype(np.float32)
_Y = _X.reshape(240, -1)[:, :3].argmax(1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Sequential:
    """A convolution of groups, a flatten behind it: axes with units, and with several inputs a channel."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 24), nn.ReLU(),
        nn.Linear(24, 3),
    )  # fmt: skip


def task(name: str = "") -> Task:
    """For Co-S2P a network that can answer half way."""
    model = vit(6, 6, 1, 32, 2, 4, 32, 3, exits=2) if name == "co_s2p" else network()
    return Task(model, (_X[:160], _Y[:160]), (_X[160:], _Y[160:]), batch_size=16, steps_per_round=6)


def trained(name: str) -> tuple[Sliced, Vector]:
    """An algorithm and its model after some rounds of two nodes."""
    nodes = [algorithm(name, prepare(task(name), 0, (rank, 2)), seed=rank, terms=TERMS) for rank in range(2)]
    play = rounds(nodes, [0.5, 0.25], "all")
    return nodes[0], [next(play) for _ in range(4)][-1].models[0]


def save(folder: Path, sliced: Sliced, model: Vector, *, evaluated: bool = True) -> Path:
    evaluation = sliced.evaluate(model) if evaluated else None
    contents = pack(sliced.blueprint, Contents(sliced.product, Measured(evaluation, 4 if evaluated else -1)))
    checkpoint = Checkpoint(
        run_id=b"r" * 32, round=4, chain=b"c" * 32, weight=3, model=named(sliced.blueprint, model),
        parts={PART: contents},
    )  # fmt: skip
    with FolderStore(folder) as store:
        store.save_checkpoint(checkpoint)
    return folder


def accuracy_of(module: nn.Module) -> float:
    assert not module.training
    with torch.no_grad():
        said = module(torch.from_numpy(_X[160:])).argmax(1)
    return float((said == torch.from_numpy(_Y[160:])).float().mean())


@pytest.mark.parametrize("name", LIVE)
def test_every_width_predicts_as_well_as_was_told(name: str, tmp_path: Path) -> None:
    sliced, model = trained(name)
    folder, found = save(tmp_path / "fox", sliced, model), sliced.evaluate(model)
    assert found is not None
    assert found.accuracy > 0.35, "it has learnt something, so that equal figures mean something"
    for width, accuracy in (found.widths or {"auto": found.accuracy}).items():
        exported = export_model(folder, tmp_path / "model.safetensors", width)
        assert exported.accuracy == accuracy
        module = p2pfusion.load_model(tmp_path / "model.safetensors", task(name))
        assert accuracy_of(module) == pytest.approx(accuracy, abs=1e-6)
        assert sum(tensor.numel() for tensor in module.parameters()) == exported.parameters
    best = export_model(folder, tmp_path / "best.safetensors")
    assert (best.width, best.accuracy) == (found.served or ("100%" if name == "msfusion" else None), found.accuracy)
    with safe_open(tmp_path / "best.safetensors", framework="numpy") as opened:
        metadata = opened.metadata()
    assert (metadata["algorithm"], metadata["common_rate"], metadata["outer_momentum"]) == (name, "0.25", "0.5")
    assert metadata.get("width") == best.width
    assert float(metadata["accuracy"]) == found.accuracy


def test_the_whole_model_is_the_users_own_network(tmp_path: Path) -> None:
    sliced, model = trained("msfusion")
    export_model(save(tmp_path / "fox", sliced, model), tmp_path / "model.safetensors")
    from safetensors.torch import load_file

    mine = network().eval()
    mine.load_state_dict(load_file(tmp_path / "model.safetensors"))
    ours = p2pfusion.load_model(tmp_path / "model.safetensors", task())
    x = torch.from_numpy(_X)
    assert torch.equal(mine(x), ours(x))


def test_a_narrow_width_has_the_names_of_the_task_and_members_their_numbers(tmp_path: Path) -> None:
    for name, width, shape in (("nested", "50%", (8, 1, 3, 3)), ("members", f"{MEMBERS} of {MEMBERS}", None)):
        sliced, model = trained(name)
        export_model(save(tmp_path / name, sliced, model), tmp_path / "model.safetensors", width)
        with safe_open(tmp_path / "model.safetensors", framework="numpy") as opened:
            names = sorted(opened.keys())
            if shape is not None:
                assert names == sorted(dict(network().named_parameters()))
                assert opened.get_tensor("0.weight").shape == shape
            else:
                assert {tuple(one.split(".")[:2]) for one in names} == {("members", str(n)) for n in range(MEMBERS)}


def test_the_command_takes_a_width_and_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sliced, model = trained("nested")
    found = sliced.evaluate(model)
    assert found is not None
    folder, file = save(tmp_path / "fox", sliced, model), tmp_path / "model.safetensors"
    line = ["export", str(file), "--state", str(folder)]
    assert main([*line, "--width", "25%"]) == 0
    out, _ = capsys.readouterr()
    assert f"width 25% (there are 25%, 50%, 100%), accuracy {100 * found.widths['25%']:.1f} %, round 4, model " in out
    assert main([*line, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["width"], value["accuracy"], value["accuracy_round"]) == (found.served, found.accuracy, 4)
    assert value["widths"] == found.widths
    for text in ("30%", "1/3", "1/0", "1 of 2", "quarter"):
        assert main([*line, "--width", text]) == 2
        assert capsys.readouterr().err == f"error: --width {text}: choose auto or one of 25%, 50%, 100%\n"


def test_a_width_may_be_written_like_any_rate(tmp_path: Path) -> None:
    sliced, model = trained("nested")
    folder, file = save(tmp_path / "fox", sliced, model), tmp_path / "model.safetensors"
    ways = {"25%": ("25%", "0.25", "1/4", " 25 %", "2/8"), "50%": (".5", "1/2"), "100%": ("1", "1.0", "1/1", "100%")}
    for name, texts in ways.items():
        assert {export_model(folder, file, text).width for text in texts} == {name}


@pytest.mark.parametrize(("text", "name"), [("1/3", "33.33%"), ("33.33%", "33.33%"), ("0.0625", "6.25%")])
def test_a_rate_with_many_digits_finds_its_network(text: str, name: str) -> None:
    assert chosen(Listed(networks={name: Network(cuts={})}), text, WIDTH) == name


@pytest.mark.parametrize(
    ("name", "words", "option"),
    [
        ("nested", "width 25% (there are 25%, 50%, 100%)", "--width"),  # the wider ones perhaps nobody trained
        ("members", "width 2 of 2 (there are 1 of 2, 2 of 2)", "--width"),
        ("co_s2p", ", exit 1 (there are exit 1, exit 2)", "--exit"),
    ],
)
def test_what_was_never_measured_is_said_and_what_is_surely_trained_taken(
    name: str, words: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sliced, model = trained(name)
    folder = save(tmp_path / "fox", sliced, model, evaluated=False)
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(folder)]) == 0
    assert f"{words}, none was measured (choose with {option})" in capsys.readouterr().out


def test_the_command_takes_an_exit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sliced, model = trained("co_s2p")
    found = sliced.evaluate(model)
    assert found is not None
    line = ["export", str(tmp_path / "model.safetensors"), "--state", str(save(tmp_path / "fox", sliced, model))]
    assert main([*line, "--exit", "1", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["width"], value["accuracy"]) == ("exit 1", found.widths["exit 1"])
    assert value["parameters"] < 0.6 * sliced.blueprint.size
    words = "choose auto or one of 1, 2"
    refused = {"3": words, "deep": "must be auto or the number of an exit, 1 for the shallowest", "0": words}
    for number, words in refused.items():
        assert main([*line, "--exit", number]) == 2
        assert capsys.readouterr().err == f"error: --exit {number}: {words}\n"
    assert main([*line, "--exit", "2"]) == 0
    assert ", exit 2 (there are exit 1, exit 2), accuracy " in capsys.readouterr().out
    assert main([*line, "--exit", "1", "--width", "exit 1"]) == 2
    assert "ask for one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nested", "this checkpoint holds no exits; choose with --width: auto or one of 25%, 50%, 100%"),
        ("full", "this checkpoint holds one network only; leave --exit out"),
    ],
)
def test_an_exit_of_a_model_without_any_is_refused_as_an_exit(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "fox", *trained(name))
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(folder), "--exit", "1"]) == 2
    assert capsys.readouterr().err == f"error: --exit 1: {words}\n"


def test_a_checkpoint_from_before_there_were_widths_is_the_whole_model(tmp_path: Path) -> None:
    values = {"a.weight": np.ones((2, 3), np.float32)}
    with FolderStore(tmp_path / "fox") as store:
        store.save_checkpoint(Checkpoint(run_id=b"r" * 32, round=4, chain=b"c" * 32, weight=3, model=values))
    exported = export_model(tmp_path / "fox", tmp_path / "model.safetensors")
    assert (exported.width, exported.accuracy, exported.parameters) == (None, None, 6)
    for whole in ("100%", "1", "1/1"):
        assert export_model(tmp_path / "fox", tmp_path / "model.safetensors", whole) == exported
    with pytest.raises(UsageError, match="holds one network only; leave --width out"):
        export_model(tmp_path / "fox", tmp_path / "model.safetensors", "50%")


def listed(cuts: str) -> bytes:
    network = f'{{"a":{{"accuracy":1,"cuts":{cuts}}}}}'
    return f'{{"origin":{{}},"round":1,"accuracy":1,"served":"a","networks":{network}}}'.encode()


@pytest.mark.parametrize("data", [b"[]", b"{", listed('{"a.weight":[[[0,9]],[[0,3]]]}'), listed('{"b":[]}')])
def test_a_list_that_is_none_is_one_line(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(
        run_id=b"r" * 32, round=4, chain=b"c" * 32, weight=3, model={"a.weight": np.ones((2, 3), np.float32)},
        parts={PART: np.frombuffer(data, np.uint8)},
    )  # fmt: skip
    with FolderStore(tmp_path / "fox") as store:
        store.save_checkpoint(checkpoint)
    assert main(["export", str(tmp_path / "model.safetensors"), "--state", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert "cannot be used" in err
    assert len(err.splitlines()) == 1


# -- loading ----------------------------------------------------------------------------------------------------------


def exported_by(name: str, folder: Path) -> Path:
    sliced, model = trained(name)
    export_model(save(folder / "fox", sliced, model), folder / "model.safetensors")
    return folder / "model.safetensors"


def test_another_tasks_file_is_refused_by_name(tmp_path: Path) -> None:
    file = exported_by("full", tmp_path)
    wider = replace(task(), model=nn.Sequential(nn.Conv2d(1, 16, 5), *list(network())[1:4], nn.Linear(64, 3)))
    with pytest.raises(TaskError, match="the file"):
        p2pfusion.load_model(file, wider)
    narrower = replace(
        task(), model=nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8), *list(network())[2:4], nn.Linear(128, 3))
    )
    with pytest.raises(TaskError, match="the file's is"):
        p2pfusion.load_model(file, narrower)
    empty: list[object] = []
    with pytest.raises(TaskError, match="no data"):
        p2pfusion.load_model(file, replace(task(), train=empty))


def test_a_file_that_is_no_exported_model_is_refused(tmp_path: Path) -> None:
    sliced, model = trained("full")
    save(tmp_path / "fox", sliced, model)
    (checkpoint,) = (tmp_path / "fox").glob("checkpoint-*.safetensors")
    (tmp_path / "text.safetensors").write_text("nothing")
    save_file({"a": np.zeros(3, np.int32)}, tmp_path / "whole.safetensors")
    for file in (checkpoint, tmp_path / "text.safetensors", tmp_path / "missing", tmp_path / "whole.safetensors"):
        with pytest.raises(StoreError, match="p2pfusion export"):
            p2pfusion.load_model(file, task())


def test_a_prepared_task_will_do_and_its_data_are_not_looked_at(tmp_path: Path) -> None:
    prepared = prepare(task(), 0)
    file = exported_by("members", tmp_path)
    assert accuracy_of(p2pfusion.load_model(str(file), replace(prepared, train=None))) > 0.35  # type: ignore[arg-type]

"""The documentation is true: its Python runs, its commands parse, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from p2pfusion.app.cli import commands as group

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", text)
        for page in PAGES
        for number, (kind, text) in enumerate(FENCE.findall(page.read_text()))
        if kind == language
    ]


def commands() -> list[str]:
    lines = [line for kind in ("console", "text") for _, text in blocks(kind) for line in text.splitlines()]
    return [line.removeprefix("$ ").partition("#")[0].strip() for line in lines if line.startswith("$ p2pfusion")]


def test_there_is_something_to_test() -> None:
    assert len(blocks("python")) >= 2
    assert len(commands()) >= 6


@pytest.mark.e2e
@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in blocks("python")])
def test_python_runs(text: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(text)
    if "def task()" in text:
        line = [sys.executable, "-m", "p2pfusion", "check", str(file)]
    else:
        line = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line)
    command = group.commands[name]
    assert isinstance(command, click.Command)
    command.make_context(name, arguments, obj=[])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target

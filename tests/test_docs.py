"""The documentation is true: its Python runs, its commands parse, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from p2pfusion.app.cli import commands as group

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PARTS = "algorithms|core|swarm|wire|node|zoo|lab|sim"
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


def named(pattern: str) -> list[str]:
    """What stands in backticks in a table of `docs/papers.md` and looks like this, each once."""
    rows = [line for line in (ROOT / "docs/papers.md").read_text().splitlines() if line.startswith("|")]
    return list(dict.fromkeys(re.findall(rf"`({pattern})`", "\n".join(rows))))


@pytest.mark.parametrize("name", named(rf"(?:{PARTS})\.[\w.]+"))
def test_what_papers_says_is_in_the_code_is_there(name: str) -> None:
    words = name.split(".")
    try:
        import_module(f"p2pfusion.{name}")
    except ModuleNotFoundError:
        assert hasattr(import_module(f"p2pfusion.{'.'.join(words[:-1])}"), words[-1])


def test_the_tests_that_papers_names_are_there() -> None:
    files = named(r"\w+/test_\w+")
    assert [name for name in files if not (ROOT / f"tests/{name}.py").exists()] == []
    suite = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    functions = named(r"test_\w+")
    assert [name for name in functions if f"def {name}(" not in suite] == []
    assert len(files) > 3
    assert len(functions) > 20

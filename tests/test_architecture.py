"""Style is a test: the import table, who may see which library, banned calls, and that every module stands alone.

HOUSE.md 3 and 6 are the rules; this file is where they bite. Everything is read from the syntax tree, so a rule cannot
be dodged by importing inside a function; only what stands under `if TYPE_CHECKING:` is free for libraries (it never
runs), and not free for the import table (a type is a dependency too).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "p2pfusion"

CELLS = (
    ("errors", "config"),
    ("core",),
    ("wire",),
    ("seams", "swarm"),
    ("algorithms",),
    ("node",),
    ("hops",),
    ("net", "store", "sim", "zoo"),
    ("lab", "app"),
)
"""HOUSE.md 3: each may import only what stands to its left."""
NEIGHBOURS = {
    ("config", "errors"),
    ("swarm", "seams"),
    ("net", "store"),
    ("net", "zoo"),
    ("sim", "store"),
    ("sim", "zoo"),
    ("app", "lab"),
}
"""(who, whom) within one cell. `net` and `sim` never see each other, and nothing that is seen sees back."""
ONLY_IN = {
    "aiohttp": ("net",),
    "backports": ("wire.lossless",),
    "compression": ("wire.lossless",),
    "zeroconf": ("net",),
    "ifaddr": ("net",),
    "msgpack": ("wire.packing",),
    "rich": ("app",),
    "prometheus_client": ("app",),
    "click": ("app",),
    "platformdirs": ("app",),
    "matplotlib": ("lab.figures",),
    "ray": ("lab.engines",),
    "safetensors": ("store",),
    "torch": ("core.training", "core.task", "core.sequential", "core.layers", "core.scaler", "core.data",
              "core.contrastive", "core.projection", "core.averaging", "core.calibration", "core.nested",
              "core.prediction", "core.objectives", "core.recorder", "core.recording", "core.refusals", "core.replay",
              "core.tracing", "core.tracing_checks", "core.tracing_shapes", "core.place", "core.footprint",
              "core.transfer", "core.units", "core.tailored", "core.stages", "core.sections", "core.splitting",
              "core.gradients", "core.measuring", "core.counting", "hops.owning", "hops.relaying", "hops.sending",
              "zoo", "net.compute", "net.device", "app"),
}  # fmt: skip
NOT_IN = {"asyncio": ("core", "wire", "swarm"), "logging": ("core", "wire", "swarm")}
BANNED_CALLS = {
    "time.time", "time.monotonic", "time.sleep", "asyncio.to_thread", "asyncio.wait", "asyncio.get_event_loop",
    "torch.load", "resp.read", "response.read",
}  # fmt: skip
BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
OWN_TASKS = ("net.mdns",)
"""Lives from `announce` to `close`, which is no block that a TaskGroup could stand for; `close` ends its tasks."""
ALLOWED_OF_RANDOM = {"random.Random"}
ASLEEP_MAY = ("net", "contract", "e2e")
"""Folders of tests that wait for a real network."""
VIRTUALLY_ASLEEP_MAY = ("sim",)
"""There asyncio.sleep passes virtual time and no real one."""
FILE_LINES_MAX = 350
"""Targets are 120 to 300; this is where splitting is no longer a matter of taste."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the package: its module name without the package's, and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def part(self) -> str:
        """What the import table calls it: its first name."""
        return self.name.split(".")[0]

    def is_in(self, places: tuple[str, ...]) -> bool:
        """Whether it is one of these modules or within one of these packages."""
        return any(self.name == place or self.name.startswith(f"{place}.") for place in places)


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        words = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(words[:-1] if words[-1] == "__init__" else words)
        found.append(Source(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module a `from` imports from, with its dots resolved."""
    if not node.level:
        return node.module or ""
    package = ["p2pfusion", *source.name.split(".")] if source.name else ["p2pfusion"]
    if source.path.name != "__init__.py":
        package = package[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def imports(source: Source) -> Iterator[tuple[str, ast.stmt]]:
    """Every module this file imports, wherever the statement stands; `from a import b` gives `a.b` and `a`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            module = absolute(source, node)
            yield module, node
            for alias in node.names:
                yield f"{module}.{alias.name}", node


def for_types_only(source: Source) -> frozenset[int]:
    """Identities of the statements under `if TYPE_CHECKING:`."""
    found: list[int] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found += [id(inner) for statement in node.body for inner in ast.walk(statement)]
    return frozenset(found)


def where(source: Source, node: ast.AST) -> str:
    return f"{source.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of nested attributes, else an empty text."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            inner = dotted(node.value)
            return f"{inner}.{node.attr}" if inner else ""
    return ""


def test_every_part_has_its_place_in_the_table() -> None:
    parts = [part for cell in CELLS for part in cell]
    assert sorted({source.part for source in sources()} - {"", "__main__"}) == sorted(parts)


def wrong_ways(source: Source) -> Iterator[str]:
    place = {part: number for number, cell in enumerate(CELLS) for part in cell}
    if source.part not in place:
        return  # the package itself and __main__ may name anything
    for module, node in imports(source):
        words = module.split(".")
        if words[0] != "p2pfusion" or len(words) < 2 or words[1] not in place or words[1] == source.part:
            continue
        if place[words[1]] >= place[source.part] and (source.part, words[1]) not in NEIGHBOURS:
            yield f"{where(source, node)}: {source.part} must not import {words[1]}"


def test_imports_go_one_way() -> None:
    wrong = [text for source in sources() for text in wrong_ways(source)]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def misplaced(source: Source) -> Iterator[str]:
    free = for_types_only(source)
    for module, node in imports(source):
        top = module.split(".")[0]
        if id(node) in free or top == "p2pfusion":
            continue
        if (top in ONLY_IN and not source.is_in(ONLY_IN[top])) or source.is_in(NOT_IN.get(top, ())):
            yield f"{where(source, node)}: {top} must not be seen here"


def test_libraries_are_visible_only_where_they_belong() -> None:
    wrong = [text for source in sources() for text in misplaced(source)]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_nobody_imports_what_executes_data() -> None:
    wrong = [
        f"{where(source, node)}: {module}"
        for source in sources()
        for module, node in imports(source)
        if module.split(".")[0] in BANNED_MODULES
    ]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def renamed(source: Source) -> dict[str, str]:
    """Local name -> what it stands for, of `import a as b` and `from a import b`."""
    found = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def banned_names(source: Source) -> Iterator[str]:
    names = renamed(source)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        first, _, rest = dotted(node).partition(".")
        full = names.get(first, first) + (f".{rest}" if rest else "")
        if full in BANNED_CALLS:
            yield f"{where(source, node)}: {full}"
        words = full.split(".")
        if len(words) == 2 and words[0] == "random" and full not in ALLOWED_OF_RANDOM and "random" in imported(source):
            yield f"{where(source, node)}: {full}: only a given generator gives randomness"
        if full.startswith("numpy.random.") and full.split(".")[2] != "Philox":
            yield f"{where(source, node)}: {full}: only a given generator gives randomness"


def imported(source: Source) -> frozenset[str]:
    return frozenset(module.split(".")[0] for module, _ in imports(source))


def test_banned_calls_are_not_made() -> None:
    wrong = [text for source in sources() for text in banned_names(source)]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def orphans(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
            owner = dotted(node.value).split(".")[-1].strip("_")
            if owner not in ("group", "tasks"):
                yield f"{where(source, node)}: {ast.unparse(node)}"


def test_tasks_have_an_owner() -> None:
    """`create_task` only as a method of something that is called a group or tasks."""
    wrong = [text for source in sources() if not source.is_in(OWN_TASKS) for text in orphans(source)]
    assert not wrong, "\n".join(wrong)


def is_set(node: ast.expr) -> bool:
    """A set where the syntax alone tells: a literal, a comprehension, or a call of set() or frozenset()."""
    if isinstance(node, ast.Call):
        return dotted(node.func) in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        return is_set(node.left) or is_set(node.right)
    return isinstance(node, ast.Set | ast.SetComp)


def set_names(tree: ast.AST) -> frozenset[str]:
    """Names that are assigned a set and nothing else, in the whole file (good enough: files are short)."""
    sets: dict[str, bool] = {}
    for node in ast.walk(tree):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                sets[name] = sets.get(name, True) and is_set(value)
    return frozenset(name for name, always in sets.items() if always)


def iterated_sets(source: Source) -> Iterator[str]:
    names = set_names(source.tree)
    for node in ast.walk(source.tree):
        iterated: list[ast.expr] = []
        match node:
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                iterated = [node.iter]
            case ast.Call(func=ast.Name(id="list" | "tuple" | "enumerate" | "iter" | "map" | "zip"), args=arguments):
                iterated = arguments
            case ast.Starred():
                iterated = [node.value]
        for expression in iterated:
            if is_set(expression) or (isinstance(expression, ast.Name) and expression.id in names):
                yield f"{where(source, expression)}: {ast.unparse(expression)}"


def test_no_set_is_iterated() -> None:
    wrong = [text for source in sources() for text in iterated_sets(source)]
    assert not wrong, "a set has no order; use a dict or sorted():\n" + "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    silent = [source.name for source in sources() if not (ast.get_docstring(source.tree) or "").strip()]
    assert not silent, f"no docstring in {', '.join(silent)}"


def test_files_are_short() -> None:
    long = {source.name: len(source.path.read_text().splitlines()) for source in sources()}
    assert not {name: lines for name, lines in long.items() if lines > FILE_LINES_MAX}


def test_no_module_is_a_drawer() -> None:
    for source in sources():
        assert not frozenset(source.name.split(".")) & {"utils", "util", "helpers", "manager", "common", "misc"}


def loaded_with(source: Source) -> set[str]:
    """Modules of the package that importing this one imports: whatever stands outside functions, not for types only."""
    names = {f"p2pfusion.{one.name}".rstrip(".") for one in sources()}
    skipped = for_types_only(source) | {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found: dict[int, set[str]] = {}
    for name, node in imports(source):
        if id(node) not in skipped and name in names:
            found.setdefault(id(node), set()).add(name)
    # `from package import module` needs the module; the package is only on its way, as for all that stand in it.
    return {name for one in found.values() for name in one if not any(other.startswith(f"{name}.") for other in one)}


def test_imports_run_in_no_circle_and_in_any_order() -> None:
    """So no module needs another to have been imported before it: those that need most are imported first here."""
    graph = {f"p2pfusion.{source.name}".rstrip("."): loaded_with(source) for source in sources()}
    order = [name for name in TopologicalSorter(graph).static_order() if not name.endswith("__main__")]
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    command = [sys.executable, "-W", "error", "-c", script, *reversed(order)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_circle_of_imports_is_found() -> None:
    lazy = pretend("core.a", "def f() -> None:\n    from p2pfusion.core import fold\n")
    eager = pretend("core.b", "from p2pfusion.core.fold import fold\n")
    assert loaded_with(lazy) == set()
    assert loaded_with(eager) == {"p2pfusion.core.fold"}
    assert loaded_with(pretend("core.c", "from p2pfusion.core import fold\n")) == {"p2pfusion.core.fold"}
    assert loaded_with(pretend("hops.d", "from p2pfusion.node import Node\n")) == {"p2pfusion.node"}
    back = pretend("core.fold", "def f() -> None: ...\nimport p2pfusion.core.b\n")
    assert loaded_with(back) == set(), "only what is there"


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, p2pfusion, p2pfusion.app.cli\n"
        "heavy = {'torch', 'numpy', 'aiohttp', 'zeroconf', 'msgpack', 'rich', 'safetensors', 'asyncio'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def exported(source: Source) -> list[str] | None:
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def test_what_is_exported_is_what_all_says() -> None:
    for source in sources():
        names = exported(source)
        if names is None:
            continue
        module = import_module(f"p2pfusion.{source.name}".rstrip("."))
        assert len(names) == len(dict.fromkeys(names)), f"{source.name} exports a name twice"
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"{source.name} has no {missing}"


def test_the_public_names_are_loaded_from_where_they_are_typed() -> None:
    import p2pfusion

    package = next(source for source in sources() if not source.name)
    typed = {
        alias.name: node.module
        for node in ast.walk(package.tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("p2pfusion.")
        for alias in node.names
    }
    assert typed == p2pfusion._HOMES
    assert sorted(p2pfusion.__all__) == sorted([*typed, "__version__"]) == dir(p2pfusion)
    for name, home in typed.items():
        assert getattr(p2pfusion, name) is getattr(import_module(str(home)), name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = p2pfusion.nonsense


def suite() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_no_test_sleeps_outside_the_real_network() -> None:
    wrong = []
    for path, tree in suite():
        folder = path.relative_to(ROOT / "tests").parts[0]
        if folder in ASLEEP_MAY:
            continue
        sleeps = ["time.sleep", "sleep"] if folder in VIRTUALLY_ASLEEP_MAY else ["time.sleep", "asyncio.sleep", "sleep"]
        for node in ast.walk(tree):
            match node:
                case ast.Call(args=[ast.Constant(value=0)]):
                    pass  # sleep(0) is no waiting: it lets the loop take one turn
                case ast.Call() if dotted(node.func) in sleeps:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    wrong = []
    for path, tree in suite():
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            if name in ("pytest.skip", "pytest.xfail", "pytest.importorskip", "unittest.skip") or name.startswith(
                ("pytest.mark.skip", "pytest.mark.xfail")
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {name}")
    assert not wrong, "\n".join(wrong)


def pretend(name: str, text: str) -> Source:
    """A module of the package that is not there."""
    return Source(name, PACKAGE.joinpath(*name.split(".")).with_suffix(".py"), ast.parse(text))


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (wrong_ways, "core.x", "from p2pfusion.wire import codec"),
        (wrong_ways, "core.x", "from p2pfusion import wire"),
        (wrong_ways, "core.x", "from ..wire import codec"),
        (wrong_ways, "core.x", "from .. import wire"),
        (wrong_ways, "core.x", "def f():\n    import p2pfusion.node"),
        (wrong_ways, "core.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p2pfusion.node"),
        (wrong_ways, "net.x", "from p2pfusion.sim import world"),
        (wrong_ways, "sim.x", "from p2pfusion.net import http"),
        (wrong_ways, "node.x", "from p2pfusion.net import http"),
        (wrong_ways, "lab.x", "from p2pfusion.app import cli"),
        (wrong_ways, "errors", "import p2pfusion.config"),
        (misplaced, "node.x", "import aiohttp.web"),
        (misplaced, "wire.compression", "import msgpack"),
        (misplaced, "lab.x", "from rich.table import Table"),
        (misplaced, "swarm.x", "import asyncio"),
        (misplaced, "core.fold", "def f():\n    import torch"),
        (banned_names, "node.x", "import time\ntime.monotonic()"),
        (banned_names, "node.x", "from time import sleep as rest\nrest(1)"),
        (banned_names, "node.x", "import random as r\nr.choice([1])"),
        (banned_names, "node.x", "from random import choice\nchoice([1])"),
        (banned_names, "node.x", "import numpy as np\nnp.random.default_rng()"),
        (banned_names, "node.x", "import asyncio\nasyncio.to_thread(print)"),
        (banned_names, "net.x", "async def f(resp):\n    return await resp.read()"),
        (orphans, "node.x", "import asyncio\nasyncio.create_task(f())"),
        (orphans, "node.x", "asyncio.get_running_loop().create_task(f())"),
        (iterated_sets, "node.x", "for x in {1, 2}: pass"),
        (iterated_sets, "node.x", "[x for x in set(y) | z]"),
        (iterated_sets, "node.x", "known = frozenset(y)\nf(*known)"),
        (iterated_sets, "node.x", "list({x for x in y})"),
    ],
)
def test_the_rules_bite(rule: Callable[[Source], Iterator[str]], name: str, text: str) -> None:
    assert list(rule(pretend(name, text)))


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (wrong_ways, "wire.x", "from p2pfusion.core.fold import fold\nfrom .messages import Link\nimport p2pfusion"),
        (wrong_ways, "net.x", "from p2pfusion.store.folder import FolderStore"),
        (wrong_ways, "app.x", "from p2pfusion.lab.comparisons import compare"),
        (misplaced, "core.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        (misplaced, "net.http", "import aiohttp"),
        (banned_names, "node.x", "import random\nrng = random.Random(1)\nrng.choice([1])"),
        (banned_names, "core.genesis", "import numpy as np\nnp.random.Philox(key=1)"),
        (orphans, "node.x", "self._group.create_task(f())\ntasks.create_task(f())"),
        (iterated_sets, "node.x", "known = {1}\nfor x in sorted(known): pass\nfor x in {1: 2}: pass"),
    ],
)
def test_the_rules_let_good_code_pass(rule: Callable[[Source], Iterator[str]], name: str, text: str) -> None:
    assert list(rule(pretend(name, text))) == []

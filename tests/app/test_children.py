"""Processes of our own: read to their end, ended together, never left behind. The children are one-line scripts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pfusion.app import children
from p2pfusion.app.children import Child, run_children
from p2pfusion.app.output import LINE_BYTES_MAX, PeerLine, to_json

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

PEER = to_json(PeerLine(name="otter", id="ab", state="alive"))
DONE = (
    '{"v":1,"event":"done","status":"ok","name":"fox","round":3,"accuracy":null,"model_sha256":"12","chain":"34",'
    '"bytes_sent":1,"bytes_received":2,"seconds":0.5}'
)
WAIT = "import sys; sys.stdin.read()"
DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(sys.argv[1], flush=True); " + WAIT
NOWHERE = Path("nowhere")


def script(code: str, *arguments: str) -> tuple[list[str], Path]:
    return [sys.executable, "-I", "-S", "-c", code, *arguments], NOWHERE


async def run(view: Any, give_up_s: float = 60.0, **scripts: tuple[list[str], Path]) -> dict[str, Child]:
    found = await run_children(scripts, view, give_up_s=give_up_s)
    assert all(child.process.returncode is not None for child in found)
    return {child.name: child for child in found}


async def test_lines_are_shown_with_their_nodes_name(view: Any) -> None:
    say = "import sys; print(*sys.argv[1:], sep='\\n')"
    found = await run(view, fox=script(say, PEER, DONE), otter=script(say, PEER))
    assert view.expected == ["fox", "otter"]
    assert sorted((source, line.event) for source, line in view.shown) == [
        ("fox", "done"),
        ("fox", "peer"),
        ("otter", "peer"),
    ]
    assert found["fox"].status == found["otter"].status == 0
    assert found["fox"].done is not None
    assert found["fox"].done.round == 3
    assert found["otter"].done is None
    assert view.ticks >= 1


async def test_a_child_that_fails_ends_the_others(view: Any) -> None:
    found = await run(view, fox=script(WAIT), otter=script("import sys; sys.exit('port is taken')"))
    assert (found["otter"].status, found["otter"].last_words) == (1, "port is taken")
    assert found["otter"].failed_first
    assert not found["otter"].was_asked
    assert found["fox"].status == -signal.SIGTERM
    assert found["fox"].was_asked
    assert not found["fox"].failed_first


async def test_a_child_that_does_not_listen_is_killed(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LEAVE_S", 0.0)
    view.show = lambda source, line: signal.raise_signal(signal.SIGINT)
    found = await run(view, fox=script(DEAF, PEER))
    assert found["fox"].status == -signal.SIGKILL
    assert found["fox"].was_asked


async def test_after_a_while_all_are_asked_to_leave(view: Any) -> None:
    found = await run(view, give_up_s=0.0, fox=script(WAIT))
    assert found["fox"].status == -signal.SIGTERM


async def test_cancelling_leaves_nobody_behind(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []
    start = children._start

    async def remember(*arguments: Any) -> Child:
        started.append(await start(*arguments))
        return started[-1]

    monkeypatch.setattr(children, "_start", remember)
    cancelled = asyncio.timeout(None)
    view.expect = lambda name: cancelled.reschedule(0.0)
    with pytest.raises(TimeoutError):
        async with cancelled:
            await run_children({"fox": script(WAIT)}, view, give_up_s=60.0)
    assert [child.process.returncode for child in started] == [-signal.SIGKILL]


async def test_ctrl_c_while_they_are_started_reaches_those_that_come_later(view: Any) -> None:
    def press(name: str) -> None:
        if name == "fox":
            signal.raise_signal(signal.SIGINT)

    view.expect = press
    found = await run(view, fox=script(WAIT), otter=script(WAIT), wren=script(WAIT))
    assert list(found) == ["fox", "otter"]
    assert [child.status for child in found.values()] == [-signal.SIGTERM] * 2


async def test_a_line_that_is_too_long_or_no_json_is_left_out(view: Any) -> None:
    code = f"import sys; print('x' * {LINE_BYTES_MAX + 1}); print('not json'); print(sys.argv[1])"
    found = await run(view, fox=script(code, PEER))
    assert [line.event for _, line in view.shown] == ["peer"]
    assert "not a line of a node's output" in found["fox"].last_words
    assert found["fox"].status == 0


async def test_a_line_at_the_limit_is_read(view: Any) -> None:
    text = to_json(PeerLine(name="", id="", state=""))
    padding = LINE_BYTES_MAX - len(text) - 1
    code = f"import sys; print(sys.argv[1].replace('\"name\":\"', '\"name\":\"' + 'x' * {padding}, 1))"
    await run(view, fox=script(code, text))
    assert [len(line.name) for _, line in view.shown] == [padding]


async def test_of_what_a_child_complains_the_end_is_kept(view: Any) -> None:
    code = "import sys; sys.stderr.write('line\\n' * 10000 + 'the last\\n\\n')"
    found = await run(view, fox=script(code))
    assert found["fox"].last_words == "the last"
    assert len(found["fox"].words) == children.WORDS_BYTES_MAX


async def test_a_child_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    # The parent only starts a child that reads its standard input, says both pids, and is killed.
    parent = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from p2pfusion.app.children import run_children\n"
        "from p2pfusion.app.live import QuietView\n"
        "class View(QuietView):\n"
        "    def show(self, source, line):\n"
        "        print(line.id, flush=True)\n"
        "child = 'import json, os, sys; print(sys.argv[1].replace(\"ab\", str(os.getpid())), flush=True);'\n"
        'child += \'sys.stdin.read(); open(sys.argv[2], "w").write("left")\'\n'
        "line = [sys.executable, '-I', '-S', '-c', child, sys.argv[1], sys.argv[2]]\n"
        "asyncio.run(run_children({'fox': (line, Path('x'))}, View(), give_up_s=60.0))\n"
    )
    proof = tmp_path / "proof"
    os.mkfifo(proof)
    root = str(Path(children.__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, PEER, str(proof), stdout=asyncio.subprocess.PIPE, cwd=root
    )
    assert process.stdout is not None
    assert int(await process.stdout.readline()) != process.pid
    process.kill()
    await process.wait()
    # Opening the pipe waits until the child, told by the end of its input, opens it as well.
    assert await asyncio.get_running_loop().run_in_executor(None, proof.read_text) == "left"

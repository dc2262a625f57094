"""Nothing is written unless asked for, and then by every process to one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfusion.app.moments import VARIABLE, mark


def test_moments_are_written_in_order_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "moments"
    monkeypatch.delenv(VARIABLE, raising=False)
    mark("nobody asks")
    monkeypatch.setenv(VARIABLE, str(file))
    mark("first")
    mark("earlier", ago_s=10.0)
    (_, first, at_s, cpu_s), (_, earlier, before_s, _) = [line.split() for line in file.read_text().splitlines()]
    assert (first, earlier) == ("first", "earlier")
    assert float(before_s) < float(at_s)
    assert float(cpu_s) > 0

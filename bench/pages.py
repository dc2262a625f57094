"""Tables in the documentation that a program writes: what stands between two markers is replaced, never edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def fill(page: Path, names: Iterable[str], table: Callable[[str], Sequence[str]]) -> None:
    """Between `<!-- table NAME -->` and `<!-- end -->` put the lines of that table; a page may lack some."""
    text = page.read_text(encoding="utf-8")
    for name in names:
        before, found, rest = text.partition(f"<!-- table {name} -->")
        if found:
            body, end = "\n".join(table(name)), "<!-- end -->"
            text = f"{before}{found}\n\n{body}\n\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")

"""A page that people write and benchmarks fill: what stands between two marks is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mfal import atomic


def fill(page: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises:
        ValueError: the page has no such marks, or has them more than once.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    content = page.read_text()
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(end) < content.index(begin):
        raise ValueError(f"{page}: must have one line {begin.strip()!r} and after it one line {end!r}")
    before, rest = content.split(begin)
    atomic.replace(page, f"{before}{begin}{text.strip()}\n{end}{rest.split(end)[1]}".encode())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))

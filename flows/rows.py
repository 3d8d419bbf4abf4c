"""Documents of a store as the rows of a table or of a CSV file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

UNITS = {
    **dict.fromkeys(("core_hours", "earlier_core_hours"), "core-h"),
    **dict.fromkeys(("forces", "gain", "thresholds"), "eV/Å"),
    **dict.fromkeys(("magmoms", "asked"), "µB"),
    "energy": "eV",
    "stress": "GPa",
    "seconds": "s",
}
#: Of `mfal.frames.Errors`.
ERROR_UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa", "magmoms": "µB"}
#: Characters in a line of a table in a file.
WIDE = 200
#: Characters of a column that may be folded, at least.
FOLDED = 24


def plain(value: Any) -> Any:
    """As JSON has it, which knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: plain(content) for key, content in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return value if value is None or isinstance(value, str | int) else str(value)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = [json.dumps(v, ensure_ascii=False) if isinstance(v, dict | list | bool) else v for v in row]
        writer.writerow(cells)
    return text.getvalue()


def table_text(columns: Sequence[str], rows: Sequence[Sequence[Any]], total: int, width: int | None) -> str:
    """The text of a table as wide as the terminal, or as `width`; wider where cells would be cut off."""
    cells = [[_cell(value) for value in row] for row in rows]
    console = Console(width=width, highlight=False)
    heads = ["\n".join(filter(None, (column, _unit(column)))) for column in columns]
    if sum(_widths(heads, cells)) > console.width:  # names on several lines, where they are what is wide
        contents = _widths([""] * len(columns), cells)
        broken = [re.sub(r"(?<=\w)([_.])(?=[a-z])", "\\1\n", head) for head in heads]
        heads = [
            b if len(c) + 2 > width else h for h, b, c, width in zip(heads, broken, columns, contents, strict=True)
        ]
    widths = _widths(heads, cells)
    console.width = max(console.width, sum(min(width, FOLDED) for width in widths))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head, width, values in zip(heads, widths, zip(*rows, strict=True), strict=True):
        is_number = all(isinstance(value, int | float | None) for value in values)
        table.add_column(
            escape(head), justify="right" if is_number else "left", overflow="fold", no_wrap=width <= FOLDED
        )
    for row in cells:
        table.add_row(*map(escape, row))
    with console.capture() as capture:
        console.print(table)
        if total > len(rows):
            console.print(f"{len(rows)} of {total}: --limit 0 shows all")
    return capture.get()


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """Characters of each column on one line, and what is between two."""
    columns = zip(heads, *cells, strict=True)
    return [2 + max(len(line) for text in column for line in text.split("\n")) for column in columns]


def _unit(column: str) -> str:
    path = column.split(".")
    if path[0] == "errors":
        return ERROR_UNITS.get(path[-1], "")
    return "eV/Å" if path[0].startswith("sigma_") else UNITS.get(path[0], "")


def _cell(value: Any) -> str:
    """As it is read in a table, on one line."""
    match value:
        case None | "":
            return ""
        case bool():
            return json.dumps(value)
        case float():
            return f"{value:.3f}" if abs(value) >= 1 else f"{value:#.3g}"
        case {"@class": "Structure", "sites": list(sites)}:
            return f"{len(sites)} atoms"
        case dict():
            return ", ".join(f"{key} {_nested(content)}" for key, content in value.items())
        case list():
            return ", ".join(map(_nested, value))
    return str(value)


def _nested(value: Any) -> str:
    return f"({_cell(value)})" if isinstance(value, dict | list) else _cell(value)

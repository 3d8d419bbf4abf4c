"""Text, numbers and tables in Markdown. What a person wrote must come out as text, whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

#: All that Markdown, its tables, GitHub's mathematics and HTML read as more than text; an underscore inside of a word
#: is text. As numbered entities these stay text in every dialect, in a table too, which a backslash does not do.
SPECIAL = re.compile(r"[\\`*\[\]<>&|~$#]|_(?![^\W_])|(?<![^\W_])_")


def text(value: object) -> Markup:
    """On one line, to be read inside of one: at the start of a line a dash or a number would begin a list."""
    if isinstance(value, Markup):
        return value
    value = f"{value:g}" if isinstance(value, float) else str(value)
    plain = "".join(character if character.isprintable() else " " for character in value)
    return Markup(SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(plain.split())))


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    return Markup("\n".join(f"| {' | '.join(map(text, line))} |" for line in (head, ["---"] * len(head), *rows)))


def number(value: float | None) -> str:
    """Three significant figures, without exponents; a dash for what is not there."""
    if value is None:
        return "–"
    decimals = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:.{min(decimals, 6)}f}"


def between(values: Sequence[float], decimals: int) -> str:
    """`-6.81 to -6.25 (median -6.50)`; a dash where there are none."""
    if not values:
        return "–"
    low, high, middle = (f"{value:.{decimals}f}" for value in (min(values), max(values), np.median(values)))
    return f"{low} to {high} (median {middle})" if low != high else low

"""A page as one file to mail to a colleague: style, scripts and figures are in it, nothing comes from a network."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mfal.report import style
from mfal.report.text import sentence

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A figure on a page. `alt` says in a sentence what someone who cannot see it would miss."""

    name: str
    figure: go.Figure
    alt: str
    title: str = ""
    square: bool = False

    @property
    def height(self) -> int:
        return int(self.figure.layout.height)

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        return style.legend(self.figure)


def render(
    template: str,
    plots: Mapping[str, Plot],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    live: bool = False,
    **content: Any,
) -> str:
    """A page from a template of this folder, which shows these plots with `plot.html.j2`.

    Args:
        styles, scripts: files of this folder that come after `page.css` and `page.js`.
        live: whether it follows the server that it came from; otherwise it talks to nobody.
    """
    environment = Environment(
        loader=PackageLoader("mfal", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, hours=hours, when=when, sentence=sentence)
    own = [(FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", *scripts, *["live.js"] * live)]
    return environment.get_template(template).render(
        plots=plots,
        live=live,
        style=Markup("".join((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", *styles))),
        scripts=[Markup(script) for script in own],
        script_hashes=[_hash(script) for script in (*own, get_plotlyjs())],
        plotly=_plotly() if plots else "",
        figures=packed({name: json.loads(plot.figure.to_json()) for name, plot in plots.items()}),
        **content,
    )


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """`digits` significant figures without exponents, a real minus sign, and a dash for what is absent."""
    if value is None or not np.isfinite(value):
        return "–"
    decimals = 0 if value == 0 else max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def hours(value: float) -> str:
    """Core-hours: two figures when few, whole when many."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3 if value >= 1 else 2)


def when(timestamp: str) -> str:
    """`21 November 2025, 02:40 UTC`; what is no ISO timestamp stays as it is."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def packed(content: Any) -> str:
    """JSON as a page carries it, for `unpacked` in `page.js`: gzip and base64, so that nothing in it can close an
    element; the same bytes each time."""
    return compressed(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def compressed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    """A third of its size."""
    return compressed(get_plotlyjs().encode())


def _hash(script: str) -> str:
    """A script as the page's content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

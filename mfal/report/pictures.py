"""The figures of a report as files for a talk or a paper: SVG and PNG, in the light colours, with their legends."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go

from mfal.report.standalone import FOLDER, Plot

#: Pixels; a PNG has twice as many in each direction.
WIDTH, SQUARE, LINE = 900, 520, 24
FORMATS = {"svg": 1, "png": 2}
#: Names under which a Chrome or Chromium is found that can draw.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MEND = "install Chromium (apt-get install chromium) and run `mfal report` again"


def browser() -> str | None:
    """Where the first of them is."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class CannotDrawError(Exception):
    """There is no browser that draws, or it broke; says so with the mend."""


def write(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write NAME.svg and NAME.png of each plot to the folder, in place of all that was there.

    Raises:
        CannotDrawError: nothing was changed.
    """
    if browser() is None:
        raise CannotDrawError(f"no Chrome or Chromium is here to draw the figures: {MEND}")
    import kaleido

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as kept:
        new = Path(kept) / "new"
        new.mkdir()
        wanted = [
            {"fig": still(plot), "path": new / f"{plot.name}.{ending}", "opts": {"format": ending, "scale": scale}}
            for plot in plots
            for ending, scale in FORMATS.items()
        ]
        try:
            kaleido.write_fig_from_object_sync(wanted)
        except Exception as error:  # whatever the browser stumbles over; a report is no reason to stop a campaign
            raise CannotDrawError(f"the figures were not drawn ({type(error).__name__}: {error}): {MEND}") from error
        if folder.exists():
            folder.rename(Path(kept) / "old")
        new.rename(folder)
    return sorted(folder.iterdir())


def still(plot: Plot) -> go.Figure:
    """The figure without a page around it: its colours are values, its legend and its title are in it."""
    figure = go.Figure(json.loads(_coloured(plot.figure.to_json())))
    named = [trace.name for trace in figure.data if trace.name]
    width = SQUARE if plot.square else WIDTH
    # plotly keeps no room for a legend above: lines of entries, of about 7 pixels a letter
    lines = math.ceil(sum(50 + 7 * len(name) for name in named) / (width - 160)) if named else 0
    head = LINE * bool(plot.title)
    top = head + LINE * lines + 36
    height = plot.height + top
    for trace in figure.data:
        trace.showlegend = bool(trace.name)
    figure.update_layout(
        width=width,
        height=height,
        showlegend=bool(named),
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1 - (head + 8) / height,
            "yref": "container",
            "yanchor": "top",
        },
        margin={"l": 70, "r": 90, "t": top, "b": 60},
        paper_bgcolor="white",
    )
    if plot.title:
        place = {"x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}}
        figure.update_layout(title={"text": plot.title, "font": {"size": 15}, **place})
    return figure


def _coloured(text: str) -> str:
    light = (FOLDER / "page.css").read_text(encoding="utf-8").split("@media")[0]
    values = dict(re.findall(r"(--[\w-]+): (#\w+)", light))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], text)

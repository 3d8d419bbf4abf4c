"""The figures of a report as files for a talk or a paper: SVG and PNG, in the light colours, with their legends."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go

from mfal.report.standalone import FOLDER, Plot

#: Pixels; a PNG has twice as many in each direction.
WIDTH, SQUARE = 900, 520
FORMATS = {"svg": 1, "png": 2}
#: Names under which a Chrome or Chromium is found that can draw.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MEND = "install Chromium (apt-get install chromium) and run `mfal report` again"


class CannotDrawError(Exception):
    """There is no browser that draws, or it broke; says so with the mend."""


def write(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write NAME.svg and NAME.png of each plot to the folder, in place of all that was there.

    Raises:
        CannotDrawError: nothing was changed.
    """
    if not any(map(shutil.which, BROWSERS)):
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
    figure.update_layout(
        width=SQUARE if plot.square else WIDTH,
        height=plot.height + 60,
        showlegend=len(figure.data) > 1 or bool(figure.data and figure.data[0].name),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemsizing": "constant"},
        margin={"l": 70, "r": 90, "t": 60, "b": 60},
        paper_bgcolor="white",
        title={"text": plot.title, "x": 0, "xref": "paper", "font": {"size": 14}} if plot.title else None,
    )
    return figure


def _coloured(text: str) -> str:
    light = (FOLDER / "page.css").read_text(encoding="utf-8").split("@media")[0]
    values = dict(re.findall(r"(--[\w-]+): (#\w+)", light))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], text)

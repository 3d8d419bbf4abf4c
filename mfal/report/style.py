"""How the report's figures look: the type, the lines and the colours that all of them share.

The page writes the legends itself, as text beside the figure, from the traces (`legend`).

Colours are names of CSS variables (`var(--magnetic)`); `page.js` puts in the values of the light or the dark scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mfal.frames import Fidelity, Round

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
FIDELITY_COLOURS: dict[Fidelity, str] = {"nonmagnetic": "var(--nonmagnetic)", "magnetic": "var(--magnetic)"}


def rounds_axis(figure: go.Figure, rounds: Sequence[Round], *, start: bool = False) -> None:
    ticks = [r.round for r in rounds]
    names = [str(r.round) for r in rounds]
    if start:
        ticks, names = [ticks[0] - 1, *ticks], ["before", *names]
    step = max(1, len(ticks) // 12)
    figure.update_xaxes(
        title_text="round", tickvals=ticks[::step], ticktext=names[::step], range=[ticks[0] - 0.6, ticks[-1] + 0.6]
    )


def blank(**layout: Any) -> go.Figure:
    """An empty figure in the page's type and lines."""
    axis = {
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 12, "font": {"size": 13}},
        "tickfont": {"color": "var(--soft)"},
    }
    return go.Figure(
        layout={
            "template": "none",
            "autosize": True,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {
                "family": FONT,
                "size": 13,
                "color": "var(--soft)",
            },
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": "var(--page)",
                "bordercolor": "var(--soft)",
                "font": {"color": "var(--ink)", "family": FONT},
                "align": "left",
            },
            "xaxis": {**axis, "showgrid": False},
            "yaxis": axis,
            **layout,
        }
    )


def diagonal(figure: go.Figure, *values: np.ndarray) -> None:
    """Both axes alike over all values, with the line where they agree."""
    low, high = (float(limit([limit(array) for array in values])) for limit in (np.min, np.max))
    margin = 0.06 * (high - low) or 0.1
    ends = [low - margin, high + margin]
    corners = {"x0": ends[0], "x1": ends[1], "y0": ends[0], "y1": ends[1]}
    figure.add_shape(type="line", layer="below", line={"color": "var(--soft)", "width": 1}, **corners)
    figure.update_xaxes(range=ends, showgrid=True, nticks=6)
    figure.update_yaxes(range=ends, nticks=6)


def legend(figure: go.Figure) -> list[tuple[str, str, str]]:
    """(name, colour, shape) of each trace that is to be named; the shape is a class of `page.css`."""
    return [
        (trace.name, trace.marker.color, "square" if trace.type == "bar" else trace.marker.symbol)
        for trace in figure.data
        if trace.showlegend is not False
    ]

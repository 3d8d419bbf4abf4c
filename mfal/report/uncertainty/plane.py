"""The plane of the two uncertainties that decide about a frame, with every scored frame of a round in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mfal.frames import Frame, Score
from mfal.report.routing import by_route, marks, short
from mfal.report.style import blank
from mfal.report.uncertainty.axis import Span, span, ticks

#: eV/Å; of the kinds of sigma, `nonmagnetic` and `delta` have an axis here.
Thresholds = Mapping[str, float]

#: Free room beyond the outermost point, as a share of the axis: up and down it holds the words.
MARGIN_X, MARGIN_Y = 0.05, 0.12
#: Pixels between the axes on a phone, and of a letter: a word that does not fit its quadrant there is left out.
NARROW, LETTER = 220, 6.5


def plane(
    scores: Sequence[Score], frames: Mapping[str, Frame], thresholds: Thresholds, *, cheap: bool = True
) -> go.Figure | None:
    """Where each scored frame of a round lies, and what was decided; None before there is a committee.

    Drawn as SVG, ten thousand points too: it takes half a second, needs no WebGL, and prints.

    Args:
        cheap: whether the two sigmas decided; otherwise the quadrants have no names.
    """
    places = {
        s.frame_id: (s.sigma_nonmagnetic, s.sigma_delta)
        for s in scores
        if s.sigma_nonmagnetic is not None and s.sigma_delta is not None
    }
    if not places:
        return None
    figure = blank(height=460, margin={"l": 8, "r": 70, "t": 28, "b": 8})
    for key, chosen in by_route([score for score in scores if score.frame_id in places]).items():
        xs, ys = zip(*(places[score.frame_id] for score in chosen), strict=True)
        numbers = "σ non-magnetic %{x:.3~r}, σ Δ %{y:.3~r} eV/Å"
        figure.add_scatter(x=short(xs), y=short(ys), **marks(key, chosen, frames, numbers))
    x = span([x for x, _ in places.values()], thresholds.get("nonmagnetic"), margin=MARGIN_X)
    y = span([y for _, y in places.values()], thresholds.get("delta"), margin=MARGIN_Y)
    figure.update_xaxes(title_text="σ non-magnetic (eV/Å)", showgrid=True, **ticks(x))
    figure.update_yaxes(title_text="σ Δ (eV/Å)", **ticks(y))
    if x.line is not None and y.line is not None:
        _thresholds(figure, x.line, y.line, thresholds)
        # A label at the end of a line leans inwards near a corner
        figure.layout.annotations[0].xanchor = "left" if x.below < 0.2 else "right" if x.below > 0.8 else "center"
        if cheap:
            _quadrants(figure, x, y, thresholds)
    return figure


def _thresholds(figure: go.Figure, x: float, y: float, thresholds: Thresholds) -> None:
    """Both lines, each with its value at its end, outside of the axes."""
    style = {"color": "var(--soft)", "width": 1, "dash": "dash"}
    # plotly takes values for a shape on a logarithmic axis, where there is no zero, and logarithms for an annotation
    if at := thresholds["nonmagnetic"]:
        figure.add_shape(type="line", x0=at, x1=at, yref="paper", y0=0, y1=1, line=style)
    if at := thresholds["delta"]:
        figure.add_shape(type="line", y0=at, y1=at, xref="paper", x0=0, x1=1, line=style)
    label = {"showarrow": False, "font": {"size": 12}, "align": "left"}
    figure.add_annotation(
        text=f"threshold {thresholds['nonmagnetic']:.3g}", x=x, yref="paper", y=1, yanchor="bottom", **label
    )
    figure.add_annotation(
        text=f"threshold<br>{thresholds['delta']:.3g}", y=y, xref="paper", x=1, xanchor="left", xshift=4, **label
    )


def _quadrants(figure: go.Figure, x: Span, y: Span, thresholds: Thresholds) -> None:
    """What the case of each quadrant asks for, in its outer corner, where the margins keep points away."""
    words = {
        ("left", "bottom"): "skip",
        ("right", "bottom"): "non-<br>magnetic",
        ("left", "top"): "magnetic",
        ("right", "top"): "both, then<br>decide",
    }
    for (side, end), word in words.items():
        if (side == "left" and not thresholds["nonmagnetic"]) or (end == "bottom" and not thresholds["delta"]):
            continue  # no sigma is below zero
        width = NARROW * (x.below if side == "left" else 1 - x.below)
        if width < LETTER * max(map(len, word.split("<br>"))):
            continue
        figure.add_annotation(
            text=word,
            x=x.low if side == "left" else x.high,
            xanchor=side,
            y=y.low if end == "bottom" else y.high,
            yanchor=end,
            align=side,
            showarrow=False,
            font={"size": 12},
        )

"""What was decided about the scored frames, in the plane of the two uncertainties that decide it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from mfal.frames import Frame, Score
from mfal.report.style import blank
from mfal.report.text import DECISIONS, escaped, formula, lines

#: eV/Å; of the kinds of sigma, `nonmagnetic` and `delta` have an axis here.
Thresholds = Mapping[str, float]


class Route(NamedTuple):
    """How frames of one decision are drawn. Shape and colour say the same."""

    name: str
    colour: str
    symbol: str


#: Random frames have a route of their own, whatever was decided about them.
ROUTES: dict[str, Route] = {
    "skip": Route(DECISIONS["skip"], "var(--skip)", "x-thin-open"),
    "nonmagnetic": Route(DECISIONS["nonmagnetic"], "var(--nonmagnetic)", "circle"),
    "magnetic": Route(DECISIONS["magnetic"], "var(--magnetic)", "triangle-up"),
    "both": Route(DECISIONS["both"], "var(--both)", "star"),
    "control": Route("both, control arm", "var(--control)", "square"),
    "hold_out": Route("both, hold-out", "var(--hold-out)", "diamond"),
    "wild": Route(DECISIONS["wild"], "var(--bad)", "triangle-down"),
}

#: An axis over a larger factor is logarithmic.
WIDEST = 30.0
#: Free room beyond the outermost point, as a share of the axis: up and down it holds the words.
MARGIN_X, MARGIN_Y = 0.05, 0.12
#: Pixels between the axes on a phone, and of a letter: a word that does not fit its quadrant there is left out.
NARROW, LETTER = 220, 6.5


class Span(NamedTuple):
    """One axis. Places are in its own units: log10 where it is logarithmic."""

    log: bool
    low: float
    high: float
    #: Where the threshold is, if there is one.
    line: float | None

    @property
    def below(self) -> float:
        """Share of the axis below the threshold."""
        return 1.0 if self.line is None else (self.line - self.low) / (self.high - self.low)


def route(score: Score) -> str:
    """What was decided about a frame, as a key of `ROUTES`."""
    return score.arm if score.arm in ("hold_out", "control") else score.decision


def uncertainty(
    scores: Sequence[Score], frames: Mapping[str, Frame], thresholds: Thresholds, *, cheap: bool = True
) -> go.Figure | None:
    """Where each scored frame of a round lies, and what was decided; None before there is a committee."""
    known = [
        (s, s.sigma_nonmagnetic, s.sigma_delta)
        for s in scores
        if s.sigma_nonmagnetic is not None and s.sigma_delta is not None
    ]
    if not known:
        return None
    figure = blank(height=460, margin={"l": 8, "r": 70, "t": 28, "b": 8})
    for key, (name, colour, symbol) in ROUTES.items():
        chosen = [item for item in known if route(item[0]) == key]
        if not chosen:
            continue
        figure.add_scatter(
            x=[x for _, x, _ in chosen],
            y=[y for _, _, y in chosen],
            name=f"{name} ({len(chosen)})",
            mode="markers",
            marker={
                "size": 11 if symbol in ("circle", "square", "x-thin-open") else 14,  # of like area
                "color": colour,
                "symbol": symbol,
                "line": {"width": 2 if symbol.endswith("-open") else 0},
            },
            hovertext=[
                f"<b>{escaped(s.frame_id)}</b>  {escaped(formula(frames.get(s.frame_id)))}: {name}"
                f"<br>σ non-magnetic {x:.3g}, σ Δ {y:.3g} eV/Å<br>{lines(s.reason)}"
                for s, x, y in chosen
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    x = _span([x for _, x, _ in known], thresholds.get("nonmagnetic"), MARGIN_X)
    y = _span([y for _, _, y in known], thresholds.get("delta"), MARGIN_Y)
    figure.update_xaxes(title_text="σ non-magnetic (eV/Å)", range=[x.low, x.high], showgrid=True, **_ticks(x))
    figure.update_yaxes(title_text="σ Δ (eV/Å)", range=[y.low, y.high], **_ticks(y))
    if x.line is not None and y.line is not None:
        _thresholds(figure, x.line, y.line, thresholds)
        # A label at the end of a line leans inwards near a corner
        figure.layout.annotations[0].xanchor = "left" if x.below < 0.2 else "right" if x.below > 0.8 else "center"
        if cheap:
            _quadrants(figure, x, y, thresholds)
    return figure


def _span(values: Sequence[float], threshold: float | None, margin: float) -> Span:
    inside = [*values, *([threshold] if threshold else [])]
    low, high = min(inside), max(inside)
    log = low > 0 and high > WIDEST * low
    ends = (math.log10(low), math.log10(high)) if log else (0.0, high)
    free = margin * (ends[1] - ends[0]) or 1.0
    first, last = ends[0] - free, ends[1] + free
    if threshold is None or not log:
        return Span(log, first, last, threshold)
    return Span(log, first, last, math.log10(threshold) if threshold else first)


def _ticks(span: Span) -> dict:
    if not span.log:
        return {"nticks": 6}  # few enough that none falls into the margin below zero
    decades = range(math.floor(span.low), math.ceil(span.high) + 1)
    between = (1, 3) if len(decades) <= 4 else (1,)
    ticks = [float(f"{digit}e{n}") for n in decades for digit in between]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


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

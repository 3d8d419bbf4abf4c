"""How the scored frames of a round are drawn, by what was decided about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mfal.frames import Frame, Score
from mfal.report.text import DECISIONS, escaped, formula, lines


class Route(NamedTuple):
    """How frames of one decision are drawn. Shape and colour say the same."""

    name: str
    colour: str
    symbol: str


#: Random frames have a route of their own, whatever was decided about them. The many come first, below the few.
ROUTES: dict[str, Route] = {
    "skip": Route(DECISIONS["skip"], "var(--skip)", "x-thin-open"),
    "nonmagnetic": Route(DECISIONS["nonmagnetic"], "var(--nonmagnetic)", "circle"),
    "magnetic": Route(DECISIONS["magnetic"], "var(--magnetic)", "triangle-up"),
    "both": Route(DECISIONS["both"], "var(--both)", "star"),
    "control": Route("both, control arm", "var(--control)", "square"),
    "hold_out": Route("both, hold-out", "var(--hold-out)", "diamond"),
    "wild": Route(DECISIONS["wild"], "var(--bad)", "triangle-down"),
}

#: More frames of one decision than this are a cloud: small and transparent, and each without its reason.
CLOUD = 500


def route(score: Score) -> str:
    """What was decided about a frame, as a key of `ROUTES`."""
    return score.arm if score.arm in ("hold_out", "control") else score.decision


def by_route(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """The scores of each route that occurs, in the order of `ROUTES`."""
    found = {key: [score for score in scores if route(score) == key] for key in ROUTES}
    return {key: chosen for key, chosen in found.items() if chosen}


def marks(key: str, chosen: Sequence[Score], frames: Mapping[str, Frame], numbers: str) -> dict[str, Any]:
    """A trace of the frames of a route, but for its x and y.

    Args:
        numbers: what a hover says of x and y, as a template of plotly.
    """
    name, colour, symbol = ROUTES[key]
    cloud = len(chosen) > CLOUD
    size = 11 if symbol in ("circle", "square", "x-thin-open") else 14  # of like area
    return {
        "name": f"{name} ({len(chosen)})",
        "mode": "markers",
        "marker": {
            "size": 5 if cloud else size,
            "color": colour,
            "symbol": symbol,
            "line": {"width": (1 if cloud else 2) if symbol.endswith("-open") else 0},
        },
        "opacity": 0.5 if cloud else 1,
        # by which the page shows the frame at a click; as it is, for no real one has anything to escape
        "customdata": [escaped(score.frame_id) for score in chosen],
        "text": [formula(frames.get(score.frame_id)) for score in chosen],
        "hovertext": None if cloud else [f"<br>{lines(score.reason)}" for score in chosen],
        "hovertemplate": f"<b>%{{customdata}}</b>  %{{text}}: {name}<br>{numbers}"
        + ("" if cloud else "%{hovertext}")
        + "<extra></extra>",
        "cliponaxis": cloud,  # to leave it out takes a look at every point
    }


def short(values: Sequence[float]) -> list[float]:
    """As drawn: four digits, which take less room in the page than a float32."""
    return [float(f"{value:.4g}") for value in values]

"""Where the uncertainty of a round's frames sits: in composition, temperature, volume, source and parent.

Of the non-magnetic sigma and of sigma_delta, side by side: the first is what cheap labels teach, the second what only
magnetic ones do. The sigma of the magnetic forces is made of both and would not tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from mfal.frames import Frame, Score
from mfal.report.standalone import Plot, number
from mfal.report.style import blank
from mfal.report.uncertainty.groups import KINDS, Group, binned, grouped, spread

#: Bins of an axis at most, and so many frames to a bin of volume at least, on average.
BINS, EACH = 6, 3
#: Different compositions of an axis that keep their own row.
OWN = 9
#: The bin of each frame, None in none; and all bins in their order, where they have one.
Bins = tuple[Sequence[str | None], Sequence[str]]
MD = re.compile(r"md (\d+(?:\.\d+)?) K")


class Place(NamedTuple):
    """Where a frame lies; None where it has no such number."""

    manganese: float | None  # Mn / (Mn + Fe)
    lithium: float | None  # Li / (Mn + Fe)
    temperature: float | None  # K
    volume: float  # Å3 an atom
    source: str
    parent: str

    @classmethod
    def of(cls, frame: Frame) -> Place:
        amounts = frame.structure.composition.get_el_amt_dict()
        metal = amounts.get("Mn", 0.0) + amounts.get("Fe", 0.0)
        dynamics = MD.fullmatch(frame.source)
        return cls(
            manganese=amounts.get("Mn", 0.0) / metal if metal else None,
            lithium=amounts.get("Li", 0.0) / metal if metal else None,
            temperature=float(dynamics[1]) if dynamics else None,
            volume=frame.structure.volume / len(frame.structure),
            source="molecular dynamics" if dynamics else frame.source,
            parent=frame.parent,
        )


class Where(NamedTuple):
    plots: list[Plot]
    #: By what the frames are grouped.
    groups: dict[str, list[Group]]
    #: What is the same for all frames, a sentence each.
    alike: list[str]


def where(scores: Sequence[Score], frames: dict[str, Frame]) -> Where:
    """The figures: a grid of compositions where both of their numbers vary, else rows."""
    known = [
        (Place.of(frames[s.frame_id]), s.sigma_nonmagnetic, s.sigma_delta)
        for s in scores
        if s.sigma_nonmagnetic is not None and s.sigma_delta is not None and s.frame_id in frames
    ]
    if not known:
        return Where([], {}, [])
    places = [place for place, *_ in known]
    sigmas = np.array([pair for _, *pair in known], dtype=float)
    manganese, lithium = binned([p.manganese for p in places], most=OWN), binned([p.lithium for p in places], most=OWN)
    bins = int(np.clip(len(known) // EACH, 2, BINS))
    axes: dict[str, tuple[str, Bins]] = {
        "manganese": ("x = Mn / (Mn + Fe)", manganese),
        "lithium": ("Li content, Li / (Mn + Fe)", lithium),
        "temperature": ("Temperature (K)", binned([p.temperature for p in places], most=OWN)),
        "volume": ("Volume (Å³ an atom)", binned([p.volume for p in places], most=bins, keep=False)),
        "source": ("Source", ([p.source for p in places], [])),
        "parent": ("Parent", ([p.parent for p in places], [])),
    }
    plots: list[Plot] = []
    groups: dict[str, list[Group]] = {}
    alike: list[str] = []
    square = len(manganese[1]) > 1 and len(lithium[1]) > 1
    if square:
        for i, (kind, (name, *_)) in enumerate(KINDS.items()):
            figure, cells = _grid(manganese, lithium, sigmas, i, kind)
            plots.append(Plot(f"where-composition-{kind}", figure, f"Grid of compositions, {name}: {cells}", name))
    for key, (title, (names, order)) in axes.items():
        groups[key] = grouped(names, sigmas, order)
        if len(groups[key]) == 1:
            (only,) = groups[key]
            some = "throughout" if len(only.delta) == len(known) else f"for all that have one (n = {len(only.delta)})"
            alike.append(f"{title}: {only.name} {some}")
        elif not groups[key]:
            alike.append(f"{title}: no frame has one")
        elif not (square and key in ("manganese", "lithium")):
            medians = "; ".join(f"{g.name} {number(float(np.median(g.delta)))}" for g in groups[key])
            alt = f"Medians and quartiles of the two uncertainties by {title}. Median of σ Δ in eV/Å: {medians}"
            plots.append(Plot(f"where-{key}", spread(groups[key]), alt, title))
    return Where(plots, {key: found for key, found in groups.items() if found}, alike)


def _grid(manganese: Bins, lithium: Bins, sigmas: np.ndarray, own: int, kind: str) -> tuple[go.Figure, str]:
    """Cells with the median of one column of the sigmas and the number of frames, and the same as words."""
    cells: dict[tuple[str, str], list[np.ndarray]] = {(x, y): [] for y in lithium[1] for x in manganese[1]}
    for x, y, pair in zip(manganese[0], lithium[0], sigmas, strict=True):
        if x is not None and y is not None:
            cells[x, y].append(pair)
    both = {cell: np.median(pairs, axis=0) for cell, pairs in cells.items() if pairs}
    medians = {cell: float(pair[own]) for cell, pair in both.items()}

    def rows(of: Any) -> list[list[Any]]:
        return [[of(x, y) for x in manganese[1]] for y in lithium[1]]

    def text(x: str, y: str) -> str:
        return f"{number(medians[x, y], 2)}<br>({len(cells[x, y])})" if (x, y) in medians else ""

    figure = blank(height=110 + 46 * len(lithium[1]))
    figure.add_heatmap(
        z=rows(lambda x, y: medians.get((x, y))),
        text=rows(text),
        texttemplate="%{text}",
        textfont={"color": "var(--ink)"},
        x=manganese[1],
        y=lithium[1],
        xgap=2,
        ygap=2,
        zmin=0,
        # of both columns, so that their colours compare
        zmax=float(np.max(list(both.values()))),
        colorscale=[[0, "var(--page)"], [1, f"var(--wash-{kind})"]],
        showscale=False,
        showlegend=False,
        customdata=rows(lambda x, y: len(cells[x, y])),
        hovertemplate="<b>x = %{x}, Li %{y}</b>, n = %{customdata}<br>median %{z:.3~r} eV/Å<extra></extra>",
        hoverongaps=False,
    )
    figure.update_xaxes(title_text="x = Mn / (Mn + Fe)", type="category")
    figure.update_yaxes(title_text="Li / (Mn + Fe)", type="category", showgrid=False)
    words = [f"x {x}, Li {y}: median {number(m)} eV/Å of {len(cells[x, y])}" for (x, y), m in medians.items()]
    return figure, "; ".join(words)

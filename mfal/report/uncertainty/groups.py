"""Frames (or atoms) in groups, and how large the two sigmas are in each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from mfal.report.standalone import number
from mfal.report.style import blank
from mfal.report.text import escaped
from mfal.report.uncertainty.axis import span, ticks

#: Name, colour and mark of the two sigmas wherever they stand side by side.
KINDS = {
    "nonmagnetic": ("σ non-magnetic", "var(--nonmagnetic)", "circle"),
    "delta": ("σ Δ", "var(--magnetic)", "triangle-up"),
}
#: Rows of a figure; the smallest groups beyond it are one.
MOST = 10


class Group(NamedTuple):
    """Sigmas in eV/Å, [n] each, without nan."""

    name: str
    nonmagnetic: np.ndarray
    delta: np.ndarray

    def numbers(self) -> dict[str, Any]:
        """As the JSON beside the page has them."""
        return {
            "group": self.name,
            "n": len(self.delta),
            "median_sigma_nonmagnetic_ev_per_angstrom": float(np.median(self.nonmagnetic)),
            "median_sigma_delta_ev_per_angstrom": float(np.median(self.delta)),
        }


def grouped(names: Sequence[str | None], sigmas: np.ndarray, order: Sequence[Hashable] | None = None) -> list[Group]:
    """The groups of the same name, by size unless an order is given; what has no name is in none.

    Args:
        sigmas: [n, 2] eV/Å, non-magnetic and delta.
    """
    array = np.array([name if name is not None else "" for name in names], dtype=object)
    known = np.array([name is not None for name in names], dtype=bool)
    found = {name: known & (array == name) for name in dict.fromkeys(name for name in names if name is not None)}
    keys = [key for key in order if key in found] if order else sorted(found, key=lambda n: (-found[n].sum(), n))
    groups = [Group(str(key), *sigmas[found[key]].T) for key in keys]
    if len(groups) <= MOST:
        return groups
    rest = np.any([found[group.name] for group in groups[MOST - 1 :]], axis=0)
    return [*groups[: MOST - 1], Group(f"{len(groups) - MOST + 1} others", *sigmas[rest].T)]


def binned(values: Sequence[float | None], *, most: int, keep: bool = True) -> tuple[list[str | None], list[str]]:
    """The name of the bin of each value, and the names of all bins that occur, upwards.

    Args:
        most: bins of even width, at most.
        keep: up to `most` different values are bins of their own.
    """
    known = sorted({round(value, 3) for value in values if value is not None})
    if not known or (keep and len(known) <= most) or known[0] == known[-1]:
        return [None if value is None else f"{round(value, 3):g}" for value in values], [f"{v:g}" for v in known]
    smallest = (known[-1] - known[0]) / most
    tens = 10.0 ** math.floor(math.log10(smallest))
    step = next(
        s
        for f in (1, 2, 2.5, 5, 10, 20)
        if (s := f * tens) >= smallest and _bin(known[-1], s) - _bin(known[0], s) < most
    )
    names = {at: f"{at * step:.6g} to {(at + 1) * step:.6g}" for at in (_bin(value, step) for value in known)}
    return [None if value is None else names[_bin(round(value, 3), step)] for value in values], list(names.values())


def _bin(value: float, step: float) -> int:
    return int((value + 1e-9) // step)  # rounding must not move an edge


def spread(groups: Sequence[Group], *, of: str = "frame") -> go.Figure:
    """The median and the middle half of the two sigmas, a row each group, the first on top.

    Args:
        of: what there are n of in a group.
    """
    figure = blank(height=84 + 46 * len(groups))
    rows = np.arange(len(groups))[::-1]
    ends: list[float] = []
    for offset, (kind, (name, colour, symbol)) in zip((0.13, -0.13), KINDS.items(), strict=True):
        low, middle, high = np.array([np.percentile(getattr(group, kind), (25, 50, 75)) for group in groups]).T
        ends += [*low, *high]
        figure.add_scatter(
            x=middle.tolist(),
            y=(rows + offset).tolist(),
            error_x={
                "type": "data",
                "array": (high - middle).tolist(),
                "arrayminus": (middle - low).tolist(),
                "color": colour,
                "thickness": 3,
                "width": 0,
            },
            name=name,
            mode="markers",
            marker={"size": 9 if symbol == "circle" else 11, "color": colour, "symbol": symbol},
            hovertext=[
                f"<b>{escaped(g.name)}</b>, {counted(len(g.delta), of)}<br>{name}: median {number(m)},"
                f" middle half {number(a)} to {number(b)} eV/Å"
                for g, a, m, b in zip(groups, low, middle, high, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title_text="σ (eV/Å)", showgrid=True, **ticks(span(ends, margin=0.06)))
    names = [f"{'<br>'.join(map(escaped, textwrap.wrap(g.name, 18)))}<br>n = {len(g.delta):,}" for g in groups]
    figure.update_yaxes(
        range=[-0.6, len(groups) - 0.4], showgrid=False, tickvals=rows.tolist(), ticktext=names, tickfont={"size": 12}
    )
    return figure


def counted(n: int, of: str) -> str:
    return f"n = {n:,} {of if n == 1 else of + 's'}"

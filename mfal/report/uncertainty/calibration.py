"""Sigmas beside the errors that were found: of frames drawn at random, by the committee that each was new to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from mfal.committee.calibrate import SMALLEST, Calibration, Evidence
from mfal.committee.decompose import Reduce, reduced
from mfal.report.routing import ROUTES
from mfal.report.standalone import number
from mfal.report.style import blank
from mfal.report.text import escaped

#: Atoms of a bin at least, and bins at most.
ATOMS, BINS = 20, 10
#: eV/Å: smaller ones are drawn here, so that an atom held by symmetry does not stretch the axes.
FLOOR = 1e-4


class Pairs(NamedTuple):
    """What the random frames say of one kind of sigma; eV/Å, with today's scale in every sigma."""

    frame_ids: list[str]
    sigmas: np.ndarray  # [frames]
    errors: np.ndarray  # [frames] of the worst atom
    #: Atoms in the order of their sigma, even parts of them: root mean square of sigma and of error, and how many.
    bins: list[tuple[float, float, int]]
    atoms: int

    def below(self, quantile: float) -> int:
        """Frames whose worst error is below the bound."""
        return int((self.errors <= quantile * self.sigmas).sum())

    def numbers(self) -> dict[str, Any]:
        return {
            "pairs": [
                {"frame_id": i, "sigma_ev_per_angstrom": s, "worst_error_ev_per_angstrom": e}
                for i, s, e in zip(self.frame_ids, self.sigmas.tolist(), self.errors.tolist(), strict=True)
            ],
            "atoms": [
                {"rms_sigma_ev_per_angstrom": s, "rms_error_ev_per_angstrom": e, "atoms": n} for s, e, n in self.bins
            ],
        }


def pairs(items: Sequence[Evidence], scale: float, reduce: Reduce) -> Pairs:
    """Of evidence of one kind, at least of one frame."""
    variances = [np.maximum(item.variance, SMALLEST) for item in items]
    variance = scale**2 * np.concatenate(variances)
    squared = np.concatenate([item.squared_error for item in items])
    order = np.argsort(variance, kind="stable")
    parts = np.array_split(order, min(BINS, len(order) // ATOMS)) if len(order) >= ATOMS else []
    return Pairs(
        [item.frame_id for item in items],
        np.array([scale * reduced(own, reduce) for own in variances]),
        np.sqrt([max(item.squared_error) for item in items]),
        [(float(np.sqrt(variance[p].mean())), float(np.sqrt(squared[p].mean())), len(p)) for p in parts],
        len(order),
    )


def figure(found: Pairs, calibration: Calibration) -> go.Figure:
    """Frames as points, the atoms as a line, the diagonal, and the 90% bound where there is one."""
    shown = blank(height=400)
    sigmas, errors = np.maximum(found.sigmas, FLOOR), np.maximum(found.errors, FLOOR)
    _, colour, symbol = ROUTES["control"]
    shown.add_scatter(
        x=sigmas.tolist(),
        y=errors.tolist(),
        name=f"frames, worst atom ({len(sigmas)})",
        mode="markers",
        marker={"size": 8, "color": colour, "symbol": symbol},
        opacity=0.8,
        customdata=[escaped(i) for i in found.frame_ids],
        hovertemplate="<b>%{customdata}</b><br>σ %{x:.3~r}, worst error %{y:.3~r} eV/Å<extra></extra>",
        cliponaxis=False,
    )
    if found.bins:
        x, y, n = (np.array(column) for column in zip(*found.bins, strict=True))
        shown.add_scatter(
            x=np.maximum(x, FLOOR).tolist(),
            y=np.maximum(y, FLOOR).tolist(),
            name=f"atoms, root mean square ({found.atoms})",
            mode="lines+markers",
            line={"color": "var(--ink)", "width": 1},
            marker={"size": 7, "color": "var(--ink)", "symbol": "circle"},
            customdata=n.tolist(),
            hovertemplate="<b>n = %{customdata} atoms</b><br>σ %{x:.3~r}, error %{y:.3~r} eV/Å, root mean square"
            "<extra></extra>",
            cliponaxis=False,
        )
    values = np.log10(np.concatenate([np.concatenate([t.x, t.y]) for t in shown.data]).astype(float))
    low, high = float(values.min()) - 0.15, float(values.max()) + 0.15
    wider = max(0.0, 1 - (high - low)) / 2  # a decade at least
    low, high = low - wider, high + wider
    line = {"color": "var(--soft)", "width": 1}
    shown.add_shape(type="line", layer="below", x0=10**low, y0=10**low, x1=10**high, y1=10**high, line=line)
    if calibration.quantile:
        q = calibration.quantile
        bound = line | {"dash": "dash"}
        # cut where it leaves the axes
        left, right = max(10**low, 10**low / q), min(10**high, 10**high / q)
        shown.add_shape(type="line", layer="below", x0=left, y0=q * left, x1=right, y1=q * right, line=bound)
    digits = (1, 2, 5) if high - low < 1.5 else (1, 3) if high - low < 3 else (1,)
    marks = [float(f"{digit}e{k}") for k in range(-4, 4) for digit in digits]
    axis = {
        "type": "log",
        "range": [low, high],
        "tickvals": marks,
        "ticktext": [f"{mark:g}" for mark in marks],
    }
    shown.update_xaxes(title_text="σ (eV/Å)", showgrid=True, **axis)
    shown.update_yaxes(title_text="error (eV/Å)", **axis)
    return shown


def words(found: Pairs, calibration: Calibration, subject: str) -> str:
    """What the figure shows."""
    n = len(found.sigmas)
    text = f"Observed errors against predicted uncertainties of {subject}, for {n} control {_frames(n)}. Medians: "
    text += f"σ {number(float(np.median(found.sigmas)))}, worst error {number(float(np.median(found.errors)))} eV/Å"
    if calibration.quantile:
        text += f". Below the 90% bound: {found.below(calibration.quantile)} of {n}"
    return text


def _frames(n: int) -> str:
    return "frame" if n == 1 else "frames"

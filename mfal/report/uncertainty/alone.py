"""The uncertainty of the magnetic forces, which decides alone where non-magnetic labels are not worth having."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mfal.frames import Frame, Score
from mfal.report.routing import ROUTES, by_route, marks, short
from mfal.report.style import blank
from mfal.report.uncertainty.axis import span, ticks

MARGIN = 0.05


def alone(scores: Sequence[Score], frames: Mapping[str, Frame], threshold: float | None) -> go.Figure | None:
    """sigma_magnetic (eV/Å) of each scored frame, a row for each decision; None before there is a committee."""
    sigmas = {score.frame_id: score.sigma_magnetic for score in scores if score.sigma_magnetic is not None}
    if not sigmas:
        return None
    rows = by_route([score for score in scores if score.frame_id in sigmas])
    figure = blank(height=90 + 52 * len(rows), margin={"l": 8, "r": 12, "t": 28, "b": 8})
    for row, (key, chosen) in enumerate(rows.items()):
        values = [sigmas[score.frame_id] for score in chosen]
        # those of a row lie beside each other, evenly and the same each time; one alone in the middle
        aside = (np.arange(len(chosen)) * 0.618 + 0.5) % 1 - 0.5
        figure.add_scatter(
            x=short(values),
            y=np.round(row + 0.5 * aside, 2).tolist(),
            **marks(key, chosen, frames, "σ magnetic %{x:.3~r} eV/Å"),
        )
    found = span(list(sigmas.values()), threshold, margin=MARGIN)
    figure.update_xaxes(title_text="σ magnetic (eV/Å)", showgrid=True, **ticks(found))
    names = [ROUTES[key].name.replace(", ", ",<br>") for key in rows]
    figure.update_yaxes(range=[-0.6, len(rows) - 0.4], showgrid=False, tickvals=list(range(len(rows))), ticktext=names)
    if threshold:
        style = {"color": "var(--soft)", "width": 1, "dash": "dash"}
        figure.add_shape(type="line", x0=threshold, x1=threshold, yref="paper", y0=0, y1=1, line=style)
        figure.add_annotation(
            text=f"threshold {threshold:.3g}",
            x=found.line,
            xanchor="left" if found.below < 0.2 else "right" if found.below > 0.8 else "center",
            yref="paper",
            y=1,
            yanchor="bottom",
            showarrow=False,
            font={"size": 12},
        )
    return figure

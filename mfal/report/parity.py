"""Predictions of one or more models against labels: a page of parity plots."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from mfal.committee.accuracy import accuracy
from mfal.frames import FIDELITIES, WORDS, Fidelity
from mfal.report import standalone
from mfal.report.figures import MOST_POINTS
from mfal.report.standalone import Plot, number
from mfal.report.style import FIDELITY_COLOURS, blank, diagonal

Rows = Sequence[dict[str, Any]]


class Quantity(NamedTuple):
    title: str
    axis: str
    unit: str
    error: str  # the unit of an error


QUANTITIES = {
    "energy": Quantity("Energies", "energy", "eV/atom", "meV/atom"),
    "forces": Quantity("Forces", "force component", "eV/Å", "meV/Å"),
    "stress": Quantity("Stress", "stress component", "GPa", "GPa"),
    "magmoms": Quantity("Moments", "|m|", "µB", "µB"),
}


def render(dataset: str, models: Mapping[str, Rows]) -> str:
    """The page.

    Args:
        dataset: what the labels are called.
        models: by name, what `mfal.committee.evaluate.parity` gives.
    """
    plots = {
        model: [
            plot
            for quantity in QUANTITIES
            for fidelity in FIDELITIES
            if (plot := _plot(f"{place}-{quantity}-{fidelity}", rows, fidelity, quantity))
        ]
        for place, (model, rows) in enumerate(models.items())
    }
    flat = {plot.name: plot for of_model in plots.values() for plot in of_model}
    return standalone.render("parity.html.j2", flat, dataset=dataset, models=plots)


def _plot(name: str, rows: Rows, fidelity: Fidelity, quantity: str) -> Plot | None:
    drawn = figure(rows, fidelity, quantity)
    if drawn is None:
        return None
    about, found = QUANTITIES[quantity], accuracy(rows, fidelity)
    title = (
        f"{about.title}, {WORDS[fidelity]}: MAE {number(found.mae[quantity])}, RMSE {number(found.rmse[quantity])}"
        f" {about.error}"
    )
    alt = f"Parity plot, model against label. {title}, {found.frames} frames"
    return Plot(f"parity-{name}", drawn, alt, title, square=True)


def figure(rows: Rows, fidelity: Fidelity, quantity: str) -> go.Figure | None:
    """Predicted against labelled numbers of one fidelity; None where nothing is labelled."""
    about = QUANTITIES[quantity]
    chosen = [row for row in rows if row["fidelity"] == fidelity and row[quantity] is not None]
    if not chosen:
        return None
    pairs = [np.asarray(row[quantity], dtype=float).reshape(2, -1) for row in chosen]
    label, predicted = np.concatenate(pairs, axis=1)
    # plotly reads a little HTML
    ids = np.repeat([html.escape(row["frame_id"]) for row in chosen], [pair.shape[1] for pair in pairs])
    shown = np.unique(np.linspace(0, label.size - 1, min(label.size, MOST_POINTS)).astype(int))
    drawn = blank(height=420)
    drawn.add_scatter(
        x=label[shown].astype(np.float32),
        y=predicted[shown].astype(np.float32),
        name=f"n = {label.size}, {len(chosen)} {'frame' if len(chosen) == 1 else 'frames'}",
        mode="markers",
        marker={"size": 9 if quantity == "energy" else 6, "color": FIDELITY_COLOURS[fidelity], "symbol": "circle"},
        opacity=0.7,
        hovertext=ids[shown].tolist(),
        hovertemplate="<b>%{hovertext}</b><br>label %{x:.4~g}, model %{y:.4~g} " + about.unit + "<extra></extra>",
    )
    diagonal(drawn, label, predicted)
    drawn.update_xaxes(title_text=f"labelled {about.axis} ({about.unit})")
    drawn.update_yaxes(title_text=f"predicted {about.axis} ({about.unit})")
    return drawn

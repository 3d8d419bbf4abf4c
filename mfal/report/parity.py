"""Predictions of one or more models against labels: a page of parity plots."""

from __future__ import annotations

from collections.abc import Mapping

from mfal.frames import FIDELITIES
from mfal.report import standalone
from mfal.report.parity_plots import QUANTITIES, Rows, parity_plot


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
            if (plot := parity_plot(f"parity-{place}-{quantity}-{fidelity}", rows, fidelity, quantity))
        ]
        for place, (model, rows) in enumerate(models.items())
    }
    flat = {plot.name: plot for of_model in plots.values() for plot in of_model}
    return standalone.render("parity.html.j2", flat, dataset=dataset, models=plots)

"""The chapter on the labels: how the models reproduce them, their magnetic states, and what became of calculations."""

from __future__ import annotations

from mfal.frames import FIDELITIES, WORDS
from mfal.report import figures
from mfal.report.material import Chapter, Material
from mfal.report.standalone import Plot


def chapter(material: Material) -> Chapter:
    moments = figures.moments(material.labels, material.frames)
    plots = []
    for quantity, what in (("forces", "Forces"), ("energy", "Energies")):
        for fidelity in FIDELITIES:
            figure = figures.parity(material.parity, fidelity, quantity)
            if figure is None:
                continue
            legend = "; ".join(trace.name for trace in figure.data)
            alt = f"Parity plot of {WORDS[fidelity]} {what.lower()}, model against DFT. {legend}"
            name = f"parity-{quantity}-{fidelity}"
            plots.append(Plot(name, figure, alt, f"{what}, {WORDS[fidelity]}", square=True))
    panels = [plot.name for plot in plots]
    if moments is not None:
        alt = "Strip chart of absolute magnetic moments by element in the magnetic labels, over the expected values."
        plots.append(Plot("moments", moments, alt))
    return Chapter(plots=plots, content={"panels": panels, "expected": figures.EXPECTED_MOMENTS})

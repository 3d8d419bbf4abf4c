"""The experiments as figures: one panel for each quantity."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiments import Experiment
from benchmarks.paper_tables import AXES, QUANTITIES, Results, interval

#: Okabe & Ito's colours, which colour-blind people tell apart, and a mark for each line.
STYLES = (("#000000", "x"), ("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"))


def draw(path: Path, experiment: Experiment, results: Results) -> None:
    """Means over the seeds with their 95% intervals."""
    with mpl.rc_context({"svg.hashsalt": "mfal", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        panels = figure.subplots(1, len(QUANTITIES), sharey=experiment.axis is None)
        for panel, (quantity, name) in zip(panels, QUANTITIES.items(), strict=True):
            (_lines if experiment.axis else _rows)(panel, experiment, results, quantity)
            panel.set_title(name, fontsize=10)
            panel.grid(alpha=0.25, linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        if experiment.axis:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(experiment.title, fontsize=10, x=0.01, ha="left")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _lines(panel: Axes, experiment: Experiment, results: Results, quantity: str) -> None:
    assert experiment.axis is not None
    for series, (colour, mark) in zip(experiment.series, STYLES, strict=False):
        found = [interval(runs, results, quantity) for runs in series.points.values()]
        x = list(series.points)
        panel.plot(x, [i.mean for i in found], color=colour, marker=mark, markersize=5, lw=1.6, label=series.name)
        panel.fill_between(x, [i.low for i in found], [i.high for i in found], color=colour, alpha=0.12, lw=0)
    points = sorted({point for series in experiment.series for point in series.points})
    # Zero has no logarithm: halving the smallest number is as far to the left as halving any other.
    panel.set_xscale("symlog", base=2, linthresh=max(1, next(p for p in points if p)))
    panel.set_xticks(points, [str(point) for point in points])
    panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    panel.set(xlabel=AXES[experiment.axis], yscale="log")
    panel.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_locator(mpl.ticker.NullLocator())


def _rows(panel: Axes, experiment: Experiment, results: Results, quantity: str) -> None:
    found = [interval(runs, results, quantity) for s in experiment.series for runs in s.points.values()]
    names = [series.name for series in experiment.series]
    y = np.arange(len(found))[::-1]
    for height, name, own in zip(y, names, found, strict=True):
        colour, mark = STYLES[0] if name == experiment.baseline else STYLES[1]
        panel.plot([own.low, own.high], [height, height], color=colour, lw=1.2, alpha=0.6)
        panel.plot(own.mean, height, color=colour, marker=mark, markersize=5)
    panel.set_yticks(y, names)

"""Learning curves of the rules as one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.curves import Interval, Table, curve
from benchmarks.play import Play

#: Okabe & Ito's colours, which colour-blind people tell apart, with a mark and a line of their own for each rule.
STYLES: dict[str, tuple[str, str, str]] = {
    "fidelity-aware": ("#D55E00", "o", "-"),
    "fidelity-aware, always": ("#D55E00", "P", ":"),
    "sigma-mag": ("#0072B2", "s", "-"),
    "dp-gen": ("#009E73", "^", "-"),
    "farthest-point": ("#CC79A7", "D", "-"),
    "random": ("#000000", "x", "--"),
    "random-two": ("#E69F00", "v", "--"),
}
AXES = {"total": "core-hours of all calculations", "magnetic": "core-hours of magnetic calculations"}


def draw(path: Path, table: Table, title: str) -> None:
    """Against total and against magnetic core-hours: mean over seeds, with its 95% interval as a band."""
    with mpl.rc_context({"svg.hashsalt": "mfal", "font.size": 10}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, kind in zip(axes, AXES, strict=True):
            for rule, plays in table.plays.items():
                _line(axis, rule, plays, kind)
            axis.set(xlabel=AXES[kind], yscale="log")
            axis.yaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.yaxis.set_major_formatter("{x:.0f}")
            axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("magnetic force MAE on held-out frames, meV/Å")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _line(axis: Axes, rule: str, plays: Sequence[Play], kind: str) -> None:
    """Round by round: the mean of the core-hours and, as errors differ by factors, the geometric one of the errors."""
    hours, errors = (np.array(values) for values in zip(*(curve(play, kind) for play in plays), strict=True))
    bands = [Interval.of(np.log(column).tolist()).exp() for column in errors.T]
    x = hours.mean(axis=0)
    colour, mark, line = STYLES[rule]
    width = 2.4 if rule == "fidelity-aware" else 1.4
    axis.plot(x, [b.mean for b in bands], color=colour, marker=mark, markersize=5, ls=line, lw=width, label=rule)
    if len(plays) > 1:
        axis.fill_between(x, [b.low for b in bands], [b.high for b in bands], color=colour, alpha=0.08, lw=0)

"""A parity plot: predicted against labelled numbers of one quantity at one fidelity, with their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mfal.committee.accuracy import accuracy
from mfal.frames import WORDS, Fidelity
from mfal.report.points import coarse, shown
from mfal.report.standalone import Plot, number
from mfal.report.style import FIDELITY_COLOURS, blank, diagonal
from mfal.report.text import escaped

#: What `mfal.committee.evaluate.parity` gives, with a `set` where there are several.
Rows = Sequence[dict[str, Any]]


class Quantity(NamedTuple):
    title: str
    axis: str
    unit: str
    error: str  # the unit of an error
    key: str  # of an error, in the numbers of a report


QUANTITIES = {
    "forces": Quantity("Forces", "force component", "eV/Å", "meV/Å", "force_{}_mev_per_angstrom"),
    "energy": Quantity("Energies", "energy", "eV/atom", "meV/atom", "energy_{}_mev_per_atom"),
    "stress": Quantity("Stress", "stress component", "GPa", "GPa", "stress_{}_gpa"),
    "magmoms": Quantity("Moments", "|m|", "µB", "µB", "moment_{}_mu_b"),
}
#: How the sets are called; what has no set has no name either.
SETS = {"train": "training", "hold_out": "hold-out", None: ""}


def parity_plot(name: str, rows: Rows, fidelity: Fidelity, quantity: str) -> Plot | None:
    """The plot; None where nothing is labelled. What was trained on lies below what was not, and is grey."""
    about = QUANTITIES[quantity]
    own = [row for row in rows if row["fidelity"] == fidelity and row[quantity] is not None]
    if not own:
        return None
    figure = blank(height=420)
    drawn: list[np.ndarray] = []
    for key, word in SETS.items():
        chosen = [row for row in own if row.get("set") == key]
        if not chosen:
            continue
        pairs = [np.asarray(row[quantity], dtype=float).reshape(2, -1) for row in chosen]
        label, predicted = np.concatenate(pairs, axis=1)
        drawn += [label, predicted]
        ids = np.repeat([escaped(row["frame_id"]) for row in chosen], [pair.shape[1] for pair in pairs])
        places, span = shown(label.size), float(np.ptp([label, predicted]))
        trained = key == "train"
        figure.add_scatter(
            x=coarse(label[places], span),
            y=coarse(predicted[places], span),
            name=": ".join(filter(None, (word, _errors(chosen, fidelity, quantity)))),
            mode="markers",
            marker={
                "size": (9 if quantity == "energy" else 6) - trained,
                "color": "var(--skip)" if trained else FIDELITY_COLOURS[fidelity],
                "symbol": "diamond" if key == "hold_out" else "circle",
            },
            opacity=0.55 if trained else 0.8,
            hovertext=ids[places].tolist(),
            hovertemplate="<b>%{hovertext}</b><br>label %{x:.4~g}, model %{y:.4~g} " + about.unit + "<extra></extra>",
        )
    diagonal(figure, *drawn)
    figure.update_xaxes(title_text=f"labelled {about.axis} ({about.unit})")
    figure.update_yaxes(title_text=f"predicted {about.axis} ({about.unit})")
    title = f"{about.title}, {WORDS[fidelity]}"
    alt = f"Parity plot, model against label. {title}. {'; '.join(trace.name for trace in figure.data)}"
    return Plot(name, figure, alt, title, square=True)


def errors(rows: Rows, fidelity: Fidelity, quantity: str) -> dict[str, Any]:
    """MAE and RMSE over all numbers of the rows, n of both; for the numbers of a report."""
    found, key = accuracy(rows, fidelity), QUANTITIES[quantity].key
    return {
        key.format("mae"): found.mae[quantity],
        key.format("rmse"): found.rmse[quantity],
        "frames": found.frames,
    }


def _errors(rows: Rows, fidelity: Fidelity, quantity: str) -> str:
    """`MAE 31.2, RMSE 45.1 meV/Å, n = 12 frames`."""
    mae, rmse, frames = errors(rows, fidelity, quantity).values()
    return (
        f"MAE {number(mae)}, RMSE {number(rmse)} {QUANTITIES[quantity].error},"
        f" n = {frames} {'frame' if frames == 1 else 'frames'}"
    )

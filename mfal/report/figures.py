"""The figures of the report: documents in, plotly figures out; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mfal.dft.magnetism import MAGNETIC_ELEMENTS
from mfal.dft.valence import MOMENTS
from mfal.frames import FIDELITIES, WORDS, Fidelity, Frame, Label, Round
from mfal.report.style import FIDELITY_COLOURS, blank, diagonal, rounds_axis
from mfal.report.text import escaped

SUPERSCRIPTS = str.maketrans("1234", "¹²³⁴")
#: |m| (µB) that a good label is expected to show, by ion.
EXPECTED_MOMENTS = {
    element: {f"{element}{valence}⁺".translate(SUPERSCRIPTS): size for valence, size in MOMENTS[element].items()}
    for element in ("Mn", "Fe")
}
BAND = 0.12  # µB, half the width of a drawn band

#: More force components than this are thinned evenly before drawing; the errors beside them use all.
MOST_POINTS = 4000


def errors_by_round(rounds: Sequence[Round]) -> go.Figure | None:
    """Force errors on the hold-out after each round, and on the control frames before training on them."""
    figure = blank(height=340)
    values: list[float] = []
    for fidelity in FIDELITIES:
        colour, name = FIDELITY_COLOURS[fidelity], WORDS[fidelity]
        start = rounds[0].errors.get("hold_out_before", {}).get(fidelity)
        after = [(r.round, r.errors.get("hold_out", {}).get(fidelity), "hold-out, after training") for r in rounds]
        control = [
            (r.round, r.errors.get("control_before", {}).get(fidelity), "control, before training") for r in rounds
        ]
        before = [(rounds[0].round - 1, start, "hold-out, before the first round")]
        for kind, points in (("hold-out", before + after), ("control", control)):
            held = kind == "hold-out"
            drawn = [(x, e.forces, e.frames, what) for x, e, what in points if e is not None and e.forces is not None]
            if not drawn:
                continue
            values += [force for _, force, _, _ in drawn]
            figure.add_scatter(
                x=[x for x, *_ in drawn],
                y=[force for _, force, _, _ in drawn],
                name=f"{name}, {kind}",
                mode="lines+markers",
                line={"color": colour, "width": 2 if held else 1, "dash": "solid" if held else "dot"},
                marker={
                    "size": 9,
                    "color": colour,
                    "symbol": "circle" if held else "circle-open",
                    "line": {"width": 2 if not held else 0, "color": colour},
                },
                hovertext=[
                    f"<b>{force:.3g} meV/Å</b>, n = {n} {'frame' if n == 1 else 'frames'}<br>{name}: {what}"
                    for _, force, n, what in drawn
                ],
                hovertemplate="%{hovertext}<extra></extra>",
                cliponaxis=False,
            )
    if not values:
        return None
    rounds_axis(figure, rounds, start=any(min(t.x) < rounds[0].round for t in figure.data))
    figure.update_yaxes(title_text="force MAE (meV/Å)")
    if min(values) > 0 and max(values) > 10 * min(values):
        # whole numbers: plotly would write 2 and 5 for 200 and 500
        marks = [m * 10**k for k in range(-3, 6) for m in (1, 2, 5)]
        shown = [mark for mark in marks if min(values) / 2 < mark < 2 * max(values)]
        figure.update_yaxes(type="log", tickvals=shown, ticktext=[f"{mark:g}" for mark in shown])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


def core_hours(rounds: Sequence[Round]) -> go.Figure | None:
    """Core-hours of every round, stacked by fidelity."""
    if not any(r.core_hours for r in rounds):
        return None
    figure = blank(height=320, barmode="stack", bargap=0.35)
    for fidelity in FIDELITIES:
        name = WORDS[fidelity]
        figure.add_bar(
            x=[r.round for r in rounds],
            y=[r.core_hours.get(fidelity, 0.0) for r in rounds],
            name=name,
            width=0.5,
            marker={"color": FIDELITY_COLOURS[fidelity], "line": {"width": 0}},
            hovertemplate="<b>%{y:,.3~g} core-hours</b><br>round %{x}, " + name + "<extra></extra>",
        )
    rounds_axis(figure, rounds)
    figure.update_yaxes(title_text="core-hours", rangemode="tozero")
    return figure


def parity(items: Sequence[dict[str, Any]], fidelity: Fidelity, quantity: str) -> go.Figure | None:
    """Predicted against calculated `energy` (eV/atom) or `forces` (components, eV/Å) of one fidelity."""
    unit = "eV/Å" if quantity == "forces" else "eV/atom"
    styles = {
        "train": ("training", "var(--skip)", "circle", 5),
        "hold_out": ("hold-out", FIDELITY_COLOURS[fidelity], "diamond", 6),
    }
    figure = blank(height=420)
    numbers: list[np.ndarray] = []
    for key, (name, colour, symbol, size) in styles.items():
        chosen = [i for i in items if i["fidelity"] == fidelity and i["set"] == key and i.get(quantity) is not None]
        if not chosen:
            continue
        pairs = [np.atleast_2d(np.asarray(i[quantity], dtype=float).reshape(2, -1)) for i in chosen]
        true, predicted = np.concatenate(pairs, axis=1)
        error = 1000 * float(np.abs(predicted - true).mean())
        numbers += [true, predicted]
        ids = np.repeat([escaped(i["frame_id"]) for i in chosen], [pair.shape[1] for pair in pairs])
        shown = np.unique(np.linspace(0, true.size - 1, min(true.size, MOST_POINTS)).astype(int))
        figure.add_scatter(
            x=true[shown].astype(np.float32),
            y=predicted[shown].astype(np.float32),
            name=f"{name}: MAE {error:.3g} m{unit}, n = {len(chosen)}",
            mode="markers",
            marker={"size": size if quantity == "forces" else size + 4, "color": colour, "symbol": symbol},
            opacity=0.55 if key == "train" and quantity == "forces" else 0.9,
            hovertext=ids[shown].tolist(),
            hovertemplate="<b>%{hovertext}</b><br>DFT %{x:.3f}, model %{y:.3f} " + unit + f"<extra>{name}</extra>",
        )
    if not figure.data:
        return None
    diagonal(figure, *numbers)
    label = "force component" if quantity == "forces" else "energy"
    figure.update_xaxes(title_text=f"DFT {label} ({unit})")
    figure.update_yaxes(title_text=f"model {label} ({unit})")
    return figure


def moments(labels: Sequence[Label], frames: dict[str, Frame]) -> go.Figure | None:
    """|m| of every magnetic ion in the magnetic labels, one row an element, over the expected values."""
    found: dict[str, list[tuple[float, bool, str]]] = {}
    for label in labels:
        frame = frames.get(label.frame_id)
        if label.fidelity != "magnetic" or label.magmoms is None or frame is None:
            continue
        if len(label.magmoms) != len(frame.structure):
            continue  # not this frame's sites: no telling which moment is whose
        for site, moment in zip(frame.structure, label.magmoms, strict=True):
            if site.specie.symbol in MAGNETIC_ELEMENTS:
                text = f"{escaped(label.frame_id)}, {label.status.replace('_', ' ')}"
                found.setdefault(site.specie.symbol, []).append((abs(moment), label.good, text))
    if not found:
        return None
    elements = [element for element in MAGNETIC_ELEMENTS if element in found]
    figure = blank(height=120 + 110 * len(elements))
    for row, element in zip(range(len(elements) - 1, -1, -1), elements, strict=True):
        for ion, expected in EXPECTED_MOMENTS.get(element, {}).items():
            band = {"x0": expected - BAND, "x1": expected + BAND, "y0": row - 0.36, "y1": row + 0.36}
            figure.add_shape(type="rect", layer="below", fillcolor="var(--band)", line={"width": 0}, **band)
            left = expected == min(EXPECTED_MOMENTS[element].values())  # the two names grow apart, so they never meet
            edge = {"x": band["x1" if left else "x0"], "xanchor": "right" if left else "left"}
            figure.add_annotation(text=ion, y=row + 0.36, yanchor="bottom", showarrow=False, **edge)
        colour = f"var(--{element.lower()})" if element in EXPECTED_MOMENTS else "var(--soft)"
        for good in (True, False):
            chosen = [(m, text) for m, is_good, text in found[element] if is_good is good]
            if not chosen:
                continue
            spread = (np.arange(len(chosen)) * 0.618) % 1 - 0.5  # even, and the same each time
            figure.add_scatter(
                x=[m for m, _ in chosen],
                y=row + 0.5 * spread,
                name=f"{element}, {'good label' if good else 'label not used'} ({len(chosen)} ions)",
                mode="markers",
                marker={"size": 8, "color": colour, "symbol": "circle" if good else "circle-open"},
                opacity=0.75 if good else 1,
                hovertext=[text for _, text in chosen],
                hovertemplate=f"<b>{element} %{{x:.2f}} µB</b><br>%{{hovertext}}<extra></extra>",
            )
    figure.update_xaxes(
        title_text="|m| (µB)", range=[-0.1, max(5.2, *(m for v in found.values() for m, *_ in v)) + 0.1], showgrid=True
    )
    figure.update_yaxes(
        range=[-0.6, len(elements) - 0.35], showgrid=False, tickvals=list(range(len(elements))), ticktext=elements[::-1]
    )
    return figure

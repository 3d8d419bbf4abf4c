"""Campaigns or rehearsals side by side: what each knew after how many core-hours, and what choosing gained it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import plotly.graph_objects as go

from mfal.frames import FIDELITIES, WORDS, Errors, Fidelity
from mfal.report import standalone
from mfal.report.material import Material
from mfal.report.page import Report
from mfal.report.standalone import Plot, hours, number
from mfal.report.style import blank
from mfal.report.text import escaped

#: Of the campaigns in their order, colour and shape; after the last, from the start again.
MARKS = (
    ("var(--magnetic)", "circle"),
    ("var(--nonmagnetic)", "square"),
    ("var(--control)", "triangle-up"),
    ("var(--hold-out)", "diamond"),
    ("var(--mn)", "star"),
    ("var(--fe)", "triangle-down"),
)


@dataclass(frozen=True)
class Column:
    """A campaign of the comparison."""

    name: str
    material: Material

    @property
    def held(self) -> Errors:
        """Of the magnetic fidelity on the hold-out, after the last round."""
        return self.material.last.errors.get("hold_out", {}).get("magnetic", Errors())

    @property
    def held_frames(self) -> frozenset[str]:
        return frozenset(row["frame_id"] for row in self.material.parity if row["set"] == "hold_out")

    @property
    def spent(self) -> dict[Fidelity, float]:
        return {f: sum(r.core_hours.get(f, 0.0) for r in self.material.rounds) for f in FIDELITIES}

    @property
    def labels(self) -> dict[Fidelity, tuple[int, int]]:
        """(good, all) by fidelity."""
        counts = {f: [r.counts.get(f, {}) for r in self.material.rounds] for f in FIDELITIES}
        return {f: (sum(c.get("ok", 0) for c in own), sum(sum(c.values()) for c in own)) for f, own in counts.items()}

    @property
    def settings(self) -> frozenset[str]:
        """Fingerprints of the magnetic labels."""
        return frozenset(label.fingerprint for label in self.material.labels if label.fidelity == "magnetic")

    @property
    def curve(self) -> list[tuple[float, int, float, int, int]]:
        """After each round with a hold-out error: core-hours and magnetic labels so far, meV/Å, frames, round."""
        spent = accumulate(sum(r.core_hours.values()) for r in self.material.rounds)
        return [
            (total, r.trained_on.get("magnetic", 0), e.forces, e.frames, r.round)
            for total, r in zip(spent, self.material.rounds, strict=True)
            if (e := r.errors.get("hold_out", {}).get("magnetic")) is not None and e.forces is not None
        ]

    @property
    def numbers(self) -> dict[str, Any]:
        saving = self.material.experience.saving
        return {
            "campaign": self.name,
            "rounds": len(self.material.rounds),
            "core_hours": self.spent,
            "labels_good_and_all": self.labels,
            "hold_out_frames": self.held.frames,
            "hold_out_energy_mae_mev_per_atom": self.held.energy,
            "hold_out_force_mae_mev_per_angstrom": self.held.forces,
            "hold_out_stress_mae_gpa": self.held.stress,
            "hold_out_moment_mae_mu_b": self.held.magmoms,
            "saving": saving and saving.model_dump(),
            "next_step": self.material.last.next_step,
        }


def render(materials: Sequence[Material]) -> Report:
    """The page that compares the last rounds of two campaigns or more; names that are there twice are numbered."""
    names = [material.campaign for material in materials]
    columns = [
        Column(name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})", material)
        for i, (name, material) in enumerate(zip(names, materials, strict=True))
    ]
    plots = _plots(columns)
    page = standalone.render(
        "comparison.html.j2",
        {plot.name: plot for plot in plots},
        columns=columns,
        same_hold_out=len({column.held_frames for column in columns}) == 1,
        same_settings=len({column.settings for column in columns}) == 1,
        fidelities=WORDS,
    )
    return Report(page, plots, {"campaigns": [column.numbers for column in columns]})


def _plots(columns: Sequence[Column]) -> list[Plot]:
    told = "; ".join(
        f"{column.name}: {number(column.curve[-1][2])} meV/Å after {hours(column.curve[-1][0])} core-hours"
        for column in columns
        if column.curve
    )
    found = [
        Plot("error-by-cost", figure, f"Magnetic force error on the hold-out against core-hours. {told}")
        for figure in [_curves(columns, 0, "core-hours spent")]
        if figure
    ]
    found += [
        Plot("error-by-labels", figure, f"Magnetic force error on the hold-out against magnetic labels. {told}")
        for figure in [_curves(columns, 1, "magnetic labels trained on")]
        if figure
    ]
    told = "; ".join(f"{column.name}: {hours(sum(column.spent.values()))} core-hours" for column in columns)
    return [*found, Plot("cost", _cost(columns), f"Core-hours of each campaign by fidelity. {told}")]


def _curves(columns: Sequence[Column], axis: int, title: str) -> go.Figure | None:
    """Hold-out force errors against one of the numbers of a point."""
    figure = blank(height=400)
    for i, column in enumerate(columns):
        colour, symbol = MARKS[i % len(MARKS)]
        if not column.curve:
            continue
        figure.add_scatter(
            x=[point[axis] for point in column.curve],
            y=[point[2] for point in column.curve],
            name=escaped(column.name),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 10, "color": colour, "symbol": symbol},
            hovertext=[
                f"<b>{error:.3g} meV/Å</b>, n = {frames}<br>{escaped(column.name)}, round {round}<br>"
                f"{hours(spent)} core-hours, {labels} magnetic labels"
                for spent, labels, error, frames, round in column.curve
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    if not figure.data:
        return None
    figure.update_xaxes(title_text=title, rangemode="tozero", showgrid=True)
    figure.update_yaxes(title_text="magnetic force MAE (meV/Å)", rangemode="tozero")
    return figure


def _cost(columns: Sequence[Column]) -> go.Figure:
    figure = blank(height=120 + 44 * len(columns), barmode="stack", bargap=0.4)
    for fidelity in FIDELITIES:
        figure.add_bar(
            x=[column.spent[fidelity] for column in columns],
            y=[escaped(column.name) for column in columns],
            orientation="h",
            name=WORDS[fidelity],
            marker={"color": f"var(--{fidelity})", "line": {"width": 0}},
            hovertemplate="<b>%{x:,.3~g} core-hours</b><br>%{y}, " + WORDS[fidelity] + "<extra></extra>",
        )
    figure.update_xaxes(title_text="core-hours", showgrid=True)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure

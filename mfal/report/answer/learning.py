"""Errors by round: on the hold-out after training, and on each round's random frames before any training on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mfal.frames import FIDELITIES, WORDS, Fidelity, Round
from mfal.report.parity_plots import QUANTITIES
from mfal.report.points import scaled
from mfal.report.standalone import Plot, number
from mfal.report.style import FIDELITY_COLOURS, blank, rounds_axis

Set = Literal["hold_out", "random"]
SETS: dict[Set, str] = {"hold_out": "hold-out", "random": "random frames"}


class Point(NamedTuple):
    round: int  # the one before the first: the start
    error: float
    frames: int
    when: str

    @property
    def n(self) -> str:
        return f"n = {self.frames} {'frame' if self.frames == 1 else 'frames'}"


class Line(NamedTuple):
    fidelity: Fidelity
    set: Set
    points: list[Point]

    @property
    def name(self) -> str:
        return f"{WORDS[self.fidelity]}, {SETS[self.set]}"


def lines(rounds: Sequence[Round], quantity: str) -> list[Line]:
    """Those that have a point.

    A model that has not been trained on a fidelity refers its energies to the atoms of another functional: such errors
    of energies say nothing and are left out.
    """
    found = []
    for fidelity in FIDELITIES:
        held: list[Point | None] = []
        drawn: list[Point | None] = []
        trained = False
        for r in rounds:
            if r is rounds[0]:
                held.append(_point(r, "hold_out_before", fidelity, quantity, trained))
            drawn.append(_point(r, "control_before", fidelity, quantity, trained))
            trained = r.trained_on.get(fidelity, 0) > 0
            held.append(_point(r, "hold_out", fidelity, quantity, trained))
        sets: dict[Set, list[Point | None]] = {"hold_out": held, "random": drawn}
        for key, points in sets.items():
            if known := [point for point in points if point is not None]:
                found.append(Line(fidelity, key, known))
    return found


WHEN = {
    "hold_out_before": "hold-out, before the first round",
    "hold_out": "hold-out, after training",
    "control_before": "random frames, before training on them",
}


def _point(
    r: Round,
    key: Literal["hold_out", "hold_out_before", "control_before"],
    fidelity: Fidelity,
    quantity: str,
    trained: bool,
) -> Point | None:
    errors = r.errors.get(key, {}).get(fidelity)
    if errors is None or (value := getattr(errors, quantity)) is None or (quantity == "energy" and not trained):
        return None
    return Point(r.round - (key == "hold_out_before"), value, errors.frames, WHEN[key])


def panel(rounds: Sequence[Round], quantity: str) -> Plot | None:
    """The figure of one quantity; None where no error of it is known. The panels share one legend, beside them."""
    drawn, about = lines(rounds, quantity), QUANTITIES[quantity]
    if not drawn:
        return None
    figure = blank(height=240)
    for line in drawn:
        colour, held = FIDELITY_COLOURS[line.fidelity], line.set == "hold_out"
        figure.add_scatter(
            x=[point.round for point in line.points],
            y=[point.error for point in line.points],
            name=line.name,
            showlegend=False,
            mode="lines+markers",
            line={"color": colour, "width": 2 if held else 1, "dash": "solid" if held else "dot"},
            marker={
                "size": 8,
                "color": colour,
                "symbol": "circle" if held else "circle-open",
                "line": {"width": 0 if held else 2, "color": colour},
            },
            hovertext=[
                f"<b>{point.error:.3g} {about.error}</b>, {point.n}<br>{WORDS[line.fidelity]}: {point.when}"
                for point in line.points
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            cliponaxis=False,
        )
    rounds_axis(figure, rounds, start=any(line.points[0].round < rounds[0].round for line in drawn))
    figure.update_yaxes(nticks=6, **scaled(point.error for line in drawn for point in line.points))
    told = "; ".join(
        f"{line.name}: " + ", ".join(f"{_round(point, rounds)} {number(point.error)}" for point in line.points[-6:])
        for line in drawn
    )
    alt = f"Line chart, mean absolute error by round, {about.title.lower()}, {about.error}. {told}"
    return Plot(f"errors-{quantity}", figure, alt, f"{about.title}, MAE in {about.error}")


def _round(point: Point, rounds: Sequence[Round]) -> str:
    return "before" if point.round < rounds[0].round else f"round {point.round}"


def numbers(rounds: Sequence[Round]) -> dict[str, Any]:
    """All that the panels show."""
    return {
        about.key.format("mae"): [
            {
                "fidelity": line.fidelity,
                "set": line.set,
                "rounds": [point.round for point in line.points],
                "errors": [point.error for point in line.points],
                "frames": [point.frames for point in line.points],
            }
            for line in lines(rounds, quantity)
        ]
        for quantity, about in QUANTITIES.items()
    }

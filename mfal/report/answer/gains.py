"""What choosing saved: measured against random frames, and estimated against labelling everything."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import plotly.graph_objects as go

from mfal.acquire.exhaustive import Exhaustive, exhaustive
from mfal.acquire.saving import Saving
from mfal.report.material import Material
from mfal.report.points import marks
from mfal.report.standalone import Plot, hours
from mfal.report.style import blank

#: The axis reaches at least so far to either side of 1, as a factor.
REACH = 2.5
COLOUR = "var(--control)"  # random frames are what it is measured with


class Gain(NamedTuple):
    """One saving and what it is over."""

    name: str
    found: Saving | None

    @property
    def verdict(self) -> str:
        """What it proves, in a word."""
        if self.found is None:
            return "not measured yet"
        if self.found.low is None:
            return "too few frames to tell"
        return "significant" if self.found.significant else "not yet significant"


def gains(material: Material) -> dict[str, Gain]:
    known = material.experience
    return {
        "random": Gain("Over random frames", known.saving),
        "all_magnetic": Gain("Over random frames, magnetic alone", known.saving_all_magnetic),
    }


def figure(found: dict[str, Gain]) -> Plot | None:
    """A dot and its interval for each gain that is measured, on a logarithmic axis about 1."""
    known = [(gain, gain.found) for gain in found.values() if gain.found is not None and gain.found.ratio > 0]
    if not known:
        return None
    ends = [x for _, s in known for x in (s.ratio, s.low, s.high) if x]
    low, high = min(1 / REACH, 0.7 * min(ends)), max(REACH, max(ends) / 0.7)
    drawn = blank(height=60 + 80 * len(known))
    drawn.add_shape(type="line", x0=1, x1=1, yref="paper", y0=0, y1=1, line={"color": "var(--soft)", "width": 1})
    for row, (gain, saving) in enumerate(reversed(known)):
        if saving.low is not None:
            _interval(drawn, row, saving, low, high)
        drawn.add_scatter(
            x=[saving.ratio],
            y=[row],
            name=gain.name,
            showlegend=False,
            mode="markers",
            marker={
                "size": 11,
                "color": COLOUR,
                "symbol": "circle" if saving.significant else "circle-open",
                "line": {"width": 0 if saving.significant else 2, "color": COLOUR},
            },
            hovertext=[f"{saving.chosen} chosen and {saving.drawn} random frames"],
            hovertemplate=f"<b>{interval(saving)}</b>, {gain.verdict}<br>%{{hovertext}}<extra></extra>",
        )
        drawn.add_annotation(
            text=f"{gain.name}<br><b>{interval(saving)}</b>, {gain.verdict}",
            xref="paper",
            x=0,
            xanchor="left",
            align="left",
            y=row + 0.2,
            yanchor="bottom",
            showarrow=False,
        )
    drawn.update_xaxes(
        title_text="times the error found per core-hour; 1: no gain",
        type="log",
        range=[math.log10(low), math.log10(high)],
        showgrid=True,
        **marks(low, high),
    )
    drawn.update_yaxes(visible=False, range=[-0.35, len(known) - 0.2])
    told = "; ".join(f"{gain.name}: {interval(saving)}, {gain.verdict}" for gain, saving in known)
    return Plot("saving", drawn, f"Gains with their 95 % intervals on a logarithmic axis; 1 is no gain. {told}")


def interval(saving: Saving) -> str:
    """`1.4 (0.59 to 2.8)`, of the ratio and its 95% interval."""
    ratio = _factor(saving.ratio)
    if saving.low is None:
        return ratio
    return f"{ratio} ({_factor(saving.low)} {f'to {_factor(saving.high)}' if saving.high is not None else 'or more'})"


def _factor(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def _interval(drawn: go.Figure, row: int, saving: Saving, low: float, high: float) -> None:
    """A line, with an arrow at an end that is open."""
    open_ends = not saving.low, saving.high is None
    drawn.add_scatter(
        x=[saving.low or low, high if saving.high is None else saving.high],
        y=[row, row],
        showlegend=False,
        mode="lines+markers",
        line={"color": COLOUR, "width": 2},
        marker={
            "symbol": [
                "triangle-left" if open_ends[0] else "line-ns-open",
                "triangle-right" if open_ends[1] else "line-ns-open",
            ],
            "size": 11,
            "color": COLOUR,
            "line": {"width": 2},
        },
        hoverinfo="skip",
        cliponaxis=False,
    )


def everything(material: Material) -> Exhaustive | None:
    """What labelling all frames that the campaign scored would cost."""
    return exhaustive(material.experience.calculations, sum(sum(r.decisions.values()) for r in material.rounds))


def estimate(found: Exhaustive, spent: float) -> str:
    """The estimate in words, with what it is not."""
    between = "" if found.low is None else f" (95%: {hours(found.low)} {_upper(found)})"
    return (
        f"Labelling all {found.frames} frames that the campaign looked at magnetically would cost about"
        f" {hours(found.core_hours)} core-hours{between}; the campaign has spent {hours(spent)}. This is an estimate,"
        f" not a measurement: the number of frames times {hours(found.per_label)} core-hours, the cost of a good label"
        f" over {found.calculations} magnetic {'calculation' if found.calculations == 1 else 'calculations'}, failures"
        " included. And it is not the same information: who labels everything knows more in the end."
    )


def _upper(found: Exhaustive) -> str:
    return "or more" if found.high is None else f"to {hours(found.high)}"


def numbers(material: Material) -> dict[str, Any]:
    found = everything(material)
    return {
        "over": {
            key: {"verdict": gain.verdict} | (gain.found.model_dump() if gain.found else {})
            for key, gain in gains(material).items()
        },
        "all_frames_magnetic_estimate": found
        and {
            "frames": found.frames,
            "core_hours": found.core_hours,
            "low_core_hours": found.low,
            "high_core_hours": found.high,
            "magnetic_calculations": found.calculations,
            "core_hours_per_good_label": found.per_label,
        },
    }

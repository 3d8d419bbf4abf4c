"""Where the core-hours went: by round, and by what became of the calculations."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from mfal.frames import FIDELITIES, WORDS, Label, Round
from mfal.report.outcomes import ENDINGS, totals
from mfal.report.standalone import Plot, hours
from mfal.report.style import FIDELITY_COLOURS, blank, rounds_axis

HEIGHT = 300
#: Sums of core-hours that differ by less, relative to the larger one, are the same.
ROUNDING = 1e-6


def by_round(rounds: Sequence[Round]) -> Plot | None:
    """Stacked by fidelity."""
    if not any(r.core_hours for r in rounds):
        return None
    figure = blank(height=HEIGHT, barmode="stack", bargap=0.35)
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
    told = ", ".join(f"round {r.round}: {hours(sum(r.core_hours.values()))}" for r in rounds[-6:])
    return Plot("cost", figure, f"Stacked bars of core-hours by round and fidelity. {told}", "By round")


def by_ending(labels: Sequence[Label]) -> Plot | None:
    """Stacked by fidelity, one bar for each way in which calculations ended."""
    found = totals(labels)
    if not any(total.core_hours for total in found.values()):
        return None
    ends = [key for key in ENDINGS if any((fidelity, key) in found for fidelity in FIDELITIES)]
    figure = blank(height=HEIGHT, barmode="stack", bargap=0.35)
    for fidelity in FIDELITIES:
        own = {key: found[fidelity, key] for key in ends if (fidelity, key) in found}
        if not own:
            continue
        figure.add_bar(
            x=[total.core_hours for total in own.values()],
            y=[ENDINGS[key] for key in own],
            orientation="h",
            name=WORDS[fidelity],
            width=min(0.5, 0.15 * len(ends)),
            marker={"color": FIDELITY_COLOURS[fidelity], "line": {"width": 0}},
            hovertext=[_attempts(total.attempts) for total in own.values()],
            hovertemplate="<b>%{x:,.3~g} core-hours</b><br>%{hovertext}, %{y}, " + WORDS[fidelity] + "<extra></extra>",
        )
    sums = {key: sum(total.core_hours for (_, end), total in found.items() if end == key) for key in ends}
    _at_the_ends(figure, {ENDINGS[key]: value for key, value in sums.items()})
    told = "; ".join(
        f"{ENDINGS[key]}, {WORDS[fidelity]}: {hours(total.core_hours)} in {_attempts(total.attempts)}"
        for (fidelity, key), total in sorted(found.items(), key=lambda item: ends.index(item[0][1]))
    )
    return Plot("spent", figure, f"Bars of core-hours by how calculations ended and fidelity. {told}", "By outcome")


def _at_the_ends(figure: go.Figure, sums: dict[str, float]) -> None:
    """The names and the sums, in words."""
    whole = sum(sums.values())
    for name, value in sums.items():
        text = f"{hours(value)} ({100 * value / whole:.0f} %)"
        figure.add_annotation(x=value, y=name, text=text, xanchor="left", xshift=4, showarrow=False)
    figure.update_xaxes(title_text="core-hours", range=[0, 1.7 * max(sums.values())], showgrid=True, nticks=5)
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(sums)), showgrid=False)


def difference(rounds: Sequence[Round], labels: Sequence[Label]) -> str:
    """Empty where the labels cost what the rounds have booked; else a sentence on what is missing where."""
    booked, known = sum(sum(r.core_hours.values()) for r in rounds), sum(label.core_hours for label in labels)
    if abs(booked - known) <= ROUNDING * max(booked, known):
        return ""
    told = f"The calculations of the present settings add up to {hours(known)} core-hours, and the rounds have booked "
    if known < booked:
        return f"{told}{hours(booked)}: the rest went into calculations of other settings, or that the store has lost."
    return (
        f"{told}{hours(booked)}: the rest belongs to calculations that no round has counted yet, as they came in late,"
        " or that another campaign made of the same frames."
    )


def _attempts(count: int) -> str:
    return f"{count} {'attempt' if count == 1 else 'attempts'}"

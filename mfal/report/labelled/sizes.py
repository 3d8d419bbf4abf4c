"""What a calculation costs, by the size of its cell, beside what the campaign expects it to cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mfal.acquire.cost import Calculation, CostModel
from mfal.frames import FIDELITIES, WORDS, Fidelity, Frame, Label
from mfal.report.outcomes import ENDINGS, SYMBOLS, Ending, ending
from mfal.report.points import scaled, spread, thinned
from mfal.report.standalone import Plot, hours
from mfal.report.style import FIDELITY_COLOURS, blank
from mfal.report.text import escaped, formula

#: How wide the points of a size are spread, as a share of it.
ASIDE = 0.08
#: Sizes that differ by a smaller factor do not both have their number at the axis.
APART = 1.12


class Cost(NamedTuple):
    frame: Frame
    fidelity: Fidelity
    ending: Ending
    core_hours: float  # of all attempts
    attempts: int

    @property
    def atoms(self) -> int:
        return len(self.frame.structure)


def costs(labels: Sequence[Label], frames: Mapping[str, Frame]) -> list[Cost]:
    """What each calculation took with all its attempts, and how the last of them ended."""
    found: dict[tuple[str, Fidelity], list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: label.attempt):
        if label.frame_id in frames:
            found[label.frame_id, label.fidelity].append(label)
    return [
        Cost(frames[i], fidelity, ending(tries[-1]), sum(label.core_hours for label in tries), len(tries))
        for (i, fidelity), tries in found.items()
    ]


def expected(known: Sequence[Cost], calculations: Sequence[Calculation]) -> dict[Fidelity, dict[int, float]]:
    """Core-hours of a calculation by its number of atoms, good or not: the mean over the calculated cells of that
    size."""
    model = CostModel.fit(calculations)
    found: dict[Fidelity, dict[int, list[float]]] = {fidelity: defaultdict(list) for fidelity in FIDELITIES}
    for cost in known:
        found[cost.fidelity][cost.atoms].append(model.core_hours(cost.fidelity, cost.frame.structure))
    return {
        fidelity: {atoms: float(np.mean(values)) for atoms, values in sorted(sizes.items())}
        for fidelity, sizes in found.items()
        if sizes and any(c.fidelity == fidelity for c in calculations)
    }


def by_size(known: Sequence[Cost], calculations: Sequence[Calculation]) -> Plot | None:
    """The figure; None where nothing has cost anything."""
    known = [cost for cost in known if cost.core_hours > 0]
    if not known:
        return None
    figure = blank(height=340)
    lines = expected(known, calculations)
    for fidelity, line in lines.items():
        figure.add_scatter(
            x=list(line),
            y=list(line.values()),
            showlegend=False,
            mode="lines+markers" if len(line) == 1 else "lines",
            marker={"symbol": "line-ew-open", "size": 24, "color": FIDELITY_COLOURS[fidelity]},
            line={"color": FIDELITY_COLOURS[fidelity], "width": 1},
            hovertemplate=f"expected: <b>%{{y:.3~g}} core-hours</b><br>%{{x}} atoms, {WORDS[fidelity]}<extra></extra>",
        )
    for fidelity in FIDELITIES:
        for key, word in ENDINGS.items():
            own = [cost for cost in known if cost.fidelity == fidelity and cost.ending == key]
            if not own:
                continue
            drawn = thinned(own)
            figure.add_scatter(
                x=[
                    round(cost.atoms * (1 + ASIDE * aside), 2)
                    for cost, aside in zip(drawn, spread(len(drawn)), strict=True)
                ],
                y=[float(f"{cost.core_hours:.3g}") for cost in drawn],
                name=f"{WORDS[fidelity]}, {word} ({len(own)})",
                mode="markers",
                marker={
                    "size": 8,
                    "color": FIDELITY_COLOURS[fidelity],
                    "symbol": SYMBOLS[key],
                    "line": {"width": 2 if SYMBOLS[key].endswith("-open") else 0},
                },
                opacity=0.8,
                hovertext=[
                    f"{escaped(cost.frame.frame_id)}  {escaped(formula(cost.frame))}, {cost.atoms} atoms"
                    + (f"<br>{cost.attempts} attempts" if cost.attempts > 1 else "")
                    for cost in drawn
                ],
                hovertemplate="<b>%{y:.3~g} core-hours</b>, "
                f"{WORDS[fidelity]}, {word}<br>%{{hovertext}}<extra></extra>",
            )
    figure.update_xaxes(title_text="atoms", showgrid=True, **_sizes(sorted({cost.atoms for cost in known})))
    figure.update_yaxes(title_text="core-hours", **scaled(cost.core_hours for cost in known))
    told = "; ".join(
        f"{WORDS[fidelity]}: " + ", ".join(f"{atoms} atoms {hours(value)}" for atoms, value in line.items())
        for fidelity, line in lines.items()
    )
    alt = f"Scatter of core-hours of calculations by number of atoms. Expected, {told or 'nothing yet'}"
    return Plot("sizes", figure, alt)


def _sizes(sizes: Sequence[int]) -> dict:
    """The axis, logarithmic as the cost is a power of the size, with the sizes that occur."""
    named: list[int] = []
    for size in sizes:
        if not named or size >= APART * named[-1]:
            named.append(size)
    ends = [math.log10(sizes[0] / 1.2), math.log10(1.2 * sizes[-1])]
    return {"type": "log", "range": ends, "tickvals": named, "ticktext": [str(size) for size in named]}

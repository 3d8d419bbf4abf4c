"""The magnetic states of the labels: what moment each ion has, beside what its valences would have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from mfal.dft.magnetism import MAGNETIC_ELEMENTS
from mfal.dft.valence import MOMENTS
from mfal.frames import Frame, Label
from mfal.report.outcomes import ENDINGS, SYMBOLS, WRONG, Ending, ending
from mfal.report.points import spread, thinned
from mfal.report.standalone import Plot
from mfal.report.style import blank
from mfal.report.text import escaped

SUPERSCRIPTS = str.maketrans("1234", "¹²³⁴")
#: µB to either side of a valence's moment: what it spreads by from cell to cell. No two bands of an element overlap.
BAND = 0.2
#: More points than this of a kind are drawn small.
MANY = 200
#: Of an ion that is in no band.
BETWEEN = "in no band"


class Ion(NamedTuple):
    element: str
    moment: float  # µB, absolute
    label: Label
    site: int

    @property
    def band(self) -> str:
        """The valence whose band it is in."""
        for name, size in bands(self.element).items():
            if abs(self.moment - size) <= BAND:
                return name
        return BETWEEN


def bands(element: str) -> dict[str, float]:
    """|m| (µB) that a good label is expected to show, by ion: `Fe²⁺`."""
    return {
        f"{element}{valence}⁺".translate(SUPERSCRIPTS): size
        for valence, size in sorted(MOMENTS.get(element, {}).items())
    }


def ions(labels: Sequence[Label], frames: Mapping[str, Frame]) -> list[Ion]:
    """Every magnetic ion of the magnetic labels that have moments."""
    found = []
    for label in labels:
        frame = frames.get(label.frame_id)
        if label.fidelity != "magnetic" or label.magmoms is None or frame is None:
            continue
        if len(label.magmoms) != len(frame.structure):
            continue  # not this frame's sites: no telling which moment is whose
        for i, (site, moment) in enumerate(zip(frame.structure, label.magmoms, strict=True)):
            if site.specie.symbol in MAGNETIC_ELEMENTS:
                found.append(Ion(site.specie.symbol, abs(moment), label, i))
    return found


def counts(found: Sequence[Ion]) -> dict[str, dict[Ending, dict[str, int]]]:
    """How many ions are in which band, by element and by how their label ended; bands without an ion count 0."""
    table: dict[str, dict[Ending, dict[str, int]]] = {}
    for element in MAGNETIC_ELEMENTS:
        for key in ENDINGS:
            own = Counter(ion.band for ion in found if ion.element == element and ending(ion.label) == key)
            if own:
                table.setdefault(element, {})[key] = {band: own[band] for band in (*bands(element), BETWEEN)}
    return table


def moments(found: Sequence[Ion]) -> Plot | None:
    """The figure, one row an element; None without ions."""
    if not found:
        return None
    elements = [element for element in MAGNETIC_ELEMENTS if any(ion.element == element for ion in found)]
    rows = {element: row for row, element in enumerate(reversed(elements))}
    figure = blank(height=120 + 110 * len(elements))
    for element, row in rows.items():
        _bands(figure, element, row)
    # good labels above the others, so that neither hides the other
    mixed = any(not ion.label.good for ion in found)
    upper, lower = (0.16, 0.3) if mixed else (0.0, 0.6), (-0.19, 0.28)
    for element in elements:
        good = [ion for ion in found if ion.element == element and ending(ion.label) == "ok"]
        colour = f"var(--{element.lower()})" if element in ("Mn", "Fe") else "var(--soft)"
        _points(figure, f"{element}, good labels ({_ions(good)})", good, rows, upper, colour, "ok")
    for key, word in ENDINGS.items():
        bad = [ion for ion in found if key != "ok" and ending(ion.label) == key]
        colour = "var(--bad)" if key in WRONG else "var(--soft)"
        _points(figure, f"{word} ({_ions(bad)})", bad, rows, lower, colour, key)
    widest = max(5.0, *(ion.moment for ion in found))
    figure.update_xaxes(title_text="|m| (µB)", range=[-0.1, widest + 0.2], showgrid=True)
    figure.update_yaxes(
        range=[-0.6, len(elements) - 0.35], showgrid=False, tickvals=list(rows.values()), ticktext=list(rows)
    )
    alt = "Strip chart of absolute magnetic moments by element. " + " ".join(sentences(found))
    return Plot("moments", figure, alt)


def sentences(found: Sequence[Ion]) -> list[str]:
    """`Fe in good labels: 12 Fe²⁺, 9 Fe³⁺, 3 in no band.`, one for each element and way in which labels ended."""
    return [
        f"{element} in {'good labels' if key == 'ok' else f'labels of the outcome “{ENDINGS[key]}”'}: "
        + ", ".join(f"{n} {band}" for band, n in own.items() if n)
        + "."
        for element, by_ending in counts(found).items()
        for key, own in by_ending.items()
    ]


def numbers(found: Sequence[Ion]) -> dict[str, Any]:
    return {
        "expected_mu_b": {element: bands(element) for element in counts(found)},
        "band_half_width_mu_b": BAND,
        "ions": counts(found),
    }


def _bands(figure: go.Figure, element: str, row: int) -> None:
    expected = bands(element)
    for name, size in expected.items():
        figure.add_shape(
            type="rect",
            layer="below",
            fillcolor="var(--band)",
            line={"width": 0},
            x0=size - BAND,
            x1=size + BAND,
            y0=row - 0.36,
            y1=row + 0.36,
        )
        figure.add_annotation(text=name, x=size, y=row + 0.36, yanchor="bottom", showarrow=False)


def _points(
    figure: go.Figure,
    name: str,
    chosen: Sequence[Ion],
    rows: Mapping[str, int],
    lane: tuple[float, float],
    colour: str,
    key: Ending,
) -> None:
    """Of one kind; the lane is where in its row it is drawn, and how wide it is."""
    if not chosen:
        return
    drawn = thinned(chosen)
    figure.add_scatter(
        x=[round(ion.moment, 3) for ion in drawn],
        y=[
            round(rows[ion.element] + lane[0] + lane[1] * aside, 3)
            for ion, aside in zip(drawn, spread(len(drawn)), strict=True)
        ],
        name=name,
        mode="markers",
        marker={
            "size": 8 if len(drawn) <= MANY else 5,
            "color": colour,
            "symbol": SYMBOLS[key],
            "line": {"width": 2 if SYMBOLS[key].endswith("-open") else 0},
        },
        opacity=0.75,
        hovertext=[f"{ion.element} (site {ion.site}), {ion.band}<br>{escaped(ion.label.frame_id)}" for ion in drawn],
        hovertemplate=f"<b>%{{x:.2f}} µB</b>, %{{hovertext}}, {ENDINGS[key]}<extra></extra>",
    )


def _ions(found: Sequence[Ion]) -> str:
    return f"{len(found)} {'ion' if len(found) == 1 else 'ions'}"

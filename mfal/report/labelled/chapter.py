"""The chapter on the labels: how the models reproduce them, their magnetic states, and what became of calculations."""

from __future__ import annotations

from typing import Any

from mfal.frames import FIDELITIES, WORDS
from mfal.report.labelled import moments, sizes
from mfal.report.material import Chapter, Material
from mfal.report.outcomes import ENDINGS, Reason, judged, reasons, tally
from mfal.report.parity_plots import QUANTITIES, SETS, errors, parity_plot
from mfal.report.points import MOST_POINTS

#: More wordings of reasons than this are not listed.
MOST_REASONS = 20


def chapter(material: Material) -> Chapter:
    labels = judged(material)
    outcomes, lost = tally(material, labels), reasons(labels)
    ions = moments.ions(labels, material.frames)
    costs = sizes.costs(labels, material.frames)
    parities = [
        plot
        for quantity in QUANTITIES
        for fidelity in FIDELITIES
        if (plot := parity_plot(f"parity-{quantity}-{fidelity}", material.parity, fidelity, quantity))
    ]
    plots = [*parities, moments.moments(ions), sizes.by_size(costs, material.experience.calculations)]
    return Chapter(
        plots=[plot for plot in plots if plot],
        content={
            "panels": [plot.name for plot in parities],
            "most_points": MOST_POINTS,
            "untrained": [
                fidelity
                for fidelity in FIDELITIES
                if f"parity-energy-{fidelity}" in (plot.name for plot in parities)
                and not material.last.trained_on.get(fidelity)
            ],
            "ions": moments.sentences(ions),
            "band": moments.BAND,
            "expected": {element: moments.bands(element) for element in moments.counts(ions)},
            "endings": ENDINGS,
            "tally": outcomes,
            "held": any(of_all for (_, key), (_, of_all) in outcomes.items() if key == "held_back"),
            "reasons": lost[:MOST_REASONS],
            "rest": lost[MOST_REASONS:],
            "fidelities": WORDS,
        },
        numbers={
            "parity": _parity(material),
            "moments": moments.numbers(ions),
            "outcomes": [
                {"fidelity": fidelity, "outcome": key, "calculations_of_round": of_last, "calculations": of_all}
                for (fidelity, key), (of_last, of_all) in outcomes.items()
            ],
            "reasons": [_reason(reason) for reason in lost],
            "expected_core_hours_by_atoms": {
                fidelity: {str(atoms): value for atoms, value in line.items()}
                for fidelity, line in sizes.expected(costs, material.experience.calculations).items()
            },
        },
    )


def _parity(material: Material) -> list[dict[str, Any]]:
    found = []
    for quantity in QUANTITIES:
        for fidelity in FIDELITIES:
            for key in SETS:
                rows = [row for row in material.parity if row.get("set") == key and row["fidelity"] == fidelity]
                if rows := [row for row in rows if row[quantity] is not None]:
                    found.append({"fidelity": fidelity, "set": key} | errors(rows, fidelity, quantity))
    return found


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "fidelity": reason.fidelity,
        "outcome": reason.ending,
        "reason": reason.words,
        "attempts": reason.attempts,
        "core_hours": reason.core_hours,
    }

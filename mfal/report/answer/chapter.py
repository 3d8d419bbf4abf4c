"""The first chapter: how good the model is, what it cost, what choosing saved, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mfal.frames import FIDELITIES, WORDS, Errors, Fidelity, Round
from mfal.report.answer import gains, learning, next_step, spent
from mfal.report.material import Chapter, Material
from mfal.report.outcomes import Ending, judged, tally, totals
from mfal.report.parity_plots import QUANTITIES
from mfal.report.style import FIDELITY_COLOURS
from mfal.report.text import decided

#: With fewer frames than this behind an error, the page says how little that proves.
FEW = 30


def chapter(material: Material) -> Chapter:
    rounds, labels, found = material.rounds, judged(material), gains.gains(material)
    panels = [plot for quantity in QUANTITIES if (plot := learning.panel(rounds, quantity))]
    costs = [plot for plot in (spent.by_round(rounds), spent.by_ending(labels)) if plot]
    saved = gains.figure(found)
    total = sum(sum(r.core_hours.values()) for r in rounds)
    estimate = gains.everything(material)
    top = headline(rounds, tally(material, labels))
    return Chapter(
        plots=[*panels, *costs, *([saved] if saved else [])],
        content={
            "campaign": material.campaign,
            "rounds": rounds,
            "last": material.last,
            "numbers": top,
            "few": FEW,
            "panels": [plot.name for plot in panels],
            "panel_legend": _legend(rounds),
            "costs": [plot.name for plot in costs],
            "difference": spent.difference(rounds, labels),
            "gains": found,
            "estimate": gains.estimate(estimate, total) if estimate else "",
            "grounds": next_step.grounds(material),
            "fidelities": WORDS,
        },
        numbers={
            "errors": learning.numbers(rounds),
            "good_labels": {f: good for f, (good, _) in top["labels"].items()},
            "labels": {f: every for f, (_, every) in top["labels"].items()},
            "core_hours": {
                "by_round": [{"round": r.round} | dict(r.core_hours) for r in rounds],
                "by_outcome": [
                    {"fidelity": f, "outcome": end, "attempts": of.attempts, "core_hours": of.core_hours}
                    for (f, end), of in totals(labels).items()
                ],
                "booked_by_rounds": total,
                "of_labels": sum(label.core_hours for label in labels),
            },
            "frames_not_calculated": {"round": top["skipped"], "of": top["scored"]},
            "saving": gains.numbers(material),
            "next": next_step.numbers(material),
        },
    )


def _legend(rounds: Sequence[Round]) -> list[tuple[str, str, str]]:
    """(name, colour, shape) of what the panels of errors draw: one legend for all of them."""
    drawn = {line.name: line for quantity in QUANTITIES for line in learning.lines(rounds, quantity)}
    return [
        (name, FIDELITY_COLOURS[line.fidelity], "circle" if line.set == "hold_out" else "circle-open")
        for name, line in drawn.items()
    ]


def headline(rounds: list[Round], outcomes: dict[tuple[Fidelity, Ending], tuple[int, int]]) -> dict[str, Any]:
    """The few numbers on top of the page: of the whole campaign, and of its last round.

    Args:
        outcomes: how many calculations of the last round and of all rounds ended how.
    """
    last = rounds[-1]

    def good(fidelity: Fidelity, place: int) -> tuple[int, int]:
        """(good, all)"""
        of_fidelity = {key: count[place] for (f, key), count in outcomes.items() if f == fidelity}
        return of_fidelity["ok"], sum(of_fidelity.values())

    return {
        "labels": {f: good(f, 1) for f in FIDELITIES},
        "labels_last": {f: good(f, 0) for f in FIDELITIES},
        "core_hours": {f: sum(r.core_hours.get(f, 0.0) for r in rounds) for f in FIDELITIES},
        "hold_out": last.errors.get("hold_out", {}).get("magnetic", Errors()),
        "before": last.errors.get("hold_out_before", {}).get("magnetic", Errors()),
        "skipped": last.decisions.get("skip", 0),
        "scored": sum(last.decisions.values()),
        "skipped_all": sum(r.decisions.get("skip", 0) for r in rounds),
        "scored_all": sum(sum(r.decisions.values()) for r in rounds),
        "decided": decided({d: n for d, n in last.decisions.items() if d != "skip"}),
        "trained_on": {f: last.trained_on.get(f, 0) for f in FIDELITIES},
    }

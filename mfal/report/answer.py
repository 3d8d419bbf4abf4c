"""The first chapter: how good the model is, what it cost, what choosing saved, and what comes next."""

from __future__ import annotations

from typing import Any, get_args

from mfal.frames import FIDELITIES, WORDS, Errors, Fidelity, Round, Status
from mfal.report import figures
from mfal.report.material import Chapter, Material
from mfal.report.standalone import Plot, hours, number
from mfal.report.text import decided

#: With fewer frames than this behind an error, the page says how little that proves.
FEW = 30


def chapter(material: Material) -> Chapter:
    rounds, last = material.rounds, material.last
    numbers = ", ".join(f"round {r.round}: {hours(sum(r.core_hours.values()))}" for r in rounds[-6:])
    errors = [(r.round, r.errors.get("hold_out", {}).get("magnetic", Errors()).forces) for r in rounds[-6:]]
    candidates = [
        (
            "errors",
            figures.errors_by_round(rounds),
            "Line chart of force errors by round. Magnetic, hold-out, meV/Å: "
            + ", ".join(f"round {n}: {number(e)}" for n, e in errors),
        ),
        ("cost", figures.core_hours(rounds), f"Stacked bars of core-hours by round and fidelity. {numbers}"),
    ]
    asked = {score.frame_id for score in material.scored} or material.frames.keys()
    return Chapter(
        plots=[Plot(name, figure, alt) for name, figure, alt in candidates if figure is not None],
        content={
            "campaign": material.campaign,
            "rounds": rounds,
            "last": last,
            "numbers": headline(rounds),
            "few": FEW,
            "unused": [label for i in asked for label in material.attempts[i] if not label.good],
            "statuses": get_args(Status),
            "tally": {
                (f, s): (last.counts.get(f, {}).get(s, 0), _count(rounds, f, s))
                for f in FIDELITIES
                for s in get_args(Status)
            },
            "fidelities": WORDS,
        },
    )


def headline(rounds: list[Round]) -> dict[str, Any]:
    """The few numbers on top of the page: of the whole campaign, and of its last round."""
    last = rounds[-1]
    return {
        "labels": {f: _good(rounds, f) for f in FIDELITIES},
        "labels_last": {f: _good([last], f) for f in FIDELITIES},
        "core_hours": {f: sum(r.core_hours.get(f, 0.0) for r in rounds) for f in FIDELITIES},
        "core_hours_last": sum(last.core_hours.values()),
        "hold_out": last.errors.get("hold_out", {}).get("magnetic", Errors()),
        "before": last.errors.get("hold_out_before", {}).get("magnetic", Errors()),
        "skipped": last.decisions.get("skip", 0),
        "scored": sum(last.decisions.values()),
        "skipped_all": sum(r.decisions.get("skip", 0) for r in rounds),
        "scored_all": sum(sum(r.decisions.values()) for r in rounds),
        "decided": decided({d: n for d, n in last.decisions.items() if d != "skip"}),
        "trained_on": {f: last.trained_on.get(f, 0) for f in FIDELITIES},
    }


def _good(rounds: list[Round], fidelity: Fidelity) -> tuple[int, int]:
    """(good, all) labels that these rounds asked for."""
    return _count(rounds, fidelity, "ok"), sum(_count(rounds, fidelity, s) for s in get_args(Status))


def _count(rounds: list[Round], fidelity: Fidelity, status: Status) -> int:
    return sum(r.counts.get(fidelity, {}).get(status, 0) for r in rounds)

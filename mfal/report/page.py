"""The report of a campaign's last round as one HTML page."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from mfal.committee.calibrate import Calibration, Kind
from mfal.frames import FIDELITIES, WORDS, Errors, Fidelity, Frame, Label, Round, Score, Status
from mfal.report import figures, routing, standalone
from mfal.report.standalone import Plot, hours, number
from mfal.report.text import decided, formula

#: With fewer frames than this behind an error, the page says how little that proves.
FEW = 30

#: What each kind of sigma is the uncertainty of.
SIGMAS: dict[Kind, str] = {
    "nonmagnetic": "non-magnetic forces",
    "delta": "what magnetism changes (Δ)",
    "magnetic": "magnetic forces",
    "conditional": "magnetic forces, once the non-magnetic label is known",
}


@dataclass(frozen=True)
class Row:
    """One frame of the round in the table."""

    frame_id: str
    frame: Frame | None
    score: Score | None
    attempts: list[Label]  # every label of the frame, in the order of the attempts

    @property
    def labels(self) -> dict[Fidelity, Label]:
        """The last attempt at each fidelity."""
        return {label.fidelity: label for label in self.attempts}

    @property
    def core_hours(self) -> float:
        return sum(label.core_hours for label in self.attempts)

    @property
    def formula(self) -> str:
        return formula(self.frame)

    @property
    def expected(self) -> float | None:
        """Core-hours that the calculations decided on were expected to cost; None where there are none."""
        score = self.score
        costs = [cost for f, cost in score.core_hours.items() if score.gets(f)] if score else []
        return sum(costs) if costs else None

    @property
    def route(self) -> routing.Route | None:
        return None if self.score is None else routing.ROUTES[routing.route(self.score)]

    def energy(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        if label is None or label.energy is None or self.frame is None:
            return None
        return label.energy / len(self.frame.structure)

    def largest_force(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        return None if label is None or not label.forces else float(np.linalg.norm(label.forces, axis=1).max())


def render(
    *,
    campaign: str,
    rounds: list[Round],
    frames: dict[str, Frame],
    labels: list[Label],
    scores: list[Score],
    parity: list[dict[str, Any]],
) -> str:
    """The report on the last of `rounds`, with all that the campaign did so far behind it.

    Args:
        rounds: every finished round; at least one.
        frames: by frame id; those of the last round, and of the labels whose moments are to be shown.
        labels: every label of the campaign, good or not.
        scores: every score of the campaign, or only those of the last round.
        parity: one item a label that was predicted: frame_id, fidelity, set (`train` or `hold_out`), energy
            [true, predicted] in eV/atom, forces [[true...], [predicted...]] in eV/Å, flattened, magmoms or None.

    Raises:
        ValueError: there is no finished round.
    """
    if not rounds:
        raise ValueError(f"campaign {campaign!r} has no finished round to report on: run `mfal run` first")
    rounds = sorted(rounds, key=lambda r: r.round)
    last = rounds[-1]
    scored = [s for s in scores if s.round == last.round]
    rows = _rows(scored, frames, labels)
    plots = _plots(rounds, scored, frames, labels, parity)
    return standalone.render(
        "page.html.j2",
        plots,
        campaign=campaign,
        rounds=rounds,
        last=last,
        numbers=headline(rounds),
        calibration={
            words: Calibration.model_validate(last.calibration[kind])
            for kind, words in SIGMAS.items()
            if kind in last.calibration
        },
        few=FEW,
        rows=rows,
        unused=[label for row in rows for label in row.attempts if not label.good],
        flagged=last.flagged,
        statuses=get_args(Status),
        tally={
            (f, s): (last.counts.get(f, {}).get(s, 0), _count(rounds, f, s))
            for f in FIDELITIES
            for s in get_args(Status)
        },
        fidelities=WORDS,
        expected=figures.EXPECTED_MOMENTS,
        fingerprints=_fingerprints(labels),
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


def _plots(
    rounds: list[Round],
    scored: list[Score],
    frames: dict[str, Frame],
    labels: list[Label],
    parity: list[dict[str, Any]],
) -> dict[str, Plot]:
    numbers = ", ".join(f"round {r.round}: {hours(sum(r.core_hours.values()))}" for r in rounds[-6:])
    errors = [(r.round, r.errors.get("hold_out", {}).get("magnetic", Errors()).forces) for r in rounds[-6:]]
    candidates = [
        Plot(
            "errors",
            figures.errors_by_round(rounds),
            "Line chart of force errors by round. Magnetic, hold-out, meV/Å: "
            + ", ".join(f"round {n}: {number(e)}" for n, e in errors),
        ),
        Plot("cost", figures.core_hours(rounds), f"Stacked bars of core-hours by round and fidelity. {numbers}"),
        Plot(
            "uncertainty",
            routing.uncertainty(scored, frames, rounds[-1].thresholds, cheap=rounds[-1].cheap),
            "Scatter of the two uncertainties of each frame of the round, non-magnetic against delta. Thresholds: "
            + ", ".join(f"{kind} {number(value)} eV/Å" for kind, value in rounds[-1].thresholds.items())
            + f". Decisions: {decided(rounds[-1].decisions)}",
        ),
        Plot(
            "moments",
            figures.moments(labels, frames),
            "Strip chart of absolute magnetic moments by element in the magnetic labels, over the expected values.",
        ),
    ]
    for quantity in ("forces", "energy"):
        for fidelity in FIDELITIES:
            name = WORDS[fidelity]
            what = "Forces" if quantity == "forces" else "Energies"
            figure = figures.parity(parity, fidelity, quantity)
            legend = "" if figure is None else "; ".join(trace.name for trace in figure.data)
            alt = f"Parity plot of {name} {what.lower()}, model against DFT. {legend}"
            candidates.append(Plot(f"parity-{quantity}-{fidelity}", figure, alt, f"{what}, {name}", square=True))
    return {plot.name: plot for plot in candidates if plot.figure is not None}


def _rows(scored: list[Score], frames: dict[str, Frame], labels: list[Label]) -> list[Row]:
    """The frames of the round; without scores, all that are known."""
    by_id = {s.frame_id: s for s in scored}
    attempts: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: label.attempt):
        attempts[label.frame_id].append(label)
    return [Row(i, frames.get(i), by_id.get(i), attempts[i]) for i in by_id or frames]


def _good(rounds: list[Round], fidelity: Fidelity) -> tuple[int, int]:
    """(good, all) labels that these rounds asked for."""
    return _count(rounds, fidelity, "ok"), sum(_count(rounds, fidelity, s) for s in get_args(Status))


def _count(rounds: list[Round], fidelity: Fidelity, status: Status) -> int:
    return sum(r.counts.get(fidelity, {}).get(status, 0) for r in rounds)


def _fingerprints(labels: list[Label]) -> list[dict[str, Any]]:
    """Each fidelity fingerprint with its settings and how many labels carry it."""
    found: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        found.setdefault((label.fidelity, label.fingerprint), []).append(label)
    return [
        {
            "fidelity": fidelity,
            "fingerprint": fingerprint,
            "labels": len(members),
            "settings": json.dumps(members[0].settings, indent=2, ensure_ascii=False, default=str),
        }
        for (fidelity, fingerprint), members in sorted(found.items(), reverse=True)
    ]
